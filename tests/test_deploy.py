"""The image, compose and Kubernetes files: valid, closed, and in agreement with the code.

All offline: what these files start is tried by the end-to-end tests.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import ipaddress
import itertools
import os
import re
import shlex
import subprocess
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from lantern.errors import InvalidParameter
from lantern.records import record
from services.queues import HOOKS, queue_of
from services.record import LANES
from services.settings import Settings, read
from services.stack import COURIER, worker_command
from services.webhooks import check_target, deliver
from services.worker.sign import LONGEST_STILL_S

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "k8s" / "base"
WEIGHTS = ROOT / "k8s" / "weights"
S3 = ROOT / "k8s" / "overlays" / "s3"
KUBERNETES = "1.32"
LONG, FAST = "worker", "fast"
QUEUES = {LONG: queue_of("jobs"), FAST: queue_of("fast"), COURIER: HOOKS}
"""The kinds of workers, and the queue that each consumes."""
STORES = {"redis": "256mb", "blobs": "512mb"}
"""The two Redis, and how much each holds."""
CLIENTS = {"gateway", *QUEUES}
"""The parts that use the stores: both Redis and the file store."""
OURS = {*CLIENTS, "torchserve"}
PARTS = {*OURS, *STORES}
TOOL = "weights"
"""What runs only when it is called for, and then ends."""
PLACES = ("compose", "kubernetes")
BESIDE_A_GRADIENT = 1.2e9
"""Bytes that a worker needs beside what it keeps for a gradient: torch, networks, its result."""
LOOPBACK = ("127.0.0.1", "[::1]")

Document = dict[str, Any]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


# --- Reading -----------------------------------------------------------------------------------


@functools.cache
def documents(path: Path) -> list[Document]:
    """Return the documents of a YAML file; every test looks at the same ones and changes none."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests() -> list[Document]:
    """Return every Kubernetes document, the example Secret among them."""
    paths = sorted(BASE.glob("*.yaml"))
    return [d for p in paths if p.name != "kustomization.yaml" for d in documents(p)]


def of_kind(*kinds: str) -> list[Document]:
    return [document for document in manifests() if document["kind"] in kinds]


def named(kind: str, name: str) -> Document:
    (found,) = (document for document in of_kind(kind) if name_of(document) == name)
    return found


def name_of(document: Document) -> str:
    return str(document["metadata"]["name"])


def title(document: Document) -> str:
    return f"{document['kind']}-{name_of(document)}"


def workloads() -> list[Document]:
    return of_kind("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod")


def pod(workload: Document) -> Document:
    return dict(workload["spec"]["template"]["spec"])


