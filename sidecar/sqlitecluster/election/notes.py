"""Texts of the Lease's annotations: small values from and to them.

Rule: what is no legal text counts as absent; nothing here raises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

PREFIX: Final = "sqlitecluster.dev/"
TEXT_MAX: Final = 4096
_EPOCH_0: Final = datetime(1970, 1, 1, tzinfo=UTC)


def micro_time(real_ns: int) -> str:
    """RFC 3339 in UTC with microseconds, as Kubernetes writes MicroTime."""
    text = (_EPOCH_0 + timedelta(microseconds=real_ns // 1000)).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def parse_time(text: str) -> int | None:
    """An RFC 3339 moment in ns; None when it is not one."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return (moment - _EPOCH_0) // timedelta(microseconds=1) * 1000


def set_note(notes: dict[str, str], key: str, text: str) -> None:
    """Write an annotation; an empty text removes it."""
    if text:
        notes[key] = text
    else:
        notes.pop(key, None)


def names(text: str) -> frozenset[str]:
    """A JSON list of names; what is no list names nobody."""
    return frozenset(name for name in json_list(text) or () if isinstance(name, str))


def json_list(text: str) -> list[Any] | None:
    """A JSON list; None when it is none."""
    value = _json(text)
    return value if isinstance(value, list) else None


def json_object(text: str) -> dict[str, Any]:
    """A JSON object; empty when it is none."""
    value = _json(text) if len(text) <= TEXT_MAX else None
    return value if isinstance(value, dict) else {}


def mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object within an object; empty when there is none."""
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def text_of(value: Mapping[str, Any], key: str) -> str:
    """A text within an object; empty when there is none."""
    found = value.get(key)
    return found if isinstance(found, str) and len(found) <= TEXT_MAX else ""


def int_of(value: Mapping[str, Any], key: str) -> int | None:
    """A number within an object; None when there is none."""
    found = value.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return int(found)


def _json(text: str) -> object:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
