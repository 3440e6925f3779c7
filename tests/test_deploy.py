"""The image, compose and Kubernetes files: valid, closed, and in agreement with the code.

All offline: what these files start is tried by the end-to-end tests.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.settings import Settings, read

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "k8s" / "base"
KUBERNETES = "1.32"
PARTS = {"gateway", "worker", "torchserve", "redis"}
OURS = PARTS - {"redis"}
LOOPBACK = ("127.0.0.1", "[::1]")

Document = dict[str, Any]


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
    (only,) = containers(next(w for w in workloads() if name_of(w) == part))
    return only


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


def test_no_secret_is_applied_and_the_example_holds_no_real_value() -> None:
    (secret,) = of_kind("Secret")
    assert "data" not in secret
    assert all("replace-with-" in value for value in secret["stringData"].values())


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
    assert all("sizeLimit" in volume["emptyDir"] for volume in volumes)


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_probes_and_ends(workload: Document) -> None:
    for one in containers(workload):
        assert "livenessProbe" in one
        if "ports" in one:
            assert {"startupProbe", "readinessProbe"} <= one.keys()
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
    ways = {
        ("gateway", "torchserve", 8080),
        ("gateway", "torchserve", 8081),
        ("gateway", "redis", 6379),
        ("worker", "redis", 6379),
    }
    assert ways_out() == ways
    assert ways_in() == ways | {("anyone", "gateway", 8000)}


@pytest.mark.parametrize("policy", of_kind("NetworkPolicy"), ids=title)
def test_policies_name_pods_and_ports_that_exist(policy: Document) -> None:
    assert selected(policy["spec"]["podSelector"])
    # a rule of a direction that is not named would be ignored
    rules = {kind for kind in ("ingress", "egress") if kind in policy["spec"]}
    assert rules <= {kind.lower() for kind in policy["spec"]["policyTypes"]}


def test_open_ways_end_at_open_ports() -> None:
    for _, target, port in ways_in():
        (workload,) = (w for w in workloads() if name_of(w) == target)
        assert port in port_numbers(workload)


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
    """Name the workloads that peers of a rule mean; the cluster's name server is nobody's."""
    for peer in peers:
        if "k8s-app" in peer["podSelector"].get("matchLabels", {}):
            continue
        assert peer.keys() == {"podSelector"}, "a way from or to another namespace"
        yield from (name_of(workload) for workload in selected(peer["podSelector"]))


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


# --- Compose -----------------------------------------------------------------------------------


def test_compose_has_the_four_parts() -> None:
    assert services().keys() == PARTS


def test_compose_publishes_the_gateway_only_and_to_this_machine() -> None:
    assert [name for name, service in services().items() if "ports" in service] == ["gateway"]
    (port,) = services()["gateway"]["ports"]
    assert substituted(port, {}).startswith(LOOPBACK)
    assert substituted(port, {}).endswith(":8000")


def test_compose_lets_only_the_gateway_out() -> None:
    networks = compose()["networks"]
    closed = {name for name, network in networks.items() if network.get("internal") is True}
    for name, service in services().items():
        assert "network_mode" not in service
        assert set(service["networks"]) <= networks.keys()
        assert (set(service["networks"]) <= closed) == (name != "gateway")


def test_compose_volumes_are_declared() -> None:
    used = {volume.split(":")[0] for s in services().values() for volume in s.get("volumes", ())}
    assert used == compose()["volumes"].keys()


@pytest.mark.parametrize("name", sorted(PARTS))
def test_compose_waits_for_parts_that_tell_their_health(name: str) -> None:
    for other, wait in services()[name].get("depends_on", {}).items():
        assert wait == {"condition": "service_healthy"}
        assert "healthcheck" in services()[other]


def test_compose_waits_for_what_is_called() -> None:
    assert services()["gateway"]["depends_on"].keys() == {"redis", "torchserve"}
    assert services()["worker"]["depends_on"].keys() == {"redis"}


@pytest.mark.parametrize("name", sorted(PARTS))
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
    for part in ("gateway", "worker", "redis"):
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
    (workload,) = (w for w in workloads() if name_of(w) == part)
    context = pod(workload)["securityContext"]
    assert services()[part]["user"] == user
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


def test_redis_is_the_same_in_both() -> None:
    image = services()["redis"]["image"]
    assert image == container("redis")["image"]
    assert settings_of_redis(services()["redis"]["command"]) == settings_of_redis(
        container("redis")["args"]
    )


def test_redis_keeps_what_it_was_given() -> None:
    settings = settings_of_redis(container("redis")["args"])
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= settings
    assert any(line.startswith("requirepass ") for line in settings)


def settings_of_redis(arguments: Sequence[str]) -> set[str]:
    script = arguments[-1].replace("$$", "$")
    return set(script.partition("<<END\n")[2].partition("\nEND")[0].splitlines())


# --- Agreement with the code -------------------------------------------------------------------


def command(part: str) -> list[str]:
    return [str(word) for word in services()[part]["command"]]


def shell_words(words: Sequence[str]) -> list[str]:
    """Split what a shell is to run."""
    text = words[-1] if words[0] in ("sh", "CMD-SHELL") else shlex.join(words)
    return shlex.split(text)


def checks() -> list[list[str]]:
    """Return the commands that look after the worker."""
    return [
        services()["worker"]["healthcheck"]["test"],
        container("worker")["livenessProbe"]["exec"]["command"],
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
    assert code_named_by(command("worker")) == {"services/worker/app.py"}
    assert code_named_by(command("torchserve")) == {"handlers/serve.py"}
    assert [code_named_by(shell_words(check)) for check in checks()] == [
        {"services/worker/app.py"},
        {"services/worker/app.py"},
    ]


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


def test_every_variable_is_a_setting() -> None:
    settings = {"LANTERN_" + field.name.upper() for field in dataclasses.fields(Settings)}
    paths = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *BASE.glob("*.yaml")]
    used = {name for path in paths for name in re.findall(r"LANTERN_[A-Z_]+", path.read_text())}
    assert "LANTERN_API_KEYS" in used
    assert used <= settings


def with_a_key(environment: dict[str, str]) -> dict[str, str]:
    """Put a real digest where the example of the Secret has words; they would be refused."""
    given = environment.get("LANTERN_API_KEYS", "")
    return environment | ({"LANTERN_API_KEYS": "0" * 64} if "replace-with-" in given else {})


@pytest.mark.parametrize("part", ["gateway", "worker"])
@pytest.mark.parametrize("place", ["compose", "kubernetes"])
def test_settings_can_be_read(part: str, place: str) -> None:
    values = {"LANTERN_API_KEYS": "0" * 64, "REDIS_PASSWORD": "secret"}
    environment = compose_environment(part, values) if place == "compose" else pod_environment(part)
    settings = read(with_a_key(environment))
    assert settings.redis_url.endswith("@redis:6379/0")
    assert settings.is_loopback == (part != "gateway")
    assert settings.port == 8000


@pytest.mark.parametrize("place", ["compose", "kubernetes"])
def test_the_gateway_calls_the_ports_that_torchserve_opens(place: str) -> None:
    values = {"LANTERN_API_KEYS": "0" * 64}
    environment = (
        compose_environment("gateway", values) if place == "compose" else pod_environment("gateway")
    )
    settings = read(with_a_key(environment))
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