def labels(workload: Document) -> Mapping[str, str]:
    found: Mapping[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def containers(workload: Document) -> list[Document]:
    spec = pod(workload)
    return [*spec.get("initContainers", ()), *spec["containers"]]


def container(part: str) -> Document:
    (only,) = containers(workload_of(part))
    return only


def workload_of(part: str) -> Document:
    (found,) = (workload for workload in workloads() if name_of(workload) == part)
    return found


def compose() -> Document:
    (document,) = documents(ROOT / "docker-compose.yml")
    return document


def services() -> dict[str, Document]:
    found: dict[str, Document] = compose()["services"]
    return found


def substituted(text: str, values: Mapping[str, str]) -> str:
    """Fill in compose's `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""

    def value(match: re.Match[str]) -> str:
        name, sign, rest = match["name"], match["sign"], match["rest"]
        return values.get(name) or (rest if sign == ":-" else "")

    pattern = r"\$\{(?P<name>\w+)(?:(?P<sign>:[-?])(?P<rest>[^}]*))?\}"
    return re.sub(pattern, value, text).replace("$$", "$")


def compose_environment(part: str, values: Mapping[str, str]) -> dict[str, str]:
    pairs: Mapping[str, Any] = services()[part].get("environment", {})
    return {name: substituted(str(value), values) for name, value in pairs.items()}


def pod_environment(part: str) -> dict[str, str]:
    """Return a pod's variables, the example Secret in the place of the real one."""
    values: dict[str, str] = {}
    for source in container(part).get("envFrom", ()):
        values |= named("ConfigMap", source["configMapRef"]["name"])["data"]
    for entry in container(part).get("env", ()):
        values[entry["name"]] = _value(part, entry)
    return values


def environment_of(part: str, place: str) -> dict[str, str]:
    """Return a part's variables; a real digest stands where the example of the Secret has words."""
    values = {"LANTERN_API_KEYS": "0" * 64, "REDIS_PASSWORD": "secret"}
    if place == "compose":
        return compose_environment(part, values)
    found = pod_environment(part)
    return {name: values.get(name, value) for name, value in found.items()}


def _value(part: str, entry: Document) -> str:
    if "value" in entry:
        return str(entry["value"])
    if "resourceFieldRef" in entry["valueFrom"]:
        resource = entry["valueFrom"]["resourceFieldRef"]["resource"].removeprefix("limits.")
        return str(container(part)["resources"]["limits"][resource])
    reference = entry["valueFrom"]["secretKeyRef"]
    return str(named("Secret", reference["name"])["stringData"][reference["key"]])


def instruction(word: str) -> str:
    """Return the last instruction of that name in the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith(word + " ")][-1]


# --- Kubernetes --------------------------------------------------------------------------------


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


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_pods_are_locked_down(workload: Document) -> None:
    spec = pod(workload)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    for one in containers(workload):
        assert_locked(one["securityContext"])


def assert_locked(context: Document) -> None:
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not {"privileged", "runAsUser", "runAsNonRoot"} & context.keys()


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_pods_have_requests_and_limits(workload: Document) -> None:
    for one in containers(workload):
        for amounts in (one["resources"]["requests"], one["resources"]["limits"]):
            assert amounts.keys() == {"cpu", "memory"}


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_mounts_are_declared_and_bounded(workload: Document) -> None:
    volumes = pod(workload).get("volumes", [])
    claims = workload["spec"].get("volumeClaimTemplates", [])
    declared = {volume["name"] for volume in volumes} | {name_of(claim) for claim in claims}
    mounted = {mount["name"] for one in containers(workload) for mount in one["volumeMounts"]}
    assert mounted == declared
    for volume in volumes:
        if "persistentVolumeClaim" in volume:
            assert named("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
        else:
            assert "sizeLimit" in volume["emptyDir"]


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


def test_everything_is_denied_first() -> None:
    spec = named("NetworkPolicy", "default-deny")["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_only_these_ways_are_open() -> None:
    ways = {("gateway", "torchserve", 8080), ("gateway", "torchserve", 8081)}
    ways |= {(client, store, 6379) for client in CLIENTS for store in STORES}
    abroad = {(client, "names", 53) for client in CLIENTS} | {(COURIER, "outside", 443)}
    assert ways_out() == ways | abroad
    assert ways_in() == ways | {("anyone", "gateway", 8000)}


NOT_PUBLIC = """
    10.0.0.1 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.168.1.1 198.18.0.1
    224.0.0.1 240.0.0.1 255.255.255.255 ::1 ::ffff:10.0.0.1 64:ff9b::a00:1 fd00::1 fe80::1
    2002:a00:1::1 ff02::1
""".split()


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_the_courier_is_kept_from_addresses_that_are_not_public(text: str) -> None:
    assert not courier_may_call(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["1.1.1.1", "8.8.8.8", "172.32.0.1", "2606:4700:4700::1111"])
def test_the_courier_may_call_public_addresses(text: str) -> None:
    assert courier_may_call(ipaddress.ip_address(text))
    check_target(f"https://{bracketed(text)}/", loopback=False)


def test_the_courier_is_let_out_nowhere_where_webhooks_are_refused() -> None:
    lets_out = [address for address in probes_of_addresses() if courier_may_call(address)]
    assert lets_out
    assert [address for address in lets_out if not webhook_may_call(address)] == []


def test_webhooks_reach_what_they_may() -> None:
    sweep = [ipaddress.IPv4Address(number) for number in range(1, 2**32, 2**22)]
    assert [a for a in sweep if webhook_may_call(a) and not courier_may_call(a)] == []


@functools.cache
def blocks() -> list[tuple[Network, list[Network]]]:
    """Return the blocks of addresses that the courier may call, each with its exceptions."""
    (rule,) = named("NetworkPolicy", COURIER)["spec"]["egress"]
    return [
        (
            ipaddress.ip_network(peer["ipBlock"]["cidr"]),
            [ipaddress.ip_network(text) for text in peer["ipBlock"]["except"]],
        )
        for peer in rule["to"]
    ]


def courier_may_call(address: Address) -> bool:
    return any(
        address in block and not any(address in hole for hole in holes) for block, holes in blocks()
    )


def webhook_may_call(address: Address) -> bool:
    try:
        check_target(f"https://{bracketed(str(address))}/", loopback=False)
    except InvalidParameter:
        return False
    return True


def probes_of_addresses() -> list[Address]:
    """Return addresses on both sides of every edge, and some of everywhere else."""
    found: list[Address] = []
    for block, holes in blocks():
        for network in (block, *holes):
            first, last = network[0], network[-1]
            found += [first, last]
            found += [first - 1] if int(first) else []
            found += [last + 1] if int(last) != 2**network.max_prefixlen - 1 else []
        step = block.num_addresses // 500
        found += [block[0] + number * step for number in range(500)]
    return found


def bracketed(text: str) -> str:
    return f"[{text}]" if ":" in text else text


@pytest.mark.parametrize("policy", of_kind("NetworkPolicy"), ids=title)
def test_policies_name_pods_and_ports_that_exist(policy: Document) -> None:
    assert selected(policy["spec"]["podSelector"])
    # a rule of a direction that is not named would be ignored
    rules = {kind for kind in ("ingress", "egress") if kind in policy["spec"]}
    assert rules <= {kind.lower() for kind in policy["spec"]["policyTypes"]}


def test_open_ways_end_at_open_ports() -> None:
    for _, target, port in ways_in():
        assert port in port_numbers(workload_of(target))


def ways_out() -> set[tuple[str, str, int]]:
    return {
        (name_of(source), target, port["port"])
        for policy in of_kind("NetworkPolicy")
        for source in selected(policy["spec"]["podSelector"])
        for rule in policy["spec"].get("egress", ())
        for target in ends(rule["to"])
        for port in rule["ports"]
    }


def ways_in() -> set[tuple[str, str, int]]:
    return {
        (source, name_of(target), port["port"])
        for policy in of_kind("NetworkPolicy")
        for target in selected(policy["spec"]["podSelector"])
        for rule in policy["spec"].get("ingress", ())
        for source in (ends(rule["from"]) if "from" in rule else ["anyone"])
        for port in rule["ports"]
    }


def ends(peers: Sequence[Document]) -> Iterator[str]:
    """Name the workloads that peers of a rule mean; `names` is the cluster's name server."""
    for peer in peers:
        if peer == NAME_SERVER:
            yield "names"
        elif peer.keys() == {"ipBlock"}:
            yield "outside"
        else:
            assert peer.keys() == {"podSelector"}, "a way from or to another namespace"
            yield from (name_of(workload) for workload in selected(peer["podSelector"]))


NAME_SERVER = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}


