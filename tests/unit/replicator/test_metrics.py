"""The metrics table is what the documentation shows, and nothing else can be rendered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sqlitecluster.replicator.metrics import TABLE, render

DOCS = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def test_the_documentation_lists_exactly_the_metrics_that_exist() -> None:
    rows = re.findall(r"^\| `(sqlitecluster_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    written = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows]
    assert written == [(m.name, m.kind, m.labels, m.help) for m in TABLE.values()]


def test_samples_are_grouped_under_their_help_and_type() -> None:
    text = render(
        [
            ("sqlitecluster_db_txid", {"db": "b.db"}, 7),
            ("sqlitecluster_is_primary", {}, 1),
            ("sqlitecluster_db_txid", {"db": 'we"ird\\\n'}, 2**53),
        ]
    )
    assert text.splitlines() == [
        "# HELP sqlitecluster_is_primary 1 on the primary.",
        "# TYPE sqlitecluster_is_primary gauge",
        "sqlitecluster_is_primary 1",
        "# HELP sqlitecluster_db_txid Newest transaction of a database.",
        "# TYPE sqlitecluster_db_txid gauge",
        'sqlitecluster_db_txid{db="b.db"} 7',
        'sqlitecluster_db_txid{db="we\\"ird\\\\\\n"} 9.00719925474099e+15',
    ]


@pytest.mark.parametrize(
    "sample", [("sqlitecluster_invented", {}, 1.0), ("sqlitecluster_is_primary", {"db": "x"}, 1.0)]
)
def test_what_is_not_in_the_table_cannot_be_rendered(sample: tuple[str, dict[str, str], float]) -> None:
    with pytest.raises(KeyError):
        render([sample])
