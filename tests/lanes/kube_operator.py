"""Lane ``kube_operator``: the operator against a real API server.

Pods are played (``support.puppets``), so a scene takes seconds: it is about objects, order,
faults and convergence. What needs real sidecars is in the lanes beside this one.
``many-clusters`` prints memory, API calls and the time until a change is acted on.
"""

from __future__ import annotations

import argparse
import sys
from itertools import zip_longest

from lanes import kube_operator_faults, kube_operator_life, kube_operator_many, kube_operator_quorum
from support import lane


def _mixed(first: dict[str, lane.Case], second: dict[str, lane.Case]) -> dict[str, lane.Case]:
    """Of both by turns, so that a short run has some of each."""
    pairs = zip_longest(first.items(), second.items())
    return {name: case for pair in pairs for name, case in filter(None, pair)}


CASES = (
    _mixed(kube_operator_life.CASES, kube_operator_faults.CASES)
    | kube_operator_quorum.CASES
    | kube_operator_many.CASES
    | kube_operator_faults.KILLS
)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clusters", type=int, default=200, help="how many many-clusters makes (default: %(default)s)")


def main() -> int:
    """Entry of ``python -m lanes.kube_operator``."""
    run = lane.parse("kube_operator", "scenes", len(CASES), _options)
    if run.options.list:
        print("\n".join(CASES))
        return 0
    return lane.run_lane(run, lambda r: lane.run_cases(r, CASES))


if __name__ == "__main__":
    sys.exit(main())
