"""The Kubernetes files: valid, locked down and bounded."""

from __future__ import annotations

import kubernetes_validate
import pytest

from tests.deploy.reading import (
    BASE,
    CLIENTS,
    KUBERNETES,
    PARTS,
    ROOT,
    Document,
    assert_bounded,
    assert_locked_down,
    assert_mounts_are_declared,
    container,
    containers,
    documents,
    manifests,
    name_of,
    named,
    of_kind,
    pod,
    port_names,
    port_numbers,
    selected,
    title,
    workload_of,
    workloads,
)


def test_every_part_has_a_workload() -> None:
    assert {name_of(workload) for workload in workloads()} == PARTS


@pytest.mark.parametrize("document", manifests(), ids=title)
def test_documents_are_valid(document: Document) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_kustomization_lists_every_file_but_the_example() -> None:
    (kustomization,) = documents(BASE / "kustomization.yaml")
    files = {path.name for path in BASE.iterdir()} - {"kustomization.yaml"}
    examples = {name for name in files if ".example." in name}
    assert set(kustomization["resources"]) == files - examples
    assert examples == {"secret.example.yaml"}


def test_no_secret_is_applied_and_the_example_shows_what_to_make_without_real_values() -> None:
    (secret,) = of_kind("Secret")
    assert "data" not in secret
    assert all("replace-with-" in value for value in secret["stringData"].values())
    readme = (ROOT / "k8s" / "README.md").read_text()
    assert [name for name in secret["stringData"] if f"--from-literal={name}=" not in readme] == []


def test_documents_live_in_the_namespace_of_the_kustomization() -> None:
    (kustomization,) = documents(BASE / "kustomization.yaml")
    namespace = kustomization["namespace"]
    assert named("Namespace", namespace)
    assert {d["metadata"].get("namespace", namespace) for d in manifests()} == {namespace}


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_a_workload_selects_its_own_pods_only(workload: Document) -> None:
    assert [name_of(w) for w in selected(workload["spec"]["selector"])] == [name_of(workload)]


@pytest.mark.parametrize("service", of_kind("Service"), ids=title)
def test_a_service_leads_to_ports_that_its_pods_open(service: Document) -> None:
    (workload,) = selected({"matchLabels": service["spec"]["selector"]})
    for port in service["spec"]["ports"]:
        assert port["targetPort"] in port_names(workload) | port_numbers(workload)


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_pods_are_locked_down(workload: Document) -> None:
    assert_locked_down(workload)


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_pods_have_requests_and_limits(workload: Document) -> None:
    assert_bounded(workload)


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_mounts_are_declared_and_bounded(workload: Document) -> None:
    assert_mounts_are_declared(workload)


def test_the_gateway_alone_keeps_a_pod_through_disruptions() -> None:
    (budget,) = of_kind("PodDisruptionBudget")
    (workload,) = selected(budget["spec"]["selector"])
    assert name_of(workload) == "gateway"
    # a budget that equals the number of pods would never let a node be drained
    assert 1 <= budget["spec"]["minAvailable"] < workload["spec"]["replicas"]


@pytest.mark.parametrize("workload", of_kind("StatefulSet"), ids=title)
def test_a_stateful_set_has_its_service(workload: Document) -> None:
    service = named("Service", workload["spec"]["serviceName"])
    assert selected({"matchLabels": service["spec"]["selector"]}) == [workload]


def test_the_claims_serve_pods_on_several_nodes() -> None:
    claims = of_kind("PersistentVolumeClaim")
    assert {claim["metadata"]["name"] for claim in claims} == {"files", "models"}
    assert all(claim["spec"]["accessModes"] == ["ReadWriteMany"] for claim in claims)
    for part in CLIENTS:
        context = pod(workload_of(part))["securityContext"]
        # without it the folder would belong to root, and without the second it would be gone
        # through at each start
        assert context["fsGroup"] == context["runAsGroup"]
        assert context["fsGroupChangePolicy"] == "OnRootMismatch"


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_probes_and_ends(workload: Document) -> None:
    for one in containers(workload):
        assert {"startupProbe", "livenessProbe"} <= one.keys()
        if "ports" in one:
            assert "readinessProbe" in one
        assert probed_ports(one) <= port_names(workload)
        sleep = (
            one.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
        )
        assert int(sleep[1]) + 10 <= pod(workload)["terminationGracePeriodSeconds"]


def probed_ports(one: Document) -> set[str]:
    probes = (one.get(f"{kind}Probe", {}) for kind in ("startup", "liveness", "readiness"))
    actions = [probe.get("httpGet") or probe.get("tcpSocket") for probe in probes]
    return {action["port"] for action in actions if action}


def test_the_gateway_is_probed_where_it_answers_and_leaves_slowly() -> None:
    gateway = container("gateway")
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/healthz/live"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/healthz/ready"
    assert gateway["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
