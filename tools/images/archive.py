"""Layers as tar files and images as docker-save archives, the same bytes for the same trees.

``docker load``, ``podman load``, ``ctr images import`` and ``kind load`` read them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from images.tree import Entry, Tree

_CREATED: Final = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Layer:
    """A packed layer."""

    path: Path
    digest: str

    @property
    def size(self) -> int:
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a container engine needs to know besides the files."""

    references: list[str]
    architecture: str
    entrypoint: list[str]
    user: str = "0:0"
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def document(self, layers: list[Layer]) -> dict[str, Any]:
        """The image configuration of the OCI specification."""
        return {
            "architecture": self.architecture,
            "os": "linux",
            "created": _CREATED,
            "config": {
                "User": self.user,
                "Env": [f"{name}={value}" for name, value in sorted(self.environment.items())],
                "Entrypoint": self.entrypoint,
                "WorkingDir": "/",
                "Labels": dict(sorted(self.labels.items())),
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
            "history": [{"created": _CREATED} for _ in layers],
        }


def pack(tree: Tree, folder: Path) -> Layer:
    """A layer's tar file, named by what it is made from; packed only when it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tree.digest()[:32]}.tar"
    if not path.exists():
        part = path.with_suffix(f".part{os.getpid()}")
        with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as tar:
            for name, entry in tree.items():
                _add(tar, name, entry)
        os.replace(part, path)
    with open(path, "rb") as file:
        return Layer(path, hashlib.file_digest(file, "sha256").hexdigest())


def image_id(config: ImageConfig, layers: list[Layer]) -> tuple[str, bytes]:
    """The image's id, and the configuration that it is the hash of."""
    document = json.dumps(config.document(layers), separators=(",", ":"), sort_keys=True).encode()
    return hashlib.sha256(document).hexdigest(), document


def save(config: ImageConfig, layers: list[Layer], path: Path) -> None:
    """Write the archive."""
    name_of_config, document = image_id(config, layers)
    names = [f"{layer.digest}/layer.tar" for layer in layers]
    manifest = [{"Config": f"{name_of_config}.json", "RepoTags": config.references, "Layers": names}]
    part = path.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, f"{name_of_config}.json", Entry(data=document))
        for name, layer in zip(names, layers, strict=True):
            _add(tar, name, Entry(source=layer.path))
        _add(tar, "manifest.json", Entry(data=json.dumps(manifest).encode()))
    os.replace(part, path)


def _add(tar: tarfile.TarFile, name: str, entry: Entry) -> None:
    info = tarfile.TarInfo(name)  # time 0, owner 0
    info.mode = entry.mode
    if entry.is_folder:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif entry.target is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.target
        tar.addfile(info)
    elif entry.source is not None:
        with open(entry.source, "rb") as file:
            info.size = os.fstat(file.fileno()).st_size
            tar.addfile(info, file)
    else:
        info.size = len(entry.data or b"")
        tar.addfile(info, io.BytesIO(entry.data or b""))
