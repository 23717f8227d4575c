"""The program's frame: help, version, errors, colours."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml

from sqlitecluster import __version__, errors
from sqlitecluster.cli import local, main, node, terminal
from sqlitecluster.config.load import load


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["--help"])

    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "examples:" in text and "sqlitecluster local --nodes 2" in text


@pytest.mark.parametrize(
    "command", ["node", "local", "status", "wait", "import", "export", "cluster-id", "events", "ltx"]
)
def test_every_command_is_there_and_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])

    assert ended.value.code == 0
    assert f"sqlitecluster {command}" in capsys.readouterr().out


def test_without_a_command_the_help_is_printed_and_the_exit_code_says_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--version"])

    assert capsys.readouterr().out == f"sqlitecluster {__version__}\n"


def test_a_deliberate_error_is_one_line_with_its_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main.main(["node", "--config", str(tmp_path / "none.yaml")])

    shown = capsys.readouterr()
    assert code == errors.EXIT_CONFIG
    assert shown.err == f"sqlitecluster: cannot read {tmp_path}/none.yaml: No such file or directory [InvalidConfig]\n"
    assert shown.out == ""


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (errors.StoreLocked("in use"), 4), (errors.NoSpace(), 7)]
)
def test_the_exit_code_follows_from_the_error(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_: object) -> int:
        raise raised

    monkeypatch.setattr(node, "run", fail)

    assert main.main(["node", "--config", str(tmp_path)]) == code


def test_colours_only_where_a_person_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    assert terminal.paint("x", "red", io.StringIO()) == "x"
    assert terminal.paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_declined(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)

    assert terminal.paint("x", "red", Terminal()) == "x"


def test_the_first_local_node_is_the_primary_and_the_others_follow_it(tmp_path: Path) -> None:
    first, second = (load(local.write_config(tmp_path, i, base_port=4000, extra={})) for i in (1, 2))

    assert (first.role, first.listen.peers, first.listen.api) == ("primary", "127.0.0.1:4002", "127.0.0.1:4004")
    assert (second.role, second.primary_url) == ("replica", "http://127.0.0.1:4002")
    assert (second.listen.metrics, second.mount_dir) == ("127.0.0.1:4013", tmp_path / "n2" / "mnt")


def test_a_local_setting_reaches_every_node(tmp_path: Path) -> None:
    path = local.write_config(tmp_path, 1, base_port=4000, extra={"verify": "Off", "resend": False})

    config = load(path)
    assert (config.verify, config.resend) == ("Off", False)
    assert json.loads(json.dumps(yaml.safe_load(path.read_text())))["name"] == "n1"


@pytest.mark.parametrize(
    "arguments", [["--nodes", "0"], ["--nodes", "101"], ["--base-port", "65530"], ["--set", "resend"], ["--set", "x=["]]
)
def test_illegal_arguments_of_local_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["local", "--dir", str(tmp_path), *arguments]) == errors.EXIT_CONFIG
    assert arguments[0] in capsys.readouterr().err
