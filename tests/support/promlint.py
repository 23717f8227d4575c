"""What Prometheus' own rules for names, labels, units and help texts find wrong with our metrics."""

from __future__ import annotations

import subprocess

from support.gotool import built

CALL_TIMEOUT_S = 60


def complaints(text: str) -> list[str]:
    """One line each; ``text`` as ``/metrics`` answers it.

    Raises:
        NoGoError: the tool cannot be built.
        CalledProcessError: Prometheus cannot read the text at all.
    """
    program = built("promlint", "promlint", ".")
    done = subprocess.run([program], input=text, capture_output=True, text=True, timeout=CALL_TIMEOUT_S, check=True)
    return done.stdout.splitlines()
