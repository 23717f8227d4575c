"""Hibernation: nobody writes and all replicas have everything before the pods go; and how a cluster wakes up."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile.actions import AnnotateLease, Apply, Memory
from sqlitecluster_operator.reconcile.observed import PodView, Probe, Surroundings
from sqlitecluster_operator.runtime import probes
from sqlitecluster_operator.runtime.store import Key
from support.operator_cases import CLOCK, OPEN, STATUS, changed, cluster, condition, decide, lasting, lease, pods_of

ALL = '["*"]'
HAS = {"app.db": (7, 70)}
LACKS = {"app.db": (6, 60)}
STILL = f"hibernation at {sorted(HAS.items())}"
FENCED = (("Fenced", "by spec.fence, or because the cluster hibernates"),)
ASLEEP = {"hibernate": True}


def unready(pods: tuple[PodView, ...]) -> tuple[PodView, ...]:
    """A fenced pod is not ready."""
    return tuple(replace(pod, ready=False) for pod in pods)


def said(primary: dict[str, Any] | None = None, **others: Any) -> dict[str, Probe]:
    """What three sidecars say: all fenced, all with the same positions unless told otherwise."""
    found = {
        name: Probe(role="replica", problems=FENCED, positions=others.get(name.replace("-", "_"), HAS))
        for name in ("notes-1", "notes-2")
    }
    return {"notes-0": Probe(**{"role": "fenced", "problems": FENCED, "positions": HAS} | (primary or {})), **found}


def going(answers: dict[str, Probe], *since: str, **more: Any) -> Any:
    """A look at a cluster that is to hibernate and is fenced already."""
    raw = cluster(ASLEEP)
    pods = more.pop("pods", unready(pods_of(raw)))
    held = more.pop("held", lease(fenced=ALL))
    return decide(raw, pods, held, replicas=3, memory=lasting(*since), around={"probes": answers}, **more)


def replicas_of(made: Any) -> int | None:
    for action in made.actions:
        if isinstance(action, Apply) and action.body["kind"] == "StatefulSet":
            return int(action.body["spec"]["replicas"])
    return None


def fence_of(made: Any) -> str | None:
    """What the plan writes about fences: None when it does not."""
    for action in made.actions:
        if isinstance(action, AnnotateLease) and names.ANNOTATION_FENCED in action.annotations:
            return action.annotations[names.ANNOTATION_FENCED] or ""
    return None


def notes_of(made: Any) -> list[str]:
    return [note.reason for note in made.notes]


# -- going to sleep ---------------------------------------------------------------------


def test_first_of_all_nobody_may_write() -> None:
    made = decide(cluster(ASLEEP))

    assert (fence_of(made), replicas_of(made)) == (ALL, None)
    assert condition(made)["reason"] == "Hibernating"
    assert "nobody may write" in condition(made)["message"]
    assert made.look_again_s <= 1.0


def test_who_is_fenced_by_the_spec_stays_named() -> None:
    assert fence_of(decide(cluster({**ASLEEP, "fence": ["notes-1"]}))) == '["*", "notes-1"]'


def test_pods_go_when_all_have_what_the_fenced_primary_has() -> None:
    first = going(said())
    made = going(said(), STILL)

    assert (replicas_of(first), replicas_of(made)) == (None, 0)
    assert fence_of(made) is None
    assert "HibernationIncomplete" not in notes_of(made)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (said({"role": "primary"}), "still may write"),
        (said({"problems": ()}), "still may write"),
        (said({"positions": None}), "does not say what it has"),
        (said(notes_2=LACKS), "notes-2: not known"),
        (said(notes_1={}, notes_2=None), "notes-1, notes-2: not known"),
        ({"notes-0": said()["notes-0"]}, "notes-1, notes-2: not known"),
        ({"notes-1": said()["notes-1"]}, "notes-0, the primary, does not say"),
        ({}, "notes-0, the primary, does not say"),
    ],
)
def test_they_stay_while_something_is_missing_and_it_is_said_what(answers: dict[str, Probe], words: str) -> None:
    made = going(answers, STILL)
    late = going(answers, STILL, "hibernation")

    assert replicas_of(made) is None
    assert words in condition(made)["message"]
    assert replicas_of(late) == 0
    assert "HibernationIncomplete" in notes_of(late)


def test_databases_that_only_a_replica_has_do_not_matter() -> None:
    assert replicas_of(going(said(notes_1={**HAS, "old.db": (1, 1)}), STILL)) == 0


def test_a_pod_that_is_not_there_is_waited_for() -> None:
    made = going(said(), STILL, pods=unready(pods_of(cluster(ASLEEP), 2)))

    assert replicas_of(made) is None
    assert "notes-2 is not there" in condition(made)["message"]


def test_ready_pods_of_which_none_answers_go_soon_after_the_fence() -> None:
    """The operator cannot reach them at all; those that are told to stand still are not ready, as a rule."""
    pods = pods_of(cluster(ASLEEP))

    assert replicas_of(going({}, pods=pods)) is None
    made = going({}, "hibernation unanswered", pods=pods)
    assert replicas_of(made) == 0
    assert "HibernationUnchecked" in notes_of(made)
    assert replicas_of(going({}, "hibernation unanswered", pods=changed(pods, 1, ready=False))) is None


def test_without_a_primary_somebody_may_still_become_it() -> None:
    free = lease(holder="")
    made, late = going({}, held=free), going({}, "hibernation", held=free)

    assert (fence_of(made), replicas_of(made)) == (None, None)
    assert "no instance is the primary" in condition(made)["message"]
    assert (fence_of(late), replicas_of(late)) == (ALL, 0)


def test_a_cluster_that_was_never_led_has_nothing_to_lose() -> None:
    raw = cluster(ASLEEP, status={})
    made = decide(raw, unready(pods_of(raw)), lease(holder="", epoch=0), replicas=3)

    assert replicas_of(made) == 0


def test_a_hand_off_is_not_disturbed() -> None:
    raw = cluster(ASLEEP, status={**STATUS, "handoff": {**OPEN, "requestedAt": "2026-11-21T11:59:59Z"}})

    assert fence_of(decide(raw)) is None


def test_who_sleeps_soon_hands_nothing_off() -> None:
    made = going({}, pods=changed(pods_of(cluster(ASLEEP)), 0, deleting=True))

    assert [one for one in made.actions if isinstance(one, AnnotateLease)] == []


# -- asleep, and waking up --------------------------------------------------------------


def test_the_fence_stays_until_no_pod_is_left() -> None:
    raw = cluster(ASLEEP)
    held = lease(fenced=ALL)

    leaving = decide(raw, pods_of(raw, 1), held, replicas=0)
    assert (fence_of(leaving), replicas_of(leaving)) == (None, None)
    assert condition(leaving)["message"] == "1 pods are left"
    assert fence_of(decide(raw, (), held, replicas=0)) == ""


def test_called_off_before_the_pods_went_the_fence_is_lifted() -> None:
    assert fence_of(decide(held=lease(fenced=ALL))) == ""
    asked = decide(cluster({"fence": ["*"]}), held=lease(fenced=ALL))
    assert fence_of(asked) is None


def test_a_cluster_wakes_up_after_the_last_pod_went() -> None:
    """One that is still there could write, while new pods elect another one."""
    raw, held = cluster(), lease(fenced=ALL)
    early = decide(raw, pods_of(raw, 1), held, replicas=0)

    assert (fence_of(early), replicas_of(early)) == (None, None)
    assert early.look_again_s <= 1.0
    made = decide(raw, (), held, replicas=0)
    assert (fence_of(made), replicas_of(made)) == ("", 3)


def test_a_pod_that_never_goes_does_not_keep_it_asleep_for_ever() -> None:
    raw = cluster()
    memory = Memory(since={"pods are leaving": CLOCK - 121})
    made = decide(raw, pods_of(raw, 1), lease(fenced=ALL), replicas=0, memory=memory)

    assert (fence_of(made), replicas_of(made)) == ("", 3)


# -- what sidecars are asked ------------------------------------------------------------


def test_positions_are_read_without_their_epochs() -> None:
    read = probes.read({"role": "fenced", "positions": {"app.db": [3, 7, 70]}})

    assert read is not None
    assert read.positions == HAS
    for odd in (None, [], {"app.db": 7}, {"app.db": [1, "x", 2]}, {"app.db": [1]}):
        unknown = probes.read({"positions": odd})
        assert unknown is not None
        assert unknown.positions is None


def test_sidecars_are_asked_again_soon_while_a_decision_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def answer(_self: Any, pod: PodView) -> None:
        asked.append(pod.name)

    async def drive() -> None:
        made = probes.InfoProbes()
        around = Surroundings(pods=pods_of(cluster(), 1))
        for often in (False, False, True, True):
            await made.ask(Key("shop", "notes"), around, often=often)
        monkeypatch.setattr(probes, "OFTEN_S", 0.0)
        await made.ask(Key("shop", "notes"), around, often=True)
        await made.close()

    monkeypatch.setattr(probes.InfoProbes, "_ask", answer)
    asyncio.run(drive())
    assert asked == ["notes-0", "notes-0"]
