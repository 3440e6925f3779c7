"""Compose, Kubernetes and the image agree with each other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import yaml

from tests.deploy.reading import (
    OURS,
    PARTS,
    PLACES,
    ROOT,
    STORES,
    bytes_of,
    command,
    container,
    environment_of,
    instruction,
    memory_of,
    pod,
    services,
    workload_of,
)


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


def settings_of_redis(arguments: Sequence[str]) -> set[str]:
    script = arguments[-1].replace("$$", "$")
    return set(script.partition("<<END\n")[2].partition("\nEND")[0].splitlines())