def selected(selector: Document) -> list[Document]:
    return [workload for workload in workloads() if fits(selector, labels(workload))]


def fits(selector: Document, found: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    choices = selector.get("matchExpressions", ())
    assert all(choice["operator"] == "In" for choice in choices)
    return wanted <= found.items() and all(found.get(c["key"]) in c["values"] for c in choices)


def port_names(workload: Document) -> set[str]:
    return {port["name"] for one in containers(workload) for port in one.get("ports", ())}


def port_numbers(workload: Document) -> set[int]:
    return {port["containerPort"] for one in containers(workload) for port in one.get("ports", ())}


# --- Kubernetes with an object store -----------------------------------------------------------


def s3_patches() -> list[tuple[Document, Any]]:
    """Return each patch of the overlay: its target, where it names one, and what it does."""
    (kustomization,) = documents(S3 / "kustomization.yaml")
    return [(p.get("target", {}), yaml.safe_load(p["patch"])) for p in kustomization["patches"]]


def test_s3_builds_on_the_base() -> None:
    (kustomization,) = documents(S3 / "kustomization.yaml")
    (base,) = documents(BASE / "kustomization.yaml")
    assert kustomization["namespace"] == base["namespace"]
    assert kustomization["resources"] == ["../../base", "networkpolicy.yaml"]
    assert {path.name for path in S3.iterdir()} == {"kustomization.yaml", "networkpolicy.yaml"}


def test_s3_takes_the_place_of_the_claim() -> None:
    (_, settings), (_, claim), _ = s3_patches()
    assert settings["kind"] == "ConfigMap"
    assert settings["metadata"] == {"name": "lantern"}
    assert settings["data"].keys() == {"LANTERN_FILE_STORE"}
    assert read(environment_of("gateway", "kubernetes") | settings["data"]).file_store_url == (
        "s3://replace-with-bucket/lantern"
    )
    assert claim == {
        "$patch": "delete",
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "files"},
    }
    assert named("PersistentVolumeClaim", "files")


