"""Who the primary is: a pure elector over one Kubernetes Lease. docs/election.md has the rules.

    record       the Lease as a value, from and to its Kubernetes object
    messages     events that the elector is told, actions that it wants done
    machine      ``Elector.step(event) -> actions``
    observation  what was seen of the Lease, and when it may be taken
    candidacy    who of several should take it
    transfer     a hand-off
    holding      going on without the API server, by agreement of all candidates

No I/O, no clock: moments come with the events.
"""

from sqlitecluster.election.instants import Instant
from sqlitecluster.election.machine import Elector, ElectorSettings
from sqlitecluster.election.record import HandOff, HandOffResult, Holder, LeaseRecord

__all__ = ["Elector", "ElectorSettings", "HandOff", "HandOffResult", "Holder", "Instant", "LeaseRecord"]
