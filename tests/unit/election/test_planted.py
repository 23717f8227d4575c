"""The simulation finds what it is there for: bugs planted into holding by agreement, each with its seeds.

A change of the simulated world moves the seeds: look for new ones in ``range(250)``.
"""

from __future__ import annotations

import pytest

from sqlitecluster.election import candidacy
from sqlitecluster.election.agreeing import Agreeing
from sqlitecluster.election.holding import Agreement, Pledge
from sqlitecluster.election.instants import Instant
from sqlitecluster.election.messages import SetFence
from support.electionsim import simulate


def pledges_are_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pledge, "binds", lambda *_: False)
    patch.setattr(candidacy, "still_held", lambda *_: "")


def strangers_ask_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(candidacy, "still_held", lambda *_: "")


def one_agreement_is_enough(patch: pytest.MonkeyPatch) -> None:
    def since(self: Agreement, _needed: object) -> Instant | None:
        return max(self._given.values(), key=lambda moment: moment.boot_ns, default=None)

    patch.setattr(Agreement, "since", since)


def held_for_too_long(patch: pytest.MonkeyPatch) -> None:
    def prolong(self: Agreeing, since: Instant, now: Instant) -> None:
        deadline = since.plus(self._fence_ns * 3)
        if now.until(deadline) > now.until(self.fence):
            self.fence = deadline
            self._do(SetFence(deadline))

    patch.setattr(Agreeing, "_prolong", prolong)


@pytest.mark.parametrize(
    ("plant", "seeds"),
    [
        (pledges_are_ignored, (4, 10, 17)),
        (strangers_ask_nobody, (5,)),
        (one_agreement_is_enough, (34, 65)),
        (held_for_too_long, (5, 9, 21)),
    ],
    ids=lambda value: getattr(value, "__name__", "seeds"),
)
def test_a_planted_bug_is_found(plant: object, seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(plant)
    assert not [text for seed in seeds for text in simulate(seed).violations]
    plant(monkeypatch)
    found = [text for seed in seeds for text in simulate(seed).violations]
    assert any("is open while" in text for text in found), f"seeds {seeds} do not show it any more"
