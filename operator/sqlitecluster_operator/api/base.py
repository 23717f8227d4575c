"""What all models of the API share: naming, text types, and rules that exist once for CEL and for Python.

A ``Rule`` stands in the ``RULES`` of the model whose values it is about. ``schema`` writes its expression into that
node of the CRD; ``validate`` runs its ``check``. Both say the same message about the same field.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP: Final = "sqlitecluster.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

_ALIASES: Final = {"from_": "from", "import_": "import", "cluster_id": "clusterID", "pod_ip": "podIP"}
_DURATION_UNITS: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_DECIMAL_UNITS: Final = {"m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_BINARY_UNITS: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def wire_name(field: str) -> str:
    """The name of a model's field in YAML: ``cluster_id`` → ``clusterID``."""
    return _ALIASES.get(field) or to_camel(field)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule that the API server checks by CEL, and the operator again in Python."""

    cel: str
    """The expression; one that names ``oldSelf`` is checked on updates only."""
    message: str
    """For a user: what is wrong and what would be right."""
    field: str
    """The YAML field below the node that is wrong, such as ``size``; empty: the node itself."""
    check: Callable[[Any, Any], bool]
    """The same in Python: (self, old) → legal. ``old`` is None unless this is a transition rule."""

    @property
    def transition(self) -> bool:
        """Whether it compares with the object before an update."""
        return "oldSelf" in self.cel


class Model(BaseModel):
    """A node of the API: YAML names are camelCase, docstrings of fields are what ``kubectl explain`` prints."""

    model_config = ConfigDict(
        alias_generator=wire_name,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        extra="ignore",
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()


class OpenModel(Model):
    """A node whose other fields are kept as they are, such as a container of a pod template."""

    model_config = ConfigDict(extra="allow")


Duration = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$", max_length=32)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$", max_length=32)]
DatabaseName = Annotated[
    str,
    Field(
        pattern=r"^[^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]{0,126}(/[^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]{0,126}){0,7}$",
        max_length=255,
    ),
]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Int32 = Annotated[int, Field(json_schema_extra={"format": "int32"})]
Int64 = Annotated[int, Field(json_schema_extra={"format": "int64"})]


def duration_seconds(text: str) -> float:
    """``1m30s`` → 90.0.

    Raises:
        ValueError: the text is no duration.
    """
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration such as 500ms, 10s or 1h30m")
    return float(sum(Decimal(number) * _DURATION_UNITS[unit] for number, unit in parts))


def quantity_value(text: str) -> Decimal:
    """``1Gi`` → 1073741824, ``50m`` → 0.05.

    Raises:
        ValueError: the text is no quantity.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no quantity such as 500m, 2 or 1Gi")
    number, unit = Decimal(match[1]), match[2] or ""
    if unit in _BINARY_UNITS:
        return number * Decimal(1024 ** _BINARY_UNITS[unit])
    scale = _DECIMAL_UNITS[unit]
    return number * 1000**scale if scale >= 0 else number / 1000
