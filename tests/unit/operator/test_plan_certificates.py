"""The plan when the cluster's certificate authority is not in order."""

from __future__ import annotations

from sqlitecluster_operator.reconcile.actions import Note
from sqlitecluster_operator.reconcile.case import Disorder
from support.operator_cases import cluster, condition, decide, lease

TAKEN = Disorder("Secret shop/notes-ca exists and does not belong to this SQLiteCluster", foreign=True)


def test_a_foreign_secret_is_the_reason_why_a_cluster_never_begins() -> None:
    made = decide(cluster(status={}), (), lease("", epoch=0), certificates=TAKEN)

    assert condition(made)["reason"] == "ForeignObject"
    assert TAKEN.text in condition(made)["message"]
    assert condition(made, "Stalled")["status"] == "True"


def test_a_cluster_that_led_goes_on_with_the_certificates_that_it_has() -> None:
    made = decide(certificates=TAKEN)

    assert condition(made)["reason"] == "ClusterHealthy"
    assert condition(made, "CertificatesValid")["status"] == "False"


def test_an_event_tells_once_that_certificates_are_not_in_order() -> None:
    made = decide(certificates=Disorder("Secret notes-ca holds no authority"))
    told = Note("CertificatesNotInOrder", "Secret notes-ca holds no authority", warning=True)

    assert told in made.notes
    assert told not in decide(cluster(status=made.status), certificates=Disorder("other words")).notes
    assert not [note for note in decide().notes if note.reason == told.reason]
