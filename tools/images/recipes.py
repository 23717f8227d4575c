"""The images: which layers each has, who runs in it, and how it starts.

Layers, lowest first: interpreter (the same in all images), packages of the lock, our
own code. An edit of our code changes a layer of one or two MB.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from images import bytecode, distributions, interpreter, libraries
from images.archive import ImageConfig
from images.tree import PROGRAM, Tree, merged_links

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / ".build"
_FILES: Final = Path(__file__).resolve().parent / "files"
_HOME: Final = "opt/sqlitecluster"
_PYTHON: Final = f"/{_HOME}/bin/python"
_SITE: Final = f"{_HOME}/lib/python{interpreter.VERSION}/site-packages"
_ENVIRONMENT: Final = {"PATH": f"/{_HOME}/bin:/usr/bin:/bin", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
_SCRIPT: Final = f"#!{_PYTHON}\nimport sys\nfrom sqlitecluster.cli.main import main\nsys.exit(main())\n"
# The operator uses the configuration and the election of the shared package, none of the arithmetic on pages.
_NOT_IN_OPERATOR: Final = frozenset({"numpy", "lz4", "xxhash", "fastcrc"})

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image."""

    name: str
    description: str
    entrypoint: list[str]
    user: str
    code: Callable[[Tree], None]
    lock: str = ""
    left_out: frozenset[str] = field(default_factory=frozenset)

    def layers(self) -> list[Tree]:
        """The layers' trees, lowest first."""
        trees = [python_layer()]
        if self.lock:
            trees.append(packages_layer(ROOT / "requirements" / self.lock, self.left_out, trees[0]))
        code = Tree()
        self.code(code)
        bytecode.add_bytecode(code, BUILD / "bytecode")
        return [*trees, code]

    def config(self, tags: list[str]) -> ImageConfig:
        """What the engine is told."""
        labels = {
            "org.opencontainers.image.title": self.name,
            "org.opencontainers.image.description": self.description,
            "org.opencontainers.image.version": version(),
            "org.opencontainers.image.licenses": "Apache-2.0",
        }
        return ImageConfig(
            references=[f"{self.name}:{tag}" for tag in tags],
            architecture=architecture(),
            entrypoint=self.entrypoint,
            user=self.user,
            environment=_ENVIRONMENT,
            labels=labels,
        )


def version() -> str:
    """The project's version."""
    match = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


def architecture() -> str:
    """This machine's, as images name it."""
    return _MACHINES.get(platform.machine(), platform.machine())


def python_layer() -> Tree:
    """Interpreter, standard library, shell, users."""
    tree = Tree()
    merged_links(tree)
    interpreter.add_users(tree)
    interpreter.add_busybox(tree)
    interpreter.add_python(tree)
    libraries.add_libraries(tree)
    libraries.add_run_time_libraries(tree)
    bytecode.add_bytecode(tree, BUILD / "bytecode")
    tree.link(f"{_HOME}/bin/python", f"/{interpreter.PYTHON}")
    settings = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {interpreter.VERSION}\n"
    tree.text(f"{_HOME}/pyvenv.cfg", settings)
    return tree


def packages_layer(lock: Path, left_out: frozenset[str], below: Tree) -> Tree:
    """What the lock names, with the libraries that it needs."""
    tree = Tree()
    distributions.add_distributions(tree, lock, _SITE, left_out)
    libraries.add_libraries(tree, present=below.entries)
    bytecode.add_bytecode(tree, BUILD / "bytecode")
    return tree


def _add_package(tree: Tree, folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            tree.file(f"{_SITE}/{folder.name}/{path.relative_to(folder)}", path)


def _sidecar_code(tree: Tree) -> None:
    _add_package(tree, ROOT / "sidecar/sqlitecluster")
    tree.text(f"{_HOME}/bin/sqlitecluster", _SCRIPT, mode=PROGRAM)
    tree.file("usr/lib/sqlitecluster/guard.sh", _FILES / "guard.sh", mode=PROGRAM)


def _operator_code(tree: Tree) -> None:
    _add_package(tree, ROOT / "sidecar/sqlitecluster")
    _add_package(tree, ROOT / "operator/sqlitecluster_operator")


def _sample_code(tree: Tree) -> None:
    for path in sorted((ROOT / "demo/sample").glob("*.py")):
        tree.file(f"app/{path.name}", path, mode=0o644)


RECIPES: Final = (
    Recipe(
        "sqlitecluster-sidecar",
        "Mounts the folder of databases and replicates it",
        [f"/{_HOME}/bin/sqlitecluster", "node", "--config", "/etc/sqlitecluster/node.yaml"],
        "0:0",
        _sidecar_code,
        lock="sidecar.txt",
    ),
    Recipe(
        "sqlitecluster-operator",
        "Makes and looks after SQLiteClusters",
        [_PYTHON, "-m", "sqlitecluster_operator"],
        "65532:65532",
        _operator_code,
        lock="operator.txt",
        left_out=_NOT_IN_OPERATOR,
    ),
    Recipe(
        "sqlitecluster-sample",
        "A small program with a SQLite database, which knows nothing of replication",
        [_PYTHON, "/app/sample.py"],
        "1000:1000",
        _sample_code,
    ),
)
