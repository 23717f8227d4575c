"""SQLiteCluster: the whole object."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from sqlitecluster_operator.api.base import GROUP, Model, OpenModel, Rule
from sqlitecluster_operator.api.spec import SQLiteClusterSpec
from sqlitecluster_operator.api.status import SQLiteClusterStatus

KIND: Final = "SQLiteCluster"
PLURAL: Final = "sqliteclusters"
NAME_MAX: Final = 45  # leaves room for ordinals, suffixes of Services and the hash of a StatefulSet's revision
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


class ObjectMeta(OpenModel):
    """The part of an object's metadata that the operator reads."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)


def _fence_is_ours(cluster: Any) -> bool:
    return all(name == "*" or name.rpartition("-")[0] == cluster.metadata.name for name in cluster.spec.fence)


class SQLiteCluster(Model):
    """A program that uses SQLite, replicated: one pod is the primary and writes, the others follow and take over."""

    api_version: Literal["sqlitecluster.dev/v1alpha1"] = "sqlitecluster.dev/v1alpha1"
    """Version of this representation of the object: sqlitecluster.dev/v1alpha1."""
    kind: Literal["SQLiteCluster"] = "SQLiteCluster"
    """Kind of the object: SQLiteCluster."""
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    """Name, namespace, labels and annotations, as of any object."""
    spec: SQLiteClusterSpec
    """What the cluster should be."""
    status: SQLiteClusterStatus = Field(default_factory=SQLiteClusterStatus)
    """What the operator saw last."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="size(self.metadata.name) <= 45",
            message="the name must have at most 45 characters: names of pods and Services are made from it",
            field="",
            check=lambda self, _: len(self.metadata.name) <= NAME_MAX,
        ),
        Rule(
            cel="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            message="the name must begin with a letter and have only lower-case letters, digits and '-': "
            "Services are named after it",
            field="",
            check=lambda self, _: not self.metadata.name or _NAME.fullmatch(self.metadata.name) is not None,
        ),
        Rule(
            cel="self.spec.fence.all(p, p == '*' || p.substring(0, p.lastIndexOf('-')) == self.metadata.name)",
            message='fence takes names of this cluster\'s pods, such as <name>-0, or "*" for all',
            field="spec.fence",
            check=lambda self, _: _fence_is_ours(self),
        ),
    )

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


CRD_NAME: Final = f"{PLURAL}.{GROUP}"
