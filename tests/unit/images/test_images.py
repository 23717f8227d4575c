"""Images: the same bytes for the same content, one place for each file, layers that engines accept."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from images import archive, bytecode, distributions, platforms, recipes
from images.archive import ImageConfig
from images.interpreter import MissingError
from images.tree import Entry, Tree, normal


def sample() -> Tree:
    tree = Tree()
    tree.text("app/b.py", "print(1)\n")
    tree.text("bin/run", "#!/bin/sh\n", mode=0o755)
    tree.link("app/c", "b.py")
    tree.folder("tmp", mode=0o1777)
    return tree


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("/lib64/ld.so", "usr/lib64/ld.so"),
        ("usr/bin/sh", "usr/bin/sh"),
        ("/opt//x/", "opt/x"),
        ("bin", "bin"),
    ],
)
def test_every_file_has_one_place(path: str, expected: str) -> None:
    assert normal(path) == expected


def test_folders_come_before_what_is_in_them() -> None:
    names = [path for path, _ in sample().items()]
    assert names == sorted(names)
    assert {"app", "usr", "usr/bin"} <= set(names)


def test_the_same_tree_makes_the_same_bytes(tmp_path: Path) -> None:
    first, second = archive.pack(sample(), tmp_path / "1"), archive.pack(sample(), tmp_path / "2")
    assert first.digest == second.digest
    assert first.path.name == second.path.name


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.text("app/b.py", "print(2)\n"),
        lambda tree: tree.text("app/b.py", "print(1)\n", mode=0o755),
        lambda tree: tree.link("app/c", "elsewhere"),
        lambda tree: tree.folder("tmp"),
    ],
)
def test_every_change_makes_another_layer(change: object) -> None:
    tree = sample()
    before = tree.digest()
    assert callable(change)
    change(tree)
    assert tree.digest() != before


def test_an_archive_is_what_docker_save_writes(tmp_path: Path) -> None:
    layers = [archive.pack(sample(), tmp_path)]
    config = ImageConfig(["x:1", "x:1-abc"], "amd64", ["/bin/run"], user="1:1", environment={"A": "b"})
    archive.save(config, layers, tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        (manifest,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        document = tar.extractfile(manifest["Config"]).read()  # type: ignore[union-attr]
        layer = tar.extractfile(manifest["Layers"][0]).read()  # type: ignore[union-attr]
    assert manifest["RepoTags"] == ["x:1", "x:1-abc"]
    assert manifest["Config"] == f"{hashlib.sha256(document).hexdigest()}.json"
    assert json.loads(document)["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(layers[0].path) as tar:
        members = tar.getmembers()
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, 0)}


def test_a_tree_can_be_laid_out_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        sample().write(tmp_path)
    assert (tmp_path / "app/c").resolve() == tmp_path / "app/b.py"
    assert (tmp_path / "usr/bin/run").stat().st_mode & 0o777 == 0o755


def test_compiled_files_name_their_place_in_the_image_and_are_never_stale(tmp_path: Path) -> None:
    source = tmp_path / "m.py"
    source.write_text("def f():\n    return 1\n")
    tree = Tree()
    tree.file("app/m.py", source)
    bytecode.add_bytecode(tree, tmp_path / "cache")
    compiled = [entry for path, entry in tree.entries.items() if path.endswith(".pyc")]
    assert len(compiled) == 1
    content = compiled[0].read()
    assert int.from_bytes(content[4:8], "little") == 0b01  # by hash, and not looked at when imported
    assert b"/app/m.py" in content
    assert str(tmp_path).encode() not in content


def test_what_is_no_python_is_left_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "template.py"
    source.write_text("{{ not python }} (\n")
    tree = Tree()
    tree.file("app/template.py", source)
    bytecode.add_bytecode(tree, tmp_path / "cache")
    assert list(tree.entries) == ["app/template.py"]


def test_a_package_of_another_version_is_not_taken(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("pytest==0.0.1 \\\n    --hash=sha256:00\n")
    with pytest.raises(MissingError, match=r"pytest is .*, the lock says 0\.0\.1: make install"):
        distributions.add_distributions(Tree(), lock, "site", frozenset())


def test_the_sidecar_carries_no_operator_and_the_operator_no_arithmetic() -> None:
    locks = {recipe.name: recipe for recipe in recipes.RECIPES}
    sidecar = distributions.pinned(recipes.ROOT / "requirements" / locks["sqlitecluster-sidecar"].lock)
    assert not {"kubernetes", "kopf", "pydantic"} & set(sidecar)
    operator = distributions.pinned(recipes.ROOT / "requirements" / locks["sqlitecluster-operator"].lock)
    assert {"kubernetes", "kopf"} <= set(operator)
    assert locks["sqlitecluster-operator"].left_out <= set(operator)


@pytest.mark.parametrize("recipe", recipes.RECIPES, ids=lambda recipe: recipe.name)
def test_containerfiles_say_what_the_recipes_say(recipe: recipes.Recipe) -> None:
    text = (recipes.ROOT / "tools/images" / f"{recipe.name.removeprefix('sqlitecluster-')}.Containerfile").read_text()
    assert f"ENTRYPOINT {json.dumps(recipe.entrypoint)}" in text
    assert f"USER {recipe.user}" in text
    assert text.count("FROM scratch") == 1


def test_an_entry_reads_from_where_it_comes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    assert Entry(source=tmp_path / "x").read() == b"1"
    assert Entry(data=b"2").read() == b"2"
    assert Entry().is_folder


@pytest.mark.parametrize("lock", ["sidecar.txt", "operator.txt"])
def test_the_lock_resolves_every_package_for_both_architectures(lock: str) -> None:
    table = json.loads(platforms.PATH.read_text())[lock]
    wanted = platforms.blocks(recipes.ROOT / "requirements" / lock)
    assert set(table) == {"amd64", "arm64"}
    for files in table.values():
        assert set(files) == set(wanted), "make lock"
        for name, file in files.items():
            assert file == "source" or f"--hash={file.split()[1]}" in wanted[name], f"{name}: make lock"