def test_s3_takes_the_volume_from_all_that_mount_it_and_nothing_else() -> None:
    *_, (target, operations) = s3_patches()
    assert target["kind"] == "Deployment"
    assert set(target["name"].split("|")) == CLIENTS
    removed = [one["path"] for one in operations if one["op"] == "remove"]
    for part in CLIENTS:
        assert [at(workload_of(part), path)["name"] for path in removed] == ["files", "files"]


def test_s3_brings_the_credentials_of_a_secret() -> None:
    *_, (_, operations) = s3_patches()
    (added,) = (one for one in operations if one["op"] == "add")
    assert added["value"] == {"secretRef": {"name": "files"}}
    for part in CLIENTS:
        assert isinstance(at(workload_of(part), added["path"].removesuffix("/-")), list)
    readme = (ROOT / "k8s" / "README.md").read_text()
    assert "create secret generic files" in readme
    assert "INSTALL_OPTIONS=s3fs" in readme


def test_s3_lets_out_who_uses_the_file_store() -> None:
    (policy,) = documents(S3 / "networkpolicy.yaml")
    kubernetes_validate.validate(policy, KUBERNETES, strict=True)
    assert {name_of(w) for w in selected(policy["spec"]["podSelector"])} == CLIENTS
    assert policy["spec"]["policyTypes"] == ["Egress"]
    (rule,) = policy["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [443]


def at(document: Document, path: str) -> Any:
    """Return what a JSON pointer leads to."""
    found: Any = document
    for word in path.strip("/").split("/"):
        found = found[int(word)] if isinstance(found, list) else found[word]
    return found


# --- Weights -----------------------------------------------------------------------------------


def fetching() -> tuple[Document, Document]:
    """Return the Job that fetches weights, and its way out."""
    job, policy = documents(WEIGHTS / "job.yaml")
    return job, policy


def test_weights_are_fetched_by_the_image_in_the_namespace_of_the_base() -> None:
    (kustomization,) = documents(WEIGHTS / "kustomization.yaml")
    (base,) = documents(BASE / "kustomization.yaml")
    assert kustomization["resources"] == ["job.yaml"]
    assert all(kustomization[name] == base[name] for name in ("namespace", "labels", "images"))
    for document in fetching():
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_weights_are_fetched_by_a_pod_that_is_locked_down_and_bounded() -> None:
    job, _ = fetching()
    test_pods_are_locked_down(job)
    test_pods_have_requests_and_limits(job)
    test_mounts_are_declared_and_bounded(job)


def test_weights_are_let_in_from_where_they_are() -> None:
    job, policy = fetching()
    assert fits(policy["spec"]["podSelector"], labels(job))
    assert policy["spec"]["policyTypes"] == ["Egress"]
    names, outside = policy["spec"]["egress"]
    assert list(ends(names["to"])) == ["names"]
    assert list(ends(outside["to"])) == ["outside"]
    assert [port["port"] for port in outside["ports"]] == [443]


def test_weights_are_fetched_to_where_all_parts_look_for_them() -> None:
    home = re.search(r"\bTORCH_HOME=(\S+)", instruction("ENV"))
    assert home is not None
    assert home[1].startswith("/models/")
    (fetcher,) = containers(fetching()[0])
    assert {"name": "models", "mountPath": "/models"} in fetcher["volumeMounts"]
    assert "models:/models" in services()[TOOL]["volumes"]
    assert not any("TORCH_HOME" in environment_of(part, place) for part in OURS for place in PLACES)


def test_weights_are_fetched_with_the_command_that_the_error_names() -> None:
    (fetcher,) = containers(fetching()[0])
    command, *words = fetcher["args"]
    assert words[:2] == ["models", "--fetch"]
    assert all(record(name).weights_url for name in words[2:])
    assert f"/usr/local/bin/{command}" in instruction("RUN")
    assert services()[TOOL]["command"] == [command, "models"]
    assert services()[TOOL]["profiles"] == [TOOL]
    for page in ("k8s/README.md", "docs/operate.md"):
        assert "kubectl apply -k k8s/weights" in (ROOT / page).read_text()


# --- Compose -----------------------------------------------------------------------------------


def test_compose_has_every_part() -> None:
    assert services().keys() == {*PARTS, TOOL}


def test_compose_publishes_the_gateway_only_and_to_this_machine() -> None:
    assert [name for name, service in services().items() if "ports" in service] == ["gateway"]
    (port,) = services()["gateway"]["ports"]
    assert substituted(port, {}).startswith(LOOPBACK)
    assert substituted(port, {}).endswith(":8000")


def test_compose_lets_only_the_gateway_the_courier_and_the_tool_out() -> None:
    networks = compose()["networks"]
    closed = {name for name, network in networks.items() if network.get("internal") is True}
    for name, service in services().items():
        assert "network_mode" not in service
        assert set(service["networks"]) <= networks.keys()
        assert (set(service["networks"]) <= closed) == (name not in ("gateway", COURIER, TOOL))


def test_compose_volumes_are_declared() -> None:
    used = {volume.split(":")[0] for s in services().values() for volume in s.get("volumes", ())}
    assert used == compose()["volumes"].keys()


@pytest.mark.parametrize("name", sorted(PARTS))
def test_compose_waits_for_parts_that_tell_their_health(name: str) -> None:
    for other, wait in services()[name].get("depends_on", {}).items():
        assert wait == {"condition": "service_healthy"}
        assert "healthcheck" in services()[other]


def test_compose_waits_for_what_is_called() -> None:
    assert services()["gateway"]["depends_on"].keys() == {*STORES, "torchserve"}
    for part in QUEUES:
        assert services()[part]["depends_on"].keys() == STORES.keys()


def test_compose_lets_long_jobs_give_way() -> None:
    shares = {name: service.get("cpu_shares", 1024) for name, service in services().items()}
    assert shares[LONG] < shares[FAST] < shares["torchserve"] == shares["gateway"]


@pytest.mark.parametrize("name", sorted({*PARTS, TOOL}))
def test_compose_locks_down(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].split(":")[0]) > 0
    assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & service.keys()
    assert all(re.search(r"\bsize=\d+m\b", mount) for mount in service["tmpfs"])


