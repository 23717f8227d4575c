"""``python -m images rootfs|archives|references [IMAGE …]`` or ``platforms``: see the package's docstring."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from images import archive, platforms
from images.interpreter import MissingError
from images.libraries import LibraryError
from images.recipes import BUILD, RECIPES, Recipe, architecture, version


def main() -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="images", description=__doc__)
    parser.add_argument("command", choices=["rootfs", "archives", "references", "platforms"])
    parser.add_argument("image", nargs="*", help="default: all")
    arguments = parser.parse_args()
    wanted = [recipe for recipe in RECIPES if not arguments.image or recipe.name in arguments.image]
    try:
        if arguments.command == "platforms":
            platforms.write()
            return 0
        for recipe in wanted:
            {"rootfs": rootfs, "archives": save, "references": reference}[arguments.command](recipe)
    except (MissingError, LibraryError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


def rootfs(recipe: Recipe) -> None:
    """Lay out ``.build/rootfs/<architecture>/<image>``, anew."""
    started = time.monotonic()
    folder = BUILD / "rootfs" / architecture() / recipe.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for tree in recipe.layers():
        tree.write(folder)
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"{folder.relative_to(BUILD.parent)}  {size / 1e6:.0f} MB  {time.monotonic() - started:.1f} s")


def save(recipe: Recipe) -> None:
    """Write ``.build/images/<image>.tar`` unless it is up to date."""
    started = time.monotonic()
    layers = [archive.pack(tree, BUILD / "layers") for tree in recipe.layers()]
    path = _archive(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_id, _ = archive.image_id(recipe.config([]), layers)
    note = path.with_suffix(".reference")
    tag = f"{version()}-{image_id[:12]}"
    done = "up to date"
    if not path.exists() or not note.exists() or note.read_text().strip() != f"{recipe.name}:{tag}":
        archive.save(recipe.config([version(), tag]), layers, path)
        note.write_text(f"{recipe.name}:{tag}\n")
        done = "written"
    sizes = " + ".join(f"{layer.size / 1e6:.1f}" for layer in layers)
    print(f"{path.relative_to(BUILD.parent)}  {architecture()}  {sizes} MB  {done}, {time.monotonic() - started:.1f} s")


def reference(recipe: Recipe) -> None:
    """Print the reference that changes with the image's content."""
    print(_archive(recipe).with_suffix(".reference").read_text().strip())


def _archive(recipe: Recipe) -> Path:
    return BUILD / "images" / f"{recipe.name}.tar"


if __name__ == "__main__":
    sys.exit(main())
