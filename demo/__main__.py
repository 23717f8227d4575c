"""``make demo``: a cluster, an operator, a program that writes; then its primary moves, and is lost.

    python -m demo [--rate 50]

Environment: ``DEMO_CONTEXT`` a context of your kubectl instead of a cluster on this machine,
``DEMO_NAMESPACE``, ``DEMO_LOSS=pod`` to delete the primary's pod where its node could be switched off.
It ends by itself after about two minutes; Ctrl-C ends it early. Nothing stays behind.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from types import FrameType

from demo import story
from demo.place import CannotPlayError, Place
from demo.story import step

from localcluster import ClusterError


def main() -> int:
    """Entry of ``python -m demo``."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="A SQLiteCluster, a hand-off and a failover.")
    parser.add_argument("--rate", type=float, default=50.0, help="rows a second of the client (default: %(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    place = Place(os.environ.get("DEMO_CONTEXT", ""))
    namespace = os.environ.get("DEMO_NAMESPACE") or "sqlitecluster-demo"
    began = time.monotonic()
    code = 1
    try:
        code = story.play(place, namespace, options.rate)
    except KeyboardInterrupt:
        print()
        step("interrupted")
        code = 130
    except CannotPlayError as error:
        print(f"demo: {error}", file=sys.stderr)
        code = 2
    except (ClusterError, story.NotSeenError) as error:
        print(f"demo: {error}", file=sys.stderr)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # cleaning up is not interrupted
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        place.leave()
    if code != 2:
        step(f"done after {time.monotonic() - began:.0f} s; nothing is left")
    return code


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