@pytest.mark.parametrize("name", sorted(PARTS))
def test_compose_bounds_and_restarts(name: str) -> None:
    service = services()[name]
    assert service["restart"] == "unless-stopped"
    assert {"mem_limit", "pids_limit", "stop_grace_period", "healthcheck"} <= service.keys()


def test_compose_refuses_to_start_without_keys_and_password() -> None:
    keys = services()["gateway"]["environment"]["LANTERN_API_KEYS"]
    assert keys.startswith("${LANTERN_API_KEYS:?")
    assert "`lantern key`" in keys
    for part in {*CLIENTS, *STORES}:
        variables = "".join(services()[part]["environment"].values())
        assert "${REDIS_PASSWORD:?" in variables


def test_torchserve_may_load_the_library_that_it_unpacks() -> None:
    # docker mounts a tmpfs noexec unless told otherwise; TorchServe then has no unix sockets
    assert any(
        "exec" in mount.split(":")[1].split(",") for mount in services()["torchserve"]["tmpfs"]
    )


# --- Agreement with each other -----------------------------------------------------------------


@pytest.mark.parametrize("part", sorted(OURS))
def test_compose_and_kubernetes_start_the_same(part: str) -> None:
    assert services()[part]["command"] == container(part)["args"]


def test_the_image_starts_the_gateway_and_keeps_its_entry_point() -> None:
    assert yaml.safe_load(instruction("CMD").removeprefix("CMD ")) == command("gateway")
    assert "tini" in instruction("ENTRYPOINT")
    assert all("command" not in container(part) for part in PARTS)
    assert all("entrypoint" not in service for service in services().values())


@pytest.mark.parametrize("part", sorted(OURS))
def test_one_user_everywhere(part: str) -> None:
    user = instruction("USER").removeprefix("USER ")
    context = pod(workload_of(part))["securityContext"]
    assert services()[part]["user"] == user
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


