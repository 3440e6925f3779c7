"""The network policies: only the ways that are needed are open, and all of those are."""

from __future__ import annotations

import functools
import ipaddress

import pytest

from lantern.errors import InvalidParameter
from services.stack import COURIER
from services.webhooks import check_target
from tests.deploy.reading import (
    CLIENTS,
    STORES,
    Address,
    Document,
    Network,
    ends,
    name_of,
    named,
    of_kind,
    port_numbers,
    selected,
    title,
    workload_of,
)


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
