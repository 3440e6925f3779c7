"""The deployment files agree with the code that they start."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import os
import re
import shlex
import subprocess
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.queues import HOOKS, queue_of
from services.record import LANES
from services.settings import Settings, read
from services.stack import COURIER, worker_command
from services.webhooks import deliver
from services.worker.sign import LONGEST_STILL_S
from tests.deploy.reading import (
    BESIDE_A_GRADIENT,
    CLIENTS,
    FAST,
    LONG,
    OURS,
    PARTS,
    PLACES,
    QUEUES,
    ROOT,
    command,
    container,
    environment_of,
    instruction,
    memory_of,
    named,
    pod,
    services,
    workload_of,
)


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
