"""Image archives (docker-save layout) made from plain files, without a registry or a builder."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
FIRST_DAY = "1970-01-01T00:00:00Z"
PROGRAM_MODE, FOLDER_MODE = 0o755, 0o1777


@dataclass(frozen=True)
class Image:
    """An image of a few files: where each comes from, links, and what runs."""

    repository: str
    files: Mapping[str, Path]
    links: Mapping[str, str] = field(default_factory=dict)
    folders: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def _layer(image: Image) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in sorted(image.folders):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, FOLDER_MODE
            archive.addfile(entry)
        for name, source in sorted(image.files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = source.stat().st_size, PROGRAM_MODE
            with source.open("rb") as content:
                archive.addfile(entry, content)
        for name, target in sorted(image.links.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def _config(image: Image, layer: bytes) -> bytes:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"} | dict(image.environment)
    content = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "created": FIRST_DAY,
        "config": {
            "Entrypoint": list(image.entrypoint),
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        "history": [{"created": FIRST_DAY}],
    }
    return json.dumps(content, sort_keys=True).encode()


def write(image: Image, folder: Path) -> tuple[str, Path]:
    """Write an image's archive; its tag is a hash of what is inside. Returns reference and file."""
    layer = _layer(image)
    config = _config(image, layer)
    digest = hashlib.sha256(config).hexdigest()
    reference = f"{image.repository}:{digest[:12]}"
    manifest = [{"Config": f"{digest}.json", "RepoTags": [reference, _latest(image)], "Layers": ["layer.tar"]}]
    parts = {"manifest.json": json.dumps(manifest).encode(), f"{digest}.json": config, "layer.tar": layer}
    path = folder / f"{image.repository.rpartition('/')[2]}-{digest[:12]}.tar"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        half_made = path.with_suffix(".part")
        with tarfile.open(half_made, "w") as archive:
            for name, content in parts.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
        half_made.replace(path)
    return reference, path


def _latest(image: Image) -> str:
    return f"{image.repository}:1"


def references(archive: Path) -> list[str]:
    """Names of the images inside an archive."""
    with tarfile.open(archive) as opened:
        content = opened.extractfile("manifest.json")
        if content is None:
            raise KeyError(f"{archive} has no manifest.json: it is no docker-save archive")
        return [str(tag) for image in json.load(content) for tag in image["RepoTags"]]


def qualified(reference: str) -> str:
    """A reference as containerd writes it, with its registry."""
    first, slash, _rest = reference.partition("/")
    if not slash:
        return f"docker.io/library/{reference}"
    return reference if "." in first or ":" in first else f"docker.io/{reference}"


BUSYBOX_COMMANDS = (
    *("sh", "sleep", "cat", "ls", "echo", "httpd", "wget", "nslookup", "ip", "id", "touch", "rm", "env", "test"),
    *(
        "mkdir",
        "date",
        "true",
        "false",
        "ps",
        "kill",
        "grep",
        "nc",
        "mount",
        "umount",
        "sync",
        "head",
        "tail",
        "hostname",
    ),
    *("sed", "cp", "mv", "stat", "wc", "dd", "chmod"),
)


def busybox() -> Path:
    """Debian's static busybox."""
    found = shutil.which("busybox", path="/usr/bin:/bin")
    if found is None:
        raise FileNotFoundError("busybox is missing: run tools/install-cluster")
    return Path(found)


def built_in(coredns: Path) -> dict[str, Image]:
    """The images that every node has from the start."""
    shell = {"bin/busybox": busybox()}
    return {
        "pause": Image("docker.io/local/pause", shell, entrypoint=["/bin/busybox", "sleep", "2147483647"]),
        "coredns": Image("docker.io/local/coredns", {"coredns": coredns}, entrypoint=["/coredns"]),
        "busybox": Image(
            "docker.io/local/busybox",
            shell,
            links={f"bin/{name}": "busybox" for name in BUSYBOX_COMMANDS},
            folders=("tmp",),
        ),
    }
