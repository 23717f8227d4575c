"""The shape of the repository: sizes, folders without __init__, what each part imports at start."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
PACKAGES = ("sidecar", "operator", "tests", "tools", "demo")


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "__pycache__" not in path.parts:
                yield path


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("folder", ["operator", "sidecar", "tests"])
def test_the_folder_is_no_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists(), "an operator/__init__.py would hide Python's own operator"


def test_no_module_is_too_long() -> None:
    long = {str(p.relative_to(ROOT)): n for p in modules() if (n := len(p.read_text().splitlines())) > MODULE_LINES_MAX}

    assert not long


def test_no_function_is_too_long() -> None:
    long = {
        f"{p.relative_to(ROOT)}: {name}": n for p in modules() for name, n in functions(p) if n > FUNCTION_LINES_MAX
    }

    assert not long


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(p.relative_to(ROOT))
        for p in modules()
        if p.stat().st_size and not ast.get_docstring(ast.parse(p.read_text()))
    ]

    assert not silent


def imported_by(statement: str) -> set[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'sidecar')!r}); {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_supervisor_imports_next_to_nothing() -> None:
    loaded = imported_by("import sqlitecluster.supervisor.__main__")

    assert not loaded & {"numpy", "yaml", "logging", "dataclasses", "typing", "inspect", "asyncio", "pathlib", "shutil"}
    assert all(name.count(".") < 2 or ".supervisor." in name for name in loaded if name.startswith("sqlitecluster."))


def test_a_node_starts_without_heavy_packages() -> None:
    loaded = imported_by("import sqlitecluster.cli.main as m; m.build_parser('node'); import sqlitecluster.config.load")

    assert not loaded & {"numpy", "yaml", "asyncio", "aiohttp", "pyfuse3", "lz4"}


def test_the_locked_requirements_name_no_registry_and_have_hashes() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert not re.search(r"https?://|--(extra-)?index|--find-links|--trusted-host", text), path.name
        blocks = re.split(r"\n(?=[a-z0-9])", text)[1:]
        assert blocks and all("--hash=sha256:" in block for block in blocks), path.name
