"""What the Lease says about acknowledgements: who counts, how many there are, and what people decided.

A ``Promise`` is written by primaries only, and by the same compare-and-swap that makes a
primary use it: a candidate judges by what the last primary really promised, never by its
own configuration. ``quorum`` has the rule for candidates, ``membership`` that of primaries.

Rules:
    1. A store id stands for a volume: a volume that was lost, or wiped, comes back as another.
    2. A text that is not legal never frees a candidate of the rule (``spoiled``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sqlitecluster.election.notes import PREFIX, json_list, json_object, micro_time, parse_time, set_note, text_of
from sqlitecluster.errors import FormatError
from sqlitecluster.units import format_node_id, parse_node_id

MEMBERS: Final = PREFIX + "members"
ACKS: Final = PREFIX + "acks"
DEGRADED: Final = PREFIX + "degraded-since"
STORE: Final = PREFIX + "store"
LOSS: Final = PREFIX + "accept-data-loss"
LOSS_HANDLED: Final = PREFIX + "accept-data-loss-handled"
ANYBODY: Final = ("", "*")
_ACKS_DIGITS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What acknowledged transactions can rely on."""

    members: frozenset[int] = frozenset()
    """Store ids that count, the primary's own among them."""
    acks: int = 0
    """An acknowledged transaction is on the primary and on so many other members; 0: nothing is promised."""
    degraded_ns: int | None = None
    """Since when (wall clock) commits may have had fewer acknowledgements."""
    store: int = 0
    """Store id of the holder: its volume has everything that was acknowledged."""
    spoiled: bool = field(default=False, compare=False)
    """There is something in the annotations that cannot be read."""

    @property
    def is_given(self) -> bool:
        """Whether transactions were acknowledged under a promise that candidates know."""
        return self.acks > 0

    @property
    def needed(self) -> int:
        """How many members must answer: any so many have one among them that holds what was acknowledged."""
        return max(1, len(self.members) - self.acks)

    def write(self, notes: dict[str, str]) -> None:
        """Into the annotations of a Lease."""
        set_note(notes, MEMBERS, members_text(self.members))
        set_note(notes, ACKS, str(self.acks) if self.acks > 0 else "")
        set_note(notes, DEGRADED, micro_time(self.degraded_ns) if self.degraded_ns is not None else "")
        set_note(notes, STORE, format_node_id(self.store) if self.store else "")

    @classmethod
    def read(cls, notes: Mapping[str, object]) -> Promise:
        """From the annotations of a Lease."""
        members, acks = _members(notes.get(MEMBERS)), _acks(notes.get(ACKS))
        store = _store(notes.get(STORE)) or 0
        spoiled = members is None or acks is None or acks >= max(1, len(members))
        return cls(
            members=members or frozenset(),
            acks=acks or 0,
            degraded_ns=parse_time(text_of(notes, DEGRADED)),
            store=store,
            spoiled=spoiled,
        )


@dataclass(frozen=True, slots=True)
class DataLoss:
    """People accept that acknowledged transactions may be lost; the operator writes it."""

    id: str
    to: str = ""
    """The pod that may take over; empty or ``*``: any."""

    def allows(self, pod: str) -> bool:
        """Whether it lets a pod take over."""
        return self.to in ANYBODY or self.to == pod

    def to_json(self) -> str:
        """The annotation's text."""
        return json.dumps({"id": self.id, "to": self.to}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> DataLoss | None:
        """Read the annotation; None when it is not one."""
        value = json_object(text)
        id_ = text_of(value, "id")
        return cls(id_, text_of(value, "to")) if id_ and isinstance(value.get("to", ""), str) else None


def members_text(members: frozenset[int]) -> str:
    """The annotation's text; empty for nobody."""
    return json.dumps([format_node_id(member) for member in sorted(members)], separators=(",", ":")) if members else ""


def _members(value: object) -> frozenset[int] | None:
    if value is None or value == "":
        return frozenset()
    found = json_list(value) if isinstance(value, str) else None
    stores = [_store(item) for item in found] if found is not None else [None]
    known = [store for store in stores if store]
    return frozenset(known) if len(known) == len(stores) else None


def _acks(value: object) -> int | None:
    if value is None or value == "":
        return 0
    if not isinstance(value, str) or not (value.isascii() and value.isdigit()) or len(value) > _ACKS_DIGITS:
        return None
    return int(value)


def _store(value: object) -> int | None:
    try:
        return parse_node_id(value) if isinstance(value, str) else None
    except FormatError:
        return None
