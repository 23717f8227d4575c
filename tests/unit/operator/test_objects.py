"""The objects of a cluster: what the operator adds, and what stays as the user wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sqlitecluster.config.load import load
from sqlitecluster_operator import names, objects
from sqlitecluster_operator.objects import pods
from support import operator_cases as cases


def make(spec: dict[str, Any] | None = None, **more: Any) -> dict[tuple[str, str], dict[str, Any]]:
    made = objects.make(cases.read(cases.cluster(spec, **more)), cases.SETTINGS, 3, ())
    return {(body["kind"], body["metadata"]["name"]): body for body in made}


def pod_of(spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    template = make(spec, **more)["StatefulSet", "notes"]["spec"]["template"]
    assert isinstance(template, dict)
    return template


def test_a_short_object_gets_everything() -> None:
    assert set(make()) == {
        ("ServiceAccount", "notes"),
        ("Role", "notes"),
        ("RoleBinding", "notes"),
        ("ConfigMap", "notes-config"),
        ("Service", "notes-pods"),
        ("Service", "notes-rw"),
        ("Service", "notes-ro"),
        ("Service", "notes-r"),
        ("NetworkPolicy", "notes"),
        ("PodDisruptionBudget", "notes"),
        ("StatefulSet", "notes"),
    }


def test_everything_has_our_labels_and_the_cluster_as_its_controller() -> None:
    for body in make().values():
        meta = body["metadata"]
        assert meta["labels"].items() >= names.labels("notes").items()
        assert names.controller_uid(meta) == cases.UID
        assert meta["annotations"][names.ANNOTATION_APPLIED]


def test_the_statefulset_leaves_it_to_the_operator_when_a_pod_is_replaced() -> None:
    spec = make()["StatefulSet", "notes"]["spec"]

    assert spec["updateStrategy"] == {"type": "OnDelete"}
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["serviceName"] == "notes-pods"
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert spec["volumeClaimTemplates"][0]["spec"]["resources"] == {"requests": {"storage": "1Gi"}}


def test_claim_templates_that_exist_are_never_changed() -> None:
    old = ({"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "5Mi"}}}},)
    made = objects.make(cases.read(cases.cluster()), cases.SETTINGS, 3, old)

    assert made[-1]["spec"]["volumeClaimTemplates"] == list(old)


def test_the_sidecar_starts_before_what_the_user_starts() -> None:
    spec = {"template": {"spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "first"}]}}}
    inits = pod_of(spec)["spec"]["initContainers"]
    ours = [one["name"] for one in inits if one.get("restartPolicy") == "Always"]

    assert names.SIDECAR in ours
    assert [one["name"] for one in inits] == [*ours, "first"]


def test_what_the_user_wrote_stays() -> None:
    container = {
        "name": "app",
        "image": "notes:1",
        "securityContext": {"runAsUser": 1000},
        "volumeMounts": [{"name": "mine", "mountPath": "/mine"}],
        "unknownField": {"deep": [1, 2]},
    }
    given = {
        "containers": [container],
        "volumes": [{"name": "mine", "emptyDir": {}}],
        "hostname": "x",
        "dnsPolicy": "Default",
    }
    made = pod_of({"template": {"spec": given}})["spec"]

    assert made["hostname"] == "x"
    assert made["dnsPolicy"] == "Default"
    assert {key: made["containers"][0][key] for key in container if key != "volumeMounts"} == {
        key: value for key, value in container.items() if key != "volumeMounts"
    }
    assert made["containers"][0]["volumeMounts"][0] == {"name": "mine", "mountPath": "/mine"}
    assert {"name": "mine", "emptyDir": {}} in made["volumes"]


def test_only_the_named_containers_see_the_databases() -> None:
    spec = {
        "mount": {"path": "/srv", "containers": ["b"]},
        "template": {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}},
    }
    first, second = pod_of(spec)["spec"]["containers"]

    assert "volumeMounts" not in first
    assert [mount["mountPath"] for mount in second["volumeMounts"]] == ["/srv"]
    assert second["volumeMounts"][0]["mountPropagation"] == "HostToContainer"


def test_all_that_we_add_has_requests_and_limits() -> None:
    for spec in ({}, {"template": None}):
        pod = pod_of(spec)["spec"]
        added = [one for one in (*pod["initContainers"], *pod["containers"]) if one["name"] != "app"]
        for one in added:
            assert one["resources"]["requests"], one["name"]
            assert one["resources"]["limits"], one["name"]


def test_programs_get_no_token_of_the_api_but_the_sidecar_does() -> None:
    pod = pod_of()["spec"]
    sidecar = next(one for one in pod["initContainers"] if one["name"] == names.SIDECAR)

    assert pod["automountServiceAccountToken"] is False
    assert "kube-api" in [mount["name"] for mount in sidecar["volumeMounts"]]
    assert [mount["name"] for mount in pod["containers"][0]["volumeMounts"]] == [names.MOUNT_VOLUME]


def test_the_sidecars_own_reader_accepts_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POD_NAME", "POD_NAMESPACE", "POD_UID", "POD_IP"):
        monkeypatch.setenv(name, "10.0.0.1" if name == "POD_IP" else "notes-0")
    path = tmp_path / "node.yaml"
    path.write_text(make({"runOn": "Primary"})["ConfigMap", "notes-config"]["data"]["node.yaml"])

    config = load(path)

    assert config.role == "elected"
    assert config.run_on == "Primary"
    assert config.election is not None
    assert config.election.lease.duration_s == 12
    assert config.election.peer_domain == "notes-pods.notes-0.svc"


def test_a_replica_may_stand_by_for_ever_with_run_on_primary() -> None:
    def failures(run_on: str) -> int:
        inits = pod_of({"runOn": run_on})["spec"]["initContainers"]
        sidecar = next(one for one in inits if one["name"] == names.SIDECAR)
        return int(sidecar["startupProbe"]["failureThreshold"])

    assert failures("Primary") > 365 * 86400 > failures("All")


def test_the_role_names_each_pod_also_those_that_are_still_there_after_scaling_down() -> None:
    made = objects.make(cases.read(cases.cluster({"instances": 1})), cases.SETTINGS, 3, ())
    role = next(body for body in made if body["kind"] == "Role")
    patch = next(rule for rule in role["rules"] if rule["verbs"] == ["patch"])

    assert patch["resourceNames"] == ["notes-0", "notes-1", "notes-2"]
    assert all("secrets" not in rule["resources"] for rule in role["rules"])


def test_services_offer_named_ports_and_lead_by_role() -> None:
    made = make()
    ports = [(port["name"], port["port"]) for port in made["Service", "notes-rw"]["spec"]["ports"]]

    assert ports == [("http", 80), ("sqlite-metrics", 20203)]
    assert made["Service", "notes-rw"]["spec"]["selector"][names.LABEL_ROLE] == "primary"
    assert made["Service", "notes-ro"]["spec"]["selector"][names.LABEL_ROLE] == "replica"
    assert names.LABEL_ROLE not in made["Service", "notes-r"]["spec"]["selector"]
    assert made["Service", "notes-pods"]["spec"]["publishNotReadyAddresses"] is True


def test_a_disabled_service_is_not_made() -> None:
    assert ("Service", "notes-ro") not in make({"services": {"ro": {"enabled": False}}})


def test_a_single_instance_has_no_disruption_budget() -> None:
    assert ("PodDisruptionBudget", "notes") not in make({"instances": 1})
    assert ("PodDisruptionBudget", "notes") not in make({"disruptionBudget": "Disabled"})
    assert make()["PodDisruptionBudget", "notes"]["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_primary_whose_replicas_stand_by_can_be_evicted() -> None:
    """They are not ready, so any budget of less than all pods would be used up for ever."""
    assert ("PodDisruptionBudget", "notes") not in make({"runOn": "Primary"})


def test_the_peers_port_is_closed_to_others() -> None:
    ingress = make()["NetworkPolicy", "notes"]["spec"]["ingress"]
    anybody = next(rule for rule in ingress if "from" not in rule)

    for port in anybody["ports"]:
        assert port["protocol"] != "TCP" or not port["port"] <= 20202 <= port["endPort"]


def hashes(
    spec: dict[str, Any] | None = None, settings: objects.Settings = cases.SETTINGS, **more: Any
) -> tuple[str, str]:
    notes = pods.template(cases.read(cases.cluster(spec, **more)), settings.image, settings.pull_policy)
    found = notes["metadata"]["annotations"]
    return found[names.ANNOTATION_TEMPLATE], found[names.ANNOTATION_USER_TEMPLATE]


@pytest.mark.parametrize(
    "spec",
    [
        {"instances": 5},
        {"fence": ["notes-1"]},
        {"suspend": True},
        {"hibernate": True},
        {"storage": {"size": "5Gi"}},
        {"services": {"ro": {"enabled": False}}},
        {"updateStrategy": {"type": "OnDelete"}},
        {"disruptionBudget": "Disabled"},
        {"monitoring": {"enabled": True}},
    ],
)
def test_what_does_not_concern_pods_does_not_replace_them(spec: dict[str, Any]) -> None:
    assert hashes(spec) == hashes()


@pytest.mark.parametrize(
    "spec",
    [
        {"template": {"spec": {"containers": [{"name": "app", "image": "notes:2"}]}}},
        {"runOn": "Primary"},
        {"sidecar": {"logLevel": "debug"}},
        {"sidecar": {"image": "other:2"}},
        {"primary": {"switchoverTimeout": "30s"}},
        {"retention": {"ltx": "20m"}},
        {"replication": {"mode": "Quorum"}},
        {"replication": {"mode": "Quorum", "ackTimeout": "6s"}},
        {"replication": {"localDurability": "Always"}},
        {"primary": {"apiOutagePolicy": "HoldIfPeersAgree"}},
    ],
)
def test_what_concerns_pods_is_a_new_version_of_the_users(spec: dict[str, Any]) -> None:
    (whole, user), (old_whole, old_user) = hashes(spec), hashes()

    assert whole != old_whole
    assert user != old_user


def test_another_operator_is_a_new_version_but_not_of_the_users() -> None:
    (whole, user), (old_whole, old_user) = hashes(None, objects.Settings("sidecar:2")), hashes()

    assert whole != old_whole
    assert user == old_user


def test_an_annotation_asks_for_a_restart() -> None:
    assert hashes(None, annotations={names.ANNOTATION_RESTARTED_AT: "now"})[1] != hashes()[1]


def test_a_lease_that_is_made_anew_does_not_begin_at_0() -> None:
    fresh = objects.lease(cases.cluster(), 0, "LFSC0", 12)["metadata"]["annotations"]
    again = objects.lease(cases.cluster(), 7, "LFSC0", 12)["metadata"]["annotations"]

    assert names.ANNOTATION_EPOCH not in fresh
    assert again[names.ANNOTATION_EPOCH] == "7"


def test_everything_is_plain_yaml() -> None:
    for body in make().values():
        assert yaml.safe_load(yaml.safe_dump(body)) == body


def node_yaml(spec: dict[str, Any] | None = None) -> dict[str, Any]:
    found = yaml.safe_load(make(spec)["ConfigMap", "notes-config"]["data"]["node.yaml"])
    assert isinstance(found, dict)
    return found


def test_an_older_sidecar_can_read_the_configuration_of_a_cluster_that_asks_for_nothing_new() -> None:
    config = node_yaml()

    assert "replication" not in config
    assert "apiOutagePolicy" not in config["election"]


def test_when_a_commit_is_answered_reaches_the_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POD_NAME", "POD_NAMESPACE", "POD_UID", "POD_IP"):
        monkeypatch.setenv(name, "10.0.0.1" if name == "POD_IP" else "notes-0")
    replication = {"mode": "Quorum", "acks": 2, "ackTimeout": "1500ms", "durability": "Preferred", "spread": "rack"}
    spec = {
        "replication": {**replication, "localDurability": "Always"},
        "primary": {"apiOutagePolicy": "HoldIfPeersAgree"},
    }
    path = tmp_path / "node.yaml"
    path.write_text(yaml.safe_dump(node_yaml(spec)))

    config = load(path)

    got = config.replication
    assert (got.mode, got.acks, got.ack_timeout_s, got.durability) == ("Quorum", 2, 1.5, "Preferred")
    assert (got.local_durability, got.zone) == ("Always", names.ZONE_UNKNOWN)
    assert config.election is not None
    assert config.election.api_outage_policy == "HoldIfPeersAgree"


def test_pods_are_spread_over_what_acknowledgements_are_counted_by() -> None:
    def keys(spec: dict[str, Any]) -> list[str]:
        return [row["topologyKey"] for row in pod_of(spec)["spec"]["topologySpreadConstraints"]]

    usual = ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    quorum = {"mode": "Quorum"}

    assert keys({}) == usual
    assert keys({"replication": {**quorum, "spread": "rack"}}) == ["rack", *usual]
    assert keys({"replication": {**quorum, "spread": usual[1]}}) == usual[::-1]
    given = [{"topologyKey": "mine"}]
    assert keys({"replication": {**quorum, "spread": "rack"}, "topologySpread": given}) == ["mine"]
