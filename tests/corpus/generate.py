"""Makes the files ``g-*.sql`` of the corpus: long mixed histories from fixed seeds.

Run by hand after a change: ``python tests/corpus/generate.py``. The output is committed,
so that a run is repeatable and a difference can be read.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

FILES = 8
STATEMENTS = 320
WORDS = (
    "page", "frame", "salt", "checkpoint", "journal", "lock", "reader",
    "writer", "replica", "primary", "commit", "log", "index", "table",
)  # fmt: skip
TYPES = ("INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC", "")
COLLATIONS = ("", " COLLATE NOCASE", " COLLATE RTRIM", " COLLATE BINARY")


class History:
    """One random but legal history; some statements fail on purpose (uniqueness, checks)."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"corpus {seed}")
        self.tables: dict[str, int] = {}
        self.indexes: list[str] = []
        self.made = 0
        self.open = False
        self.savepoints: list[str] = []

    def lines(self) -> Iterator[str]:
        """The statements."""
        for _ in range(3):
            yield self.create_table()
        weighted: list[tuple[Callable[[], str], int]] = [
            (self.insert, 26), (self.insert_many, 5), (self.update, 14), (self.delete, 7), (self.select, 18),
            (self.upsert, 6), (self.transaction, 9), (self.savepoint, 6), (self.create_index, 3), (self.drop_index, 1),
            (self.create_table, 2), (self.alter, 2), (self.trigger, 1), (self.pragma, 3),
        ]  # fmt: skip
        choices, weights = zip(*weighted, strict=True)
        for _ in range(STATEMENTS):
            yield self.rng.choices(choices, weights)[0]()
        while self.savepoints:
            yield f"RELEASE {self.savepoints.pop()};"
        if self.open:
            yield "COMMIT;"
        for table in self.tables:
            yield f"SELECT count(*), sum(length(c1)), total(c0) FROM {table};"
        yield "PRAGMA integrity_check;"

    def name(self, kind: str) -> str:
        self.made += 1
        return f"{kind}{self.made}"

    def table(self) -> tuple[str, int]:
        return self.rng.choice(list(self.tables.items()))

    def value(self) -> str:
        rng = self.rng
        kind = rng.randrange(8)
        if kind < 3:
            return str(rng.randrange(-50, 1000))
        if kind == 3:
            return repr(round(rng.uniform(-10, 10), 4))
        if kind == 4:
            return "NULL"
        if kind == 5:
            return f"x'{rng.randbytes(rng.randrange(12)).hex()}'"
        if kind == 6:
            return f"zeroblob({rng.choice((10, 300, 2000, 20000))})"
        return f"'{' '.join(rng.choices(WORDS, k=rng.randrange(1, 30)))}'"

    def row(self, columns: int) -> str:
        return "(" + ", ".join(self.value() for _ in range(columns)) + ")"

    def create_table(self) -> str:
        rng, name, columns = self.rng, self.name("t"), self.rng.randrange(3, 8)
        self.tables[name] = columns
        parts = []
        for i in range(columns):
            extra = rng.choice(("", "", "", " DEFAULT 7", " NOT NULL DEFAULT 'd'", f" CHECK(c{i} IS NOT 13)"))
            parts.append(f"c{i} {rng.choice(TYPES)}{rng.choice(COLLATIONS)}{extra}")
        if rng.random() < 0.4:
            parts.append(f"UNIQUE(c{rng.randrange(columns)}, c0)")
        if rng.random() < 0.3:
            parts[0] = "c0 INTEGER PRIMARY KEY"
        elif rng.random() < 0.3:
            return f"CREATE TABLE {name}({', '.join([*parts, 'PRIMARY KEY(c0, c1, c2)'])}) WITHOUT ROWID;"
        return f"CREATE TABLE {name}({', '.join(parts)});"

    def insert(self) -> str:
        table, columns = self.table()
        verb = self.rng.choice(("INSERT", "INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE"))
        rows = ", ".join(self.row(columns) for _ in range(self.rng.choice((1, 1, 1, 5))))
        return f"{verb} INTO {table} VALUES{rows};"

    def insert_many(self) -> str:
        table, columns = self.table()
        count, step = self.rng.choice((20, 100, 400)), self.rng.choice((7, 101, 7919))
        values = [
            f"i * {step} % 5003",
            f"'{self.rng.choice(WORDS)} ' || i",
            f"i % {step}",
            "i / 3.0",
            "zeroblob(i % 90)",
        ]
        chosen = ", ".join((values * 2)[:columns])
        return (
            f"WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
            f"INSERT OR IGNORE INTO {table} SELECT {chosen} FROM n;"
        )

    def update(self) -> str:
        table, columns = self.table()
        at, by = self.rng.randrange(columns), self.rng.randrange(1, 40)
        return f"UPDATE OR IGNORE {table} SET c{at} = {self.value()} WHERE c0 % {by} = {self.rng.randrange(by)};"

    def delete(self) -> str:
        table, _ = self.table()
        by = self.rng.randrange(2, 30)
        return f"DELETE FROM {table} WHERE c0 % {by} = 0 OR length(c1) % {by} = 1;"

    def upsert(self) -> str:
        table, columns = self.table()
        return f"INSERT INTO {table} VALUES{self.row(columns)} ON CONFLICT DO UPDATE SET c1 = excluded.c1;"

    def select(self) -> str:
        table, columns = self.table()
        order = ", ".join(f"quote(c{i})" for i in range(columns))
        at = self.rng.randrange(columns)
        return self.rng.choice(
            (
                f"SELECT count(*), count(DISTINCT c{at}), total(c0) FROM {table};",
                f"SELECT {order} FROM {table} ORDER BY {order} LIMIT {self.rng.randrange(1, 12)};",
                f"SELECT typeof(c{at}), count(*) FROM {table} GROUP BY 1 ORDER BY 1;",
                f"SELECT quote(max(c{at})), quote(min(c{at})) FROM {table} WHERE c0 > {self.rng.randrange(100)};",
                f"SELECT count(*) FROM {table} a JOIN {self.table()[0]} b ON a.c0 = b.c0;",
            )
        )

    def transaction(self) -> str:
        if not self.open:
            self.open = True
            return self.rng.choice(("BEGIN;", "BEGIN IMMEDIATE;", "BEGIN EXCLUSIVE;"))
        self.open = False
        self.savepoints.clear()
        return self.rng.choice(("COMMIT;", "COMMIT;", "ROLLBACK;"))

    def savepoint(self) -> str:
        if self.savepoints and self.rng.random() < 0.6:
            if self.rng.random() < 0.4:
                return f"ROLLBACK TO {self.savepoints[-1]};"
            return f"RELEASE {self.savepoints.pop()};"
        if not self.open:
            return self.transaction()
        self.savepoints.append(self.name("s"))
        return f"SAVEPOINT {self.savepoints[-1]};"

    def create_index(self) -> str:
        table, columns = self.table()
        self.indexes.append(self.name("i"))
        unique = "UNIQUE " if self.rng.random() < 0.15 else ""
        part = self.rng.choice(("", "", " WHERE c0 > 10"))
        at = self.rng.randrange(columns)
        return f"CREATE {unique}INDEX {self.indexes[-1]} ON {table}(c{at}{self.rng.choice(COLLATIONS)}, c0 DESC){part};"

    def drop_index(self) -> str:
        if not self.indexes:
            return self.create_index()
        return f"DROP INDEX IF EXISTS {self.indexes.pop(self.rng.randrange(len(self.indexes)))};"

    def alter(self) -> str:
        table, _ = self.table()
        return f"ALTER TABLE {table} RENAME TO {table};"

    def trigger(self) -> str:
        table, _ = self.table()
        name = self.name("tr")
        return (
            f"CREATE TRIGGER {name} AFTER DELETE ON {table} WHEN old.c0 % 5 = 0 BEGIN "
            f"DELETE FROM {self.table()[0]} WHERE c0 = old.c0 + 1; END;"
        )

    def pragma(self) -> str:
        return self.rng.choice(
            ("PRAGMA page_count;", "PRAGMA freelist_count;", "PRAGMA cache_size=12;", "PRAGMA cache_size=2000;",
             "PRAGMA quick_check;", "REINDEX;", "ANALYZE;", "VACUUM;", "PRAGMA schema_version;")
        )  # fmt: skip


def main() -> None:
    """Write the files."""
    here = Path(__file__).parent
    for number in range(1, FILES + 1):
        head = f"-- Made by generate.py, seed {number}.\n"
        (here / f"g-{number:02}.sql").write_text(head + "\n".join(History(number).lines()) + "\n")


if __name__ == "__main__":
    main()
