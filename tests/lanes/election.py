"""Lane: thousands of simulated clusters; never two open fences, never an epoch twice.

Each seed is one run of ``support.electionsim``: three to five electors with clocks of
different speed, and a random sequence of pauses, crashes, restarts, partitions, lost and
late answers, a frozen API, a Lease that is deleted, emptied or set back, hand-offs and
stops. With an odd seed commits wait for acknowledgements, volumes are lost and pods come and
go (``support.electionquorum``): no take-over loses what was acknowledged. Before that every way
to lose nodes is tried against the rule for taking over (``support.quorumtable``).
A seed that fails is a command: ``python -m lanes.election --only SEED``.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

from support import electionquorum, electionsim, lane, quorumtable
from support.electionnodes import Outcome
from support.lane import Run

CHUNK = 10


def simulate(seed: int, *, trace: bool = False) -> Outcome:
    """One run; in those with an odd seed commits wait for acknowledgements."""
    return (electionquorum if seed % 2 else electionsim).simulate(seed, trace=trace)


def body(run: Run) -> None:
    """Seeds up to the count, on all processors."""
    if run.options.only:
        run.wanted = 1
        outcome = simulate(int(run.options.only), trace=True)
        print("\n".join(outcome.trace))
        take(run, outcome, [])
        return
    tables(run)
    first = run.rng().randrange(1 << 40)
    takeovers: list[float] = []
    openings = hand_offs = acknowledged = members = accepted = 0
    held_s = 0.0
    with multiprocessing.get_context("spawn").Pool(min(2, os.cpu_count() or 1)) as pool:
        for outcome in pool.imap_unordered(simulate, range(first, first + run.wanted), CHUNK):
            take(run, outcome, takeovers)
            openings += outcome.openings
            hand_offs += outcome.hand_offs
            held_s += outcome.held_s
            acknowledged += outcome.acknowledged
            members += outcome.member_changes
            accepted += outcome.losses_accepted
            if len(run.violations) >= 10:
                break
    run.say(f"{openings} openings, {hand_offs} of them by hand-off; {held_s:.0f} s held by agreement")
    run.say(f"{acknowledged} commits acknowledged by members, {members} changes of members, {accepted} losses accepted")
    if members < run.done:
        run.violation(f"only {members} changes of members: nothing was tried")
    if held_s <= run.done / 10:
        run.violation(f"only {held_s:.1f} s were held by agreement: nothing was tried")
    if takeovers:
        takeovers.sort()
        p50, p99 = takeovers[len(takeovers) // 2], takeovers[int(len(takeovers) * 0.99)]
        run.say(f"{len(takeovers)} losses in simulated time: open again p50 {p50:.1f} s, p99 {p99:.1f} s")


def tables(run: Run) -> None:
    """All ways to lose nodes, for each number of replicas and acknowledgements."""
    cases = 0
    for replicas in quorumtable.REPLICAS:
        for acks in range(1, replicas + 1):
            cases += sum(1 for _ in quorumtable.losses(replicas, acks))
            found = quorumtable.survived(replicas, acks)
            if (found.take_over, found.writing) != (acks, replicas - acks):
                run.violation(f"{replicas} replicas, {acks} acknowledgements: {found}")
    run.say(f"{cases} ways to lose nodes tried against the rule for taking over")


def take(run: Run, outcome: Outcome, takeovers: list[float]) -> None:
    """Count one run."""
    for text in outcome.violations[:1]:
        run.violation(text)
    takeovers += outcome.takeovers_s
    run.count()


def main() -> int:
    """Entry of ``python -m lanes.election``."""
    return lane.run_lane(lane.parse("election", "seeds", 400, None), body)


if __name__ == "__main__":
    sys.exit(main())
