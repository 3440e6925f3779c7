"""How the weights of networks are fetched in a cluster."""

from __future__ import annotations

import re

import kubernetes_validate

from lantern.records import record
from tests.deploy.reading import (
    BASE,
    KUBERNETES,
    OURS,
    PLACES,
    ROOT,
    TOOL,
    WEIGHTS,
    Document,
    assert_bounded,
    assert_locked_down,
    assert_mounts_are_declared,
    containers,
    documents,
    ends,
    environment_of,
    fits,
    instruction,
    labels,
    services,
)


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
    assert_locked_down(job)
    assert_bounded(job)
    assert_mounts_are_declared(job)


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