@pytest.mark.parametrize("part", sorted(STORES))
def test_redis_is_the_same_in_both(part: str) -> None:
    image = services()[part]["image"]
    assert image == container(part)["image"]
    assert settings_of_redis(services()[part]["command"]) == settings_of_redis(
        container(part)["args"]
    )


@pytest.mark.parametrize("part", sorted(STORES))
def test_redis_keeps_what_it_was_given(part: str) -> None:
    settings = settings_of_redis(container(part)["args"])
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= settings
    assert {"dir /data", "maxmemory $MAXMEMORY"} <= settings
    assert any(line.startswith("requirepass ") for line in settings)


@pytest.mark.parametrize("part", sorted(STORES))
@pytest.mark.parametrize("place", PLACES)
def test_redis_has_memory_for_what_it_may_hold_twice(part: str, place: str) -> None:
    assert f'"{part}", memory="{STORES[part]}"' in (ROOT / "services" / "stack.py").read_text()
    assert environment_of(part, place)["MAXMEMORY"] == STORES[part]
    assert memory_of(part, place) == 2 * bytes_of(STORES[part])


def test_the_two_redis_differ_in_size_and_volume_only() -> None:
    one, other = (services()[part] for part in STORES)
    different = {name for name in one | other if one.get(name) != other.get(name)}
    assert different == {"environment", "volumes", "mem_limit"}
    assert one["volumes"] == ["redis:/data"]
    assert other["volumes"] == ["blobs:/data"]
    assert container("redis")["args"] == container("blobs")["args"]
    for part in STORES:
        (claim,) = workload_of(part)["spec"]["volumeClaimTemplates"]
        assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def memory_of(part: str, place: str) -> int:
    """Return the bytes of memory that a part may have."""
    if place == "compose":
        return bytes_of(services()[part]["mem_limit"])
    return bytes_of(container(part)["resources"]["limits"]["memory"])


def bytes_of(text: str) -> int:
    """Read an amount as Redis, Docker or Kubernetes write it; all of these count in 1024."""
    found = re.fullmatch(r"(\d+)(mb|m|Mi|gb|g|Gi)", text)
    assert found is not None, text
    return int(found[1]) * 1024 ** (2 if found[2][0] in "mM" else 3)


def settings_of_redis(arguments: Sequence[str]) -> set[str]:
    script = arguments[-1].replace("$$", "$")
    return set(script.partition("<<END\n")[2].partition("\nEND")[0].splitlines())


# --- Agreement with the code -------------------------------------------------------------------


def command(part: str) -> list[str]:
    return [str(word) for word in services()[part]["command"]]


def checks(part: str) -> list[list[str]]:
    """Return the commands that look after a worker."""
    return [
        services()[part]["healthcheck"]["test"],
        container(part)["startupProbe"]["exec"]["command"],
        container(part)["livenessProbe"]["exec"]["command"],
    ]


def code_named_by(words: Sequence[str]) -> set[str]:
    """Return the files of the repository that a command names, as modules or as paths."""
    found = {word for word in words if word.endswith(".py")}
    pairs = itertools.pairwise(words)
    modules = {after for word, after in pairs if word in ("-m", "-A")}
    modules |= {word.split(":")[0] for word in words if re.fullmatch(r"[\w.]+:\w+", word)}
    return found | {module.replace(".", "/") + ".py" for module in modules}


def test_commands_name_the_code() -> None:
    assert code_named_by(command("gateway")) == {
        "services/gateway/gunicorn_conf.py",
        "services/gateway/wsgi.py",
    }
    assert code_named_by(command("torchserve")) == {"handlers/serve.py"}
    for part in QUEUES:
        assert code_named_by(command(part)) == {"services/worker/app.py"}


@pytest.mark.parametrize("part", sorted(QUEUES))
def test_workers_are_started_as_on_one_machine(part: str) -> None:
    _, _, *words = worker_command(part, QUEUES[part])
    assert command(part) == words


@pytest.mark.parametrize("place", PLACES)
def test_every_queue_has_its_worker(place: str) -> None:
    commands = {
        part: command(part) if place == "compose" else container(part)["args"] for part in PARTS
    }
    consumed = [after(words, "--queues") for words in commands.values() if "--queues" in words]
    assert sorted(consumed) == sorted([HOOKS, *(queue_of(lane) for lane in LANES)])


