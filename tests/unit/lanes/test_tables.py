"""What the lanes work on: the corpus, its settings, the budget, and the promises that name them."""

from __future__ import annotations

import importlib.util
import re
from itertools import combinations, product
from pathlib import Path

import pytest

from lanes import badinput, identity, kills, kube_life, quorum, scenes, special, sqlcorpus
from runner import plan
from support import images, ledger

ROOT = plan.ROOT
CORPUS = ROOT / "tests" / "corpus"


def test_the_corpus_has_three_thousand_statements() -> None:
    assert sum(kind == "sql" for file in CORPUS.glob("*.sql") for kind, _ in sqlcorpus.steps(file)) >= 3000


def test_the_settings_cover_all_pairs() -> None:
    axes = (sqlcorpus.JOURNALS, sqlcorpus.PAGE_SIZES, sqlcorpus.LEVELS)
    rows = [(s.journal, s.page_size, s.synchronous) for s in sqlcorpus.settings()]
    for i, j in combinations(range(3), 2):
        assert set(product(axes[i], axes[j])) <= {(row[i], row[j]) for row in rows}
    assert {"MEMORY", "OFF"} <= {row[0] for row in rows}


def test_the_generated_part_is_what_the_generator_makes() -> None:
    spec = importlib.util.spec_from_file_location("corpus_generate", CORPUS / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for number in range(1, generate.FILES + 1):
        lines = "\n".join(generate.History(number).lines())
        assert (CORPUS / f"g-{number:02}.sql").read_text() == f"-- Made by generate.py, seed {number}.\n{lines}\n"


@pytest.mark.parametrize(
    "name, cases",
    [("scenes", scenes.CASES), ("special", special.CASES), ("badinput", badinput.CASES), ("identity", identity.CASES)],
)
def test_the_budget_runs_every_case(name: str, cases: dict[str, object]) -> None:
    job = next(job for job in plan.lanes() if job.name == name)
    assert job.budget == job.release == len(cases)


def test_every_lane_has_a_module_and_a_budget() -> None:
    for job in plan.lanes():
        module = job.command[3].removeprefix("lanes.")
        assert (ROOT / "tests" / "lanes" / f"{module}.py").exists(), module
        assert 0 < job.budget <= job.release and job.limit_s > 0


def test_promises_name_lanes_and_cases_that_exist() -> None:
    text = (ROOT / "docs" / "promises.md").read_text()
    lanes = {job.name for job in plan.lanes()} | {"kills --no-resend"}
    cases = {*scenes.CASES, *special.CASES, *badinput.CASES, *identity.CASES, *quorum.CASES, *kube_life.CASES}
    for column in re.findall(r"\| ([^|]+) \|$", text, re.MULTILINE)[2:]:
        assert not set(re.findall(r"`([^`]+)`", column)) - lanes, column
        for case in re.findall(r"[(,] ?([a-z]+(?:-[a-z]+)+)(…|\b)", column):
            assert any(known.startswith(case[0]) for known in cases), case


def test_failpoints_of_the_code_are_found() -> None:
    assert len(kills.failpoints()) >= 10


def test_a_gap_between_stored_files_is_found(tmp_path: Path) -> None:
    class Stub:
        data = tmp_path

    folder = tmp_path / "dbs" / "a.db" / "ltx" / "0"
    folder.mkdir(parents=True)
    for low, high in ((1, 4), (5, 5), (5, 9)):
        (folder / f"{low:016x}-{high:016x}.ltx").touch()
    assert images.chain_gap(Stub(), "a.db") is None  # type: ignore[arg-type]
    (folder / f"{11:016x}-{12:016x}.ltx").touch()
    assert "000000000000000b" in str(images.chain_gap(Stub(), "a.db"))  # type: ignore[arg-type]


def test_percentiles_are_by_nearest_rank() -> None:
    twenty = list(range(1, 21))
    assert [ledger.percentile(twenty, part) for part in (0.5, 0.95, 1.0)] == [10, 19, 20]
    assert (ledger.percentile([7.0], 0.95), ledger.percentile([], 0.5)) == (7.0, 0.0)
