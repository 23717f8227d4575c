"""Lane ``docs``: what the documentation shows is true.

The console example of the README is run as a reader would type it, and its output
compared; so is the example of operations.md with a lost tail, on nodes whose histories were torn apart;
every `sqlitecluster` command line in the documents must be one that the
program accepts, every `make` target must exist, every YAML example must be a legal
configuration or SQLiteCluster, every relative link must lead somewhere. Counts documents and the example.
``lanes.kube_docs`` types the kubectl lines.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from sqlitecluster.cli.main import build_parser
from sqlitecluster.config import load
from sqlitecluster.errors import ConfigError
from sqlitecluster_operator.api import validate
from support import lane, ports, processes
from support.clients import run_sql
from support.cluster import Cluster
from support.lane import Run

ROOT = processes.root()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")
LIMIT_S = 60.0


def documents() -> list[Path]:
    """All Markdown files of the repository that people read."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("README.md")]
    return sorted(set(found))


def commands(text: str) -> list[str]:
    """The lines after ``$`` in console blocks."""
    blocks = [body for kind, body in BLOCK.findall(text) if kind == "console"]
    return [line[2:].strip() for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def check_command(command: str) -> str | None:
    """What is wrong with a command line, None when it is one of ours and legal, or not ours."""
    if command.startswith("kubectl "):
        return None
    words = shlex.split(re.split(r"\s(?:\||&|>|2>)", command)[0], comments=True)
    if words[:1] == ["make"]:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        missing = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"no target {missing}" if missing else None
    if not words or not words[0].endswith("sqlitecluster"):
        return None
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
            build_parser().parse_args(words[1:])
    except SystemExit as end:
        return errors.getvalue().strip() if end.code else None
    return None


def check_document(path: Path) -> list[str]:
    """Everything wrong in one document."""
    text = path.read_text()
    wrong = [f"`{command}`: {why}" for command in commands(text) if (why := check_command(command))]
    for kind, body in BLOCK.findall(text):
        if kind == "yaml" and (why := _check_yaml(body)):
            wrong.append(f"YAML example: {why}")
    links = LINK.findall(re.sub(r"(?s)```.*?```", "", text))
    return wrong + [f"link to {link} leads nowhere" for link in links if not (path.parent / link).exists()]


def clusters(text: str) -> list[dict[str, object]]:
    """The SQLiteClusters among the YAML examples of a document, whole ones."""
    bodies = [yaml.safe_load(body) for kind, body in BLOCK.findall(text) if kind == "yaml"]
    return [body for body in bodies if isinstance(body, dict) and body.get("kind") == "SQLiteCluster"]


def _check_yaml(body: str) -> str | None:
    document = yaml.safe_load(body)
    if isinstance(document, dict) and document.get("kind") == "SQLiteCluster":
        return "; ".join(str(problem) for problem in validate(document)) or None
    if not isinstance(document, dict) or "dataDir" not in document:
        return None  # an excerpt, or of something else
    try:
        load.parse(document, base=Path("/"))
    except ConfigError as error:
        return error.message
    return None


def steps(block: str) -> list[tuple[str, str]]:
    """(command, expected output) of a console block."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


def run_example(run: Run) -> None:
    """Type the README's example."""
    text = (ROOT / "README.md").read_text()
    block = next(body for kind, body in BLOCK.findall(text) if kind == "console" and "sqlitecluster local " in body)
    folder, base = run.new_folder("example"), ports.take_base()
    program: subprocess.Popen[bytes] | None = None
    try:
        for command, expected in steps(block):
            ours = shlex.join(processes.cli())
            typed = command.replace("/tmp/try", str(folder / "try")).replace(".venv/bin/sqlitecluster", ours)
            if typed.startswith(("make ", "kill ")):
                continue
            if typed.endswith("&"):
                words = [*shlex.split(typed.removesuffix("&")), "--base-port", str(base)]
                program = processes.start(words, log=folder / "log")
                got = _wait_output(folder / "log", expected)
            else:
                got = _type(typed, expected)
            if got != expected:
                run.violation(f"README: `{command}` gave {got!r}, the README says {expected!r}")
                return
    finally:
        if program is not None:
            processes.end(program)
        processes.clear(folder)
        ports.give_back(base)
    run.count()


def run_lost_example(run: Run) -> None:
    """Type what operations.md does with a tail in lost+found."""
    text = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(r"^```\n(\$ sqlitecluster lost list.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None, "operations.md has no example of a lost tail any more"
    folder = run.new_folder("lost")
    with run.cluster("lost-example") as cluster:
        _tear_apart(cluster, folder)
        wanted = processes.wait_until(lambda: "TailKept" in str(cluster.replica.info()), limit_s=LIMIT_S)
        assert wanted, "no tail was kept; the example shows nothing"
        known = {"/var/lib/sqlitecluster": str(cluster.replica.data)}
        for command, expected in steps(found[1]):
            typed = re.sub(r"^sqlitecluster ", shlex.join(processes.cli()) + " ", command)
            for shown, real in known.items():
                typed = typed.replace(shown, real)
            done = subprocess.run(
                ["bash", "-c", typed], cwd=folder, capture_output=True, text=True, env=processes.environment()
            )
            got = done.stdout + done.stderr
            if done.returncode or (expected and _shape(got) != _shape(expected)):
                run.violation(f"operations.md: `{command}` gave {got!r}, the page says {expected!r}")
                return
            if " lost list" in command:
                known[expected.splitlines()[1].split()[0]] = got.splitlines()[1].split()[0]
    run.count()


def _tear_apart(cluster: Cluster, folder: Path) -> None:
    """Give the replica transactions that the primary never had: the primary is set back and goes on alone."""
    database = cluster.primary.mount / "app.db"
    run_sql(database, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)", journal="WAL")
    for n in range(7):
        run_sql(database, f"INSERT INTO t(v) VALUES('both {n}')")
    cluster.wait_synced("app.db")
    assert cluster.primary.stop()
    shutil.copytree(cluster.primary.data, folder / "before")
    cluster.primary.start()
    run_sql(database, "INSERT INTO t(v) VALUES('alone')")
    cluster.wait_synced("app.db")
    assert cluster.replica.stop()
    assert cluster.primary.stop()
    shutil.rmtree(cluster.primary.data)
    shutil.copytree(folder / "before", cluster.primary.data)
    cluster.primary.start()
    run_sql(database, "INSERT INTO t(v) VALUES('another')")
    cluster.replica.start()


def _shape(text: str) -> str:
    """A text without what differs each time: moments, sizes, checksums, blanks between columns."""
    text = re.sub(r"\d{8}T\d{6}\S*|\d{4}-\d\d-\d\dT[\d:]+Z", "T", text)
    text = re.sub(r"[0-9a-f]{16}", "X", re.sub(r"[\d.]+ (?:B|[KMGT]iB)|\d+ files", "N", text))
    return re.sub(r"\b[0-9a-f]+-[0-9a-f]+\b", "SPAN", re.sub(r"[ -]{2,}", " ", text))


def _wait_output(log: Path, expected: str) -> str:
    processes.wait_until(lambda: expected in log.read_text(), limit_s=LIMIT_S)
    return expected if expected in log.read_text() else log.read_text()


def _type(command: str, expected: str) -> str:
    """Run a command; one that only reads a replica is repeated, as a person is slower than a computer."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=processes.environment())
        got = done.stdout + done.stderr
        if got == expected or "/n2/" not in command or time.monotonic() > deadline:
            return got
        time.sleep(0.2)


def body(run: Run) -> None:
    """The example, then the documents."""
    found = documents()
    run.wanted = len(found) + 2
    run_example(run)
    run_lost_example(run)
    for path in found:
        wrong = check_document(path)
        for text in wrong:
            run.violation(f"{path.relative_to(ROOT)}: {text}")
        if not wrong:
            run.count()


def main() -> int:
    """Entry of ``python -m lanes.docs``."""
    run = lane.parse("docs", "documents and examples", 1, None)
    if run.options.list:
        print("\n".join(str(path.relative_to(ROOT)) for path in documents()))
        return 0
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