def test_workers_take_one_job_at_a_time_and_the_courier_waits_for_several_servers() -> None:
    for part in QUEUES:
        pool = (after(command(part), "--pool"), after(command(part), "--concurrency"))
        assert pool == (("threads", "4") if part == COURIER else ("prefork", "1"))


@pytest.mark.parametrize("part", sorted(QUEUES))
@pytest.mark.parametrize(
    ("age_s", "is_alive"), [(0, True), (LONGEST_STILL_S - 5, True), (90, False), (None, False)]
)
def test_checks_look_at_the_age_of_the_file_that_a_worker_touches(
    part: str, age_s: float | None, is_alive: bool, tmp_path: Path
) -> None:
    file = tmp_path / "alive"
    if age_s is not None:
        file.touch()
        os.utime(file, (time.time() - age_s,) * 2)
    for place, check in zip(("compose", *["kubernetes"] * 2), checks(part), strict=True):
        named_file = environment_of(part, place)["LANTERN_ALIVE_FILE"]
        script = check[-1].replace(named_file, str(file))
        assert str(file) in script
        assert (subprocess.run(["sh", "-c", script], check=False).returncode == 0) == is_alive


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("part", sorted(QUEUES))
def test_a_worker_that_is_told_to_stop_may_let_its_work_put_itself_down(
    part: str, place: str
) -> None:
    # remapped to SIGQUIT it would kill the job before it is asked to put itself down
    assert "REMAP_SIGTERM" not in environment_of(part, place)


def test_a_courier_that_is_stopped_ends_its_deliveries() -> None:
    longest_s = inspect.signature(deliver).parameters["timeout_s"].default
    grace = pod(workload_of(COURIER))["terminationGracePeriodSeconds"]
    assert services()[COURIER]["stop_grace_period"] == f"{grace}s"
    assert grace >= 2 * longest_s


@pytest.mark.parametrize("place", PLACES)
def test_the_gateways_threads_start_none_of_their_own(place: str) -> None:
    assert environment_of("gateway", place)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("part", sorted(OURS))
def test_the_code_that_commands_name_exists(part: str) -> None:
    missing = [name for name in code_named_by(command(part)) if not (ROOT / name).is_file()]
    assert not missing


def test_torchserve_options_exist() -> None:
    source = (ROOT / "handlers" / "serve.py").read_text()
    options = [word for word in command("torchserve") if word.startswith("--")]
    assert options
    assert [option for option in options if f'"{option}"' not in source] == []


def test_the_image_copies_what_exists() -> None:
    text = (ROOT / "Dockerfile").read_text()
    sources = re.findall(r"^COPY (\S+) \S+$", text, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert len(sources) == len(re.findall(r"^COPY ", text, re.MULTILINE))
    assert [s for s in sources if not (ROOT / s).exists()] == []
    assert [s for s in sources if "!" + s.rstrip("/") not in ignored] == []


def pins(lock: str) -> set[str]:
    """Return the pins of a lock, `name==version`, as they are compared."""
    lines = (ROOT / lock).read_text().lower().splitlines()
    return {line for line in lines if line and not line.startswith((" ", "#"))}


def test_the_image_installs_what_the_project_needs_and_nothing_to_develop_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed, develops = (
        {re.split(r"[^\w-]", text.lower().replace("_", "-"), maxsplit=1)[0] for text in texts}
        for texts in (project["dependencies"], project["optional-dependencies"]["dev"])
    )
    installed = pins(after(shlex.split(instruction("RUN pip")), "-r"))
    assert installed < pins("requirements.lock")
    names = {pin.partition("==")[0] for pin in installed}
    assert needed <= names
    assert not develops & names


def test_every_variable_is_a_setting() -> None:
    settings = {"LANTERN_" + field.name.upper() for field in dataclasses.fields(Settings)}
    paths = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *(ROOT / "k8s").rglob("*.*")]
    used = {name for path in paths for name in re.findall(r"LANTERN_[A-Z_]+", path.read_text())}
    assert "LANTERN_API_KEYS" in used
    assert used <= settings


@pytest.mark.parametrize("part", sorted(CLIENTS))
@pytest.mark.parametrize("place", PLACES)
def test_settings_can_be_read(part: str, place: str) -> None:
    settings = read(environment_of(part, place))
    assert settings.redis_url.endswith("@redis:6379/0")
    assert settings.blob_redis_url.endswith("@blobs:6379/0")
    assert settings.is_loopback == (part != "gateway")
    assert settings.port == 8000


