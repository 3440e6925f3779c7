"""The compose file: every part, closed, bounded, in order."""

from __future__ import annotations

import re

import pytest

from services.stack import COURIER
from tests.deploy.reading import (
    CLIENTS,
    FAST,
    LONG,
    LOOPBACK,
    PARTS,
    QUEUES,
    STORES,
    TOOL,
    compose,
    services,
    substituted,
)


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
