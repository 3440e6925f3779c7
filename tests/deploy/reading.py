"""The deployment files, read: what the tests of them have in common."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from services.queues import HOOKS, queue_of
from services.stack import COURIER

ROOT = Path(__file__).resolve().parent.parent.parent
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


def assert_locked_down(workload: Document) -> None:
    """Make sure that a workload's pods may do no more than they must."""
    spec = pod(workload)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    for one in containers(workload):
        _assert_restricted(one["securityContext"])


def _assert_restricted(context: Document) -> None:
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not {"privileged", "runAsUser", "runAsNonRoot"} & context.keys()


def assert_bounded(workload: Document) -> None:
    """Make sure that each container says what it asks for and what it may have."""
    for one in containers(workload):
        for amounts in (one["resources"]["requests"], one["resources"]["limits"]):
            assert amounts.keys() == {"cpu", "memory"}


def assert_mounts_are_declared(workload: Document) -> None:
    """Make sure that a pod mounts what it declares, and that all of it is bounded."""
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


def command(part: str) -> list[str]:
    return [str(word) for word in services()[part]["command"]]
