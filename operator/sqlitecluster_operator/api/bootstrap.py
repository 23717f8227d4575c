"""``spec.bootstrap``: what a new cluster starts with."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from sqlitecluster_operator.api.base import DatabaseName, Model, Rule
from sqlitecluster_operator.api.pods import Atomic


def _one_of(message: str, **names: str) -> Rule:
    """A rule that exactly one of some optional fields is set: attribute → YAML name."""
    return Rule(
        cel="[" + ", ".join(f"has(self.{wire})" for wire in names.values()) + "].filter(x, x).size() == 1",
        message=message,
        field="",
        check=lambda self, _: sum(getattr(self, name) is not None for name in names) == 1,
    )


class KeyReference(Model):
    """One key of a ConfigMap or Secret in the cluster's namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the ConfigMap or Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key whose value is used."""


class SQLReference(Model):
    """SQL text from elsewhere: a ConfigMap or a Secret."""

    config_map: KeyReference | None = None
    """A key of a ConfigMap."""
    secret: KeyReference | None = None
    """A key of a Secret."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        _one_of("set exactly one of configMap and secret", config_map="configMap", secret="secret"),
    )


class InitDB(Model):
    """SQL that the first primary runs once, before any program starts."""

    database: DatabaseName | None = None
    """Database in which the SQL runs. Unset: the first of spec.databases, else app.db."""
    sql: Annotated[list[Annotated[str, Field(max_length=65536)]], Field(max_length=64, json_schema_extra=Atomic)] = (
        Field(default_factory=list)
    )
    """SQL texts, run in order in one transaction each."""
    sql_refs: Annotated[list[SQLReference], Field(max_length=16, json_schema_extra=Atomic)] = Field(
        default_factory=list
    )
    """SQL texts in ConfigMaps and Secrets, run after those in sql."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="size(self.sql) + size(self.sqlRefs) > 0",
            message="initdb needs sql or sqlRefs",
            field="",
            check=lambda self, _: bool(self.sql or self.sql_refs),
        ),
    )


class ClaimSource(Model):
    """Databases on an existing volume."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of a PersistentVolumeClaim in the cluster's namespace. It is only read. Every pod mounts it, so it must stay
    as long as the cluster, and with more than one instance needs an access mode that allows that."""
    path: Annotated[str, Field(max_length=4096)] = "."
    """File or folder on the volume. Of a folder every SQLite database in it is imported."""


class ImportSource(Model):
    """Where the databases come from."""

    url: Annotated[str, Field(pattern=r"^https?://.+", max_length=2048)] | None = None
    """http or https address of a database file."""
    persistent_volume_claim: ClaimSource | None = None
    """An existing volume."""
    secret: KeyReference | None = None
    """A key of a Secret that holds a small database file."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        _one_of(
            "set exactly one of url, persistentVolumeClaim and secret",
            url="url",
            persistent_volume_claim="persistentVolumeClaim",
            secret="secret",
        ),
    )


class Import(Model):
    """Existing databases that the first primary takes over before any program starts."""

    source: ImportSource
    """Where the databases come from."""
    database: DatabaseName | None = None
    """Name that the database gets. Needed unless a whole folder is imported."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.database) || has(self.source.persistentVolumeClaim)",
            message="database is needed: it is the name that the imported file gets",
            field="database",
            check=lambda self, _: self.database is not None or self.source.persistent_volume_claim is not None,
        ),
    )


def _unchanged(self: Any, old: Any) -> bool:
    return old is None or self == old


class Bootstrap(Model):
    """What a new cluster starts with: SQL or existing databases."""

    initdb: InitDB | None = None
    """SQL that the first primary runs once."""
    import_: Import | None = None
    """Existing databases that are taken over."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        _one_of("set exactly one of initdb and import", initdb="initdb", import_="__import__"),
        Rule(
            cel="self == oldSelf",
            message="bootstrap is used once, when the cluster is made; it cannot be changed later",
            field="",
            check=_unchanged,
        ),
    )
