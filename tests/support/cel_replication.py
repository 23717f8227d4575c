"""Rules about ``spec.replication`` and what a primary does without an API server; part of ``cel_cases``."""

from __future__ import annotations

from typing import Any, Final

from support.cel_case import Case, Change, merged, pod, primary, spec

_QUORUM: Final = {"mode": "Quorum", "acks": 2}


def _replication(**fields: Any) -> Change:
    return spec(replication=fields)


def _quorum(**fields: Any) -> Change:
    return spec(replication={**_QUORUM, **fields})


RULES: Final = [
    Case(
        "acks-of-instances",
        "acks to be less than instances",
        _quorum(),
        _quorum(acks=3),
        "spec.replication.acks",
    ),
    Case(
        "acks-alone",
        "needs acks to be less than instances",
        spec(instances=1),
        {"spec": {"instances": 1, "replication": {"mode": "Quorum"}}},
        "spec.replication.acks",
    ),
    Case(
        "acks-of-fewer-instances",
        "acks to be less than instances",
        spec(instances=4),
        spec(instances=2),
        "spec.replication.acks",
        before=_quorum(),
    ),
    Case(
        "acks-async",
        "more than one of acks needs mode: Quorum",
        _replication(acks=1),
        _replication(acks=2),
        "spec.replication.acks",
    ),
    Case(
        "durability-async",
        "durability: Preferred needs mode: Quorum",
        _quorum(durability="Preferred"),
        _replication(durability="Preferred"),
        "spec.replication.durability",
    ),
    Case(
        "spread-async",
        "spread needs mode: Quorum",
        _quorum(spread="topology.kubernetes.io/zone"),
        _replication(spread="topology.kubernetes.io/zone"),
        "spec.replication.spread",
    ),
    Case(
        "spread-none",
        "use spec.topologySpread",
        _replication(spread=""),
        _replication(spread="rack"),
        "spec.replication.spread",
    ),
    Case(
        "ack-timeout-short",
        "ackTimeout must be between 1s and 30s",
        _replication(ackTimeout="1s"),
        _replication(ackTimeout="999ms"),
        "spec.replication.ackTimeout",
    ),
    Case(
        "ack-timeout-long",
        "ackTimeout must be between 1s and 30s",
        _quorum(ackTimeout="30s"),
        _quorum(ackTimeout="31s"),
        "spec.replication.ackTimeout",
    ),
    Case(
        "ack-timeout-grace",
        "less than the template's terminationGracePeriodSeconds",
        merged(_quorum(ackTimeout="9s"), pod(terminationGracePeriodSeconds=10)),
        merged(_quorum(ackTimeout="10s"), pod(terminationGracePeriodSeconds=10)),
        "spec.replication.ackTimeout",
    ),
    Case(
        "ack-timeout-grace-async",
        "less than the template's terminationGracePeriodSeconds",
        pod(terminationGracePeriodSeconds=2),
        merged(_quorum(), pod(terminationGracePeriodSeconds=2)),
        "spec.replication.ackTimeout",
    ),
]

SCHEMA: Final = [
    Case(
        "replication-mode",
        "Quorum",
        _replication(mode="Quorum"),
        _replication(mode="Sync"),
        "spec.replication.mode",
        schema=True,
    ),
    Case("acks-none", "1", _quorum(acks=1), _quorum(acks=0), "spec.replication.acks", schema=True),
    Case(
        "durability-values",
        "Required",
        _quorum(durability="Required"),
        _quorum(durability="Best"),
        "spec.replication.durability",
        schema=True,
    ),
    Case(
        "local-durability",
        "SQLite",
        _replication(localDurability="Always"),
        _replication(localDurability="Never"),
        "spec.replication.localDurability",
        schema=True,
    ),
    Case(
        "spread-form",
        "",
        _quorum(spread="example.test/rack_1"),
        _quorum(spread="/rack"),
        "spec.replication.spread",
        schema=True,
    ),
    Case(
        "spread-name-length",
        "",
        _quorum(spread="a" * 63),
        _quorum(spread="a" * 64),
        "spec.replication.spread",
        schema=True,
    ),
    Case(
        "api-outage-policy",
        "Fence",
        primary(apiOutagePolicy="HoldIfPeersAgree"),
        primary(apiOutagePolicy="Hold"),
        "spec.primary.apiOutagePolicy",
        schema=True,
    ),
    Case(
        "grace-period",
        "0",
        pod(terminationGracePeriodSeconds=0),
        pod(terminationGracePeriodSeconds=-1),
        "spec.template.spec.terminationGracePeriodSeconds",
        schema=True,
    ),
]

CASES: Final = [*RULES, *SCHEMA]
