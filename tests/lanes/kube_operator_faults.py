"""Scenes of lane ``kube_operator``: an API that fails, and an operator that dies."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from support import kube, lane, promlint
from support.faultproxy import FAULTS
from support.operatorscene import Scene, manifest, scene

CASES, case = lane.registry()
KILL_PARTS = 10


def settled_calls(made: Scene) -> int:
    """Make a cluster undisturbed; how many requests that took."""
    before = made.proxy.seen.requests
    made.apply("first")
    made.ready("first")
    return made.proxy.seen.requests - before


def _killed(part: int, run: lane.Run) -> None:
    """The operator dies at one of its requests, before or after it was done; the next one brings it to the end."""
    with scene(run.new_folder("kills")) as made:
        calls = settled_calls(made)
        moments = range(part, calls, KILL_PARTS)
        run.say(f"a cluster takes {calls} requests until it is settled; killed at {', '.join(map(str, moments))}")
        for number, moment in enumerate(moments):
            _kill_at(made, moment, after=bool(number % 2))
            name = f"c{number}"
            made.apply(name)
            made.until("the operator is killed", lambda: not made.operator.running, 60)
            made.proxy.decide = lambda _n, _m, _p: ""
            made.forget_leader()  # else the next one waits for the Lease's end, which is another scene's subject
            made.operator.start()
            made.ready(name)
            made.patch('{"spec":{"disruptionBudget":"Disabled"}}', name)
            made.until("an edit", lambda name=name: not made.exists(f"poddisruptionbudget/{name}"))
            kube.kubectl("-n", made.namespace, "delete", "sqlitecluster", name, "--timeout=60s", limit_s=70)


KILLS: dict[str, lane.Case] = {
    f"killed-at-each-call-{part}-of-{KILL_PARTS}": partial(_killed, part) for part in range(1, KILL_PARTS + 1)
}
"""Together they kill the operator at every request that a new cluster takes; each is as long as another scene."""
CASES |= dict(list(KILLS.items())[:1])


def _kill_at(made: Scene, moment: int, *, after: bool) -> None:
    start = made.proxy.seen.requests

    def decide(number: int, _method: str, _path: str) -> str:
        if number - start != moment:
            return ""
        if not after:
            made.operator.kill()
            return "cut"
        return "lost"

    def decide_after(number: int, method: str, path: str) -> str:
        if number - start > moment:
            made.operator.kill()
            return "cut"
        return decide(number, method, path)

    made.proxy.decide = decide_after if after else decide


@case
def every_third_request_fails(run: lane.Run) -> None:
    """409, 429, 500, 503, lost answers and time-outs: it converges all the same, and acts on changes."""
    rng = run.rng("faults")
    with scene(run.new_folder("faults")) as made:
        made.proxy.decide = lambda _number, method, _path: _fault(rng, method)
        made.apply()
        with kept_running(made):
            made.ready(limit_s=180)
            made.apply(template=manifest(image="notes:2")["spec"]["template"])
            made.until("the update", lambda: _all_new(made), 240)
        made.proxy.decide = lambda _number, _method, _path: ""
        made.ready()
        run.say(f"{made.proxy.seen.faults} of {made.proxy.seen.requests} requests failed")
        assert made.operator.get("/healthz", made.operator.health)[0] == 200


@contextmanager
def kept_running(made: Scene) -> Iterator[None]:
    """Start the operator again when it ends, as Kubernetes does."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(1.0):
            if not made.operator.running:
                made.operator.start()

    thread = threading.Thread(target=keep, name="restarts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def _fault(rng: random.Random, method: str) -> str:
    chance = rng.random()
    if chance < 0.01:
        return "hang"
    if chance > 0.33:
        return ""
    return rng.choice([one for one in FAULTS if one != "hang" and (one != "409" or method != "GET")])


def _all_new(made: Scene) -> bool:
    images = [pod["spec"]["containers"][0]["image"] for pod in made.pods()]
    return images == ["notes:2"] * 3


@case
def watches_that_end(run: lane.Run) -> None:
    """Watches expire or break again and again: changes are acted on all the same."""
    with scene(run.new_folder("watches")) as made:
        made.apply()
        made.ready()
        for number in range(6):
            made.proxy.cut_watches()
            _edit_is_acted_on(made, number)
        assert made.proxy.seen.watches_cut > 0


@case
def watches_that_expire(run: lane.Run) -> None:
    """410 Gone: in a stream the operator lists anew; as an answer to a watch it may end, and its next life lists."""
    with scene(run.new_folder("expired")) as made:
        made.apply()
        made.ready()
        for number in range(4):
            made.proxy.expire_watches()
            _edit_is_acted_on(made, number)
        assert made.operator.running, made.operator.tail()
        with kept_running(made):
            for number in range(2):
                made.proxy.expire_watches(answer=True)
                _edit_is_acted_on(made, number)
        seen = made.proxy.seen
        run.say(f"{seen.watches_expired} watches expired in their stream, {seen.watches_gone} were answered 410")
        assert seen.watches_expired > 0 and seen.watches_gone > 0


def _edit_is_acted_on(made: Scene, number: int) -> None:
    """Take the disruption budget away, or have it back."""
    wanted = bool(number % 2)
    made.patch(f'{{"spec":{{"disruptionBudget":"{"Auto" if wanted else "Disabled"}"}}}}')
    made.until("an edit", lambda: made.exists("poddisruptionbudget/notes") == wanted, 40)


@case
def an_api_that_is_away(run: lane.Run) -> None:
    """No request is answered for a while: the operator gives up its leadership, and a new start goes on."""
    with scene(run.new_folder("away")) as made:
        made.apply()
        made.ready()
        made.proxy.decide = lambda _number, _method, _path: "503"
        began = time.monotonic()
        made.until("it ends", lambda: not made.operator.running, 40)
        run.say(f"the operator ended {time.monotonic() - began:.1f} s after the API went away")
        made.proxy.decide = lambda _number, _method, _path: ""
        made.patch('{"spec":{"disruptionBudget":"Disabled"}}')
        made.operator.start()
        made.until("an edit", lambda: not made.exists("poddisruptionbudget/notes"))


@case
def two_operators_and_one_works(run: lane.Run) -> None:
    """The second waits, and takes over when the first is killed or stops."""
    with scene(run.new_folder("two")) as made:
        second = made.another()
        second.start()
        made.until("the second serves", lambda: second.get("/healthz", second.health)[0] == 200)
        made.apply()
        made.ready()
        assert second.metrics()["sqlitecluster_operator_leader"] == 0
        wrong = promlint.complaints(second.get("/metrics", second.metrics_port)[1])
        assert not wrong, wrong
        made.operator.kill()
        began = time.monotonic()
        second.wait_leading(40)
        run.say(f"taken over {time.monotonic() - began:.1f} s after a kill")
        made.patch('{"spec":{"disruptionBudget":"Disabled"}}')
        made.until("an edit", lambda: not made.exists("poddisruptionbudget/notes"))
        made.operator.start()
        made.until("the first waits", lambda: made.operator.get("/healthz", made.operator.health)[0] == 200)
        began = time.monotonic()
        assert second.stop() == 0
        made.operator.wait_leading(20)
        run.say(f"taken over {time.monotonic() - began:.1f} s after a stop")
        assert time.monotonic() - began < 10