OWN = {
    "host",
    "drain_s",
    "api_keys",
    "torchserve_url",
    "torchserve_management_url",
    "torch_threads",
}
"""The settings that one part may have for itself."""


@pytest.mark.parametrize("place", PLACES)
def test_all_parts_have_the_same_settings_but_for_their_own(place: str) -> None:
    found = [dataclasses.asdict(read(environment_of(part, place))) for part in sorted(CLIENTS)]
    shared = [{name: one[name] for name in one.keys() - OWN} for one in found]
    assert all(one == shared[0] for one in shared)


@pytest.mark.parametrize("part", sorted(CLIENTS))
def test_the_file_store_is_one_volume_for_all_who_use_it(part: str) -> None:
    for place in PLACES:
        assert read(environment_of(part, place)).file_store == "file:///files"
    assert "files:/files" in services()[part]["volumes"]
    assert {"name": "files", "mountPath": "/files"} in container(part)["volumeMounts"]
    (volume,) = (v for v in pod(workload_of(part))["volumes"] if v["name"] == "files")
    assert volume["persistentVolumeClaim"] == {"claimName": "files"}


@pytest.mark.parametrize("part", ["gateway", "worker", "fast", "torchserve"])
def test_who_adds_networks_and_styles_may_write_them_who_runs_them_reads(part: str) -> None:
    is_reader = part not in ("gateway", "worker")
    for place in PLACES:
        assert environment_of(part, place)["LANTERN_MODELS"] == "/models"
    assert ("models:/models" + is_reader * ":ro") in services()[part]["volumes"]
    mount = {"name": "models", "mountPath": "/models"} | ({"readOnly": True} if is_reader else {})
    assert mount in container(part)["volumeMounts"]
    (volume,) = (v for v in pod(workload_of(part))["volumes"] if v["name"] == "models")
    assert volume["persistentVolumeClaim"] == {"claimName": "models"}


@pytest.mark.parametrize("part", [LONG, FAST])
@pytest.mark.parametrize("place", PLACES)
def test_a_worker_has_memory_for_the_largest_job_that_is_taken(part: str, place: str) -> None:
    memory = memory_of(part, place)
    # the gateway refuses what is larger
    largest = read(environment_of("gateway", place)).max_megabytes * 1e6
    assert largest + BESIDE_A_GRADIENT <= memory


def test_only_who_uses_the_stores_knows_of_them() -> None:
    for place in PLACES:
        own = {"LANTERN_TORCH_THREADS", "LANTERN_MODELS"}
        assert environment_of("torchserve", place).keys() == own
    assert services()["torchserve"]["volumes"] == ["models:/models:ro"]
    # the keys that may call are the gateway's alone
    for part, place in itertools.product(PARTS, PLACES):
        assert ("LANTERN_API_KEYS" in environment_of(part, place)) == (part == "gateway")


def test_a_fresh_volume_of_files_belongs_to_the_user_of_the_image() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(
        r"install --directory --owner lantern --group lantern [^&]*/files /models\n", text
    )
    user, group = instruction("USER").removeprefix("USER ").split(":")
    assert f"groupadd --gid {group} lantern" in text
    assert f"useradd --uid {user} --gid {group} " in text


@pytest.mark.parametrize("place", PLACES)
def test_the_gateway_calls_the_ports_that_torchserve_opens(place: str) -> None:
    settings = read(environment_of("gateway", place))
    words = command("torchserve")
    assert settings.torchserve_url == f"http://torchserve:{after(words, '--port')}"
    management = f"http://torchserve:{after(words, '--management-port')}"
    assert settings.torchserve_management_url == management
    ports = {port["port"] for port in named("Service", "torchserve")["spec"]["ports"]}
    assert ports == {8080, 8081}


def after(words: Sequence[str], option: str) -> str:
    return words[words.index(option) + 1]


# --- The helpers themselves --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("${A:-x}:${B:-y}", "x:b"),
        ("${A:?is missing}", ""),
        ("${B:?is missing}-${B}", "b-b"),
        ("$$HOSTNAME", "$HOSTNAME"),
    ],
)
def test_substitution_follows_compose(text: str, wanted: str) -> None:
    assert substituted(text, {"B": "b"}) == wanted
