"""The Kubernetes files with an object store in the place of the volume."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import yaml

from services.settings import read
from tests.deploy.reading import (
    BASE,
    CLIENTS,
    KUBERNETES,
    ROOT,
    S3,
    Document,
    documents,
    environment_of,
    name_of,
    named,
    selected,
    workload_of,
)


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
