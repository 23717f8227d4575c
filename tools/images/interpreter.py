"""The interpreter of the virtual environment and its standard library, as ``/usr`` of an image."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from images.tree import PROGRAM, Tree

VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHON: Final = f"usr/bin/python{VERSION}"
STDLIB: Final = f"usr/lib/python{VERSION}"

_LEFT_OUT: Final = {
    "__pycache__", "dist-packages", "ensurepip", "idle_test", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "sqlite3/test", "test", "tests", "tkinter", "turtledemo", "venv",
}  # fmt: skip
_LEFT_OUT_STARTS: Final = ("config-", "_test", "_ctypes_test", "_tkinter", "xxlimited", "_xxtestfuzz", "turtle")


class MissingError(Exception):
    """Something of this machine is needed and not there; the text is for the user."""


def add_python(tree: Tree) -> None:
    """Interpreter and standard library."""
    program = Path(sys.executable).resolve()
    tree.file(PYTHON, program, mode=PROGRAM)
    for name in ("python3", "python"):
        tree.link(f"usr/bin/{name}", f"python{VERSION}")
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.is_file() and _is_wanted(inside):
            tree.file(f"{STDLIB}/{inside}", path)


def add_busybox(tree: Tree) -> None:
    """A shell and the usual commands, for people who look into a container, and for the guard."""
    path = Path("/bin/busybox")
    if not path.exists():
        raise MissingError("busybox is missing: apt-get install busybox-static")
    if path.read_bytes()[:4] != b"\x7fELF" or b"ld-linux" in path.read_bytes()[:4096]:
        raise MissingError("busybox is not static: apt-get install busybox-static")
    tree.file("usr/bin/busybox", path.resolve(), mode=PROGRAM)
    names = subprocess.run([str(path), "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            tree.link(f"usr/bin/{name}", "busybox")


def add_users(tree: Tree) -> None:
    """Names for the uids that are used, and where names are looked up."""
    users = {"root": 0, "sqlitecluster": 20202, "nonroot": 65532, "nobody": 65534}
    tree.text("etc/passwd", "".join(f"{name}:x:{uid}:{uid}:{name}:/tmp:/bin/sh\n" for name, uid in users.items()))
    tree.text("etc/group", "".join(f"{name}:x:{gid}:\n" for name, gid in users.items()))
    tree.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    for name in ("proc", "sys", "dev", "run", "mnt", "var", "data"):
        tree.folder(name)
    tree.folder("tmp", mode=0o1777)
    tree.folder("root", mode=0o700)


def _is_wanted(inside: Path) -> bool:
    parts = set(inside.parts)
    if parts & _LEFT_OUT or any(str(inside).startswith(name + "/") for name in _LEFT_OUT):
        return False
    return not any(part.startswith(_LEFT_OUT_STARTS) for part in inside.parts)
