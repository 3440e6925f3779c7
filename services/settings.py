"""Every setting of the processes, read from the environment once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from services.keys import SCOPES, Key, read_keys

ROOT = Path(__file__).resolve().parent.parent
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.:\[\]_-]+")


class SettingsError(Exception):
    """A setting is missing or not understood; the message says which and what it may be."""


@dataclass(frozen=True)
class Settings:
    """Settings of all processes; each field is set by `LANTERN_` and its name in capitals."""

    host: str = "127.0.0.1"
    """Address the gateway listens on; other than loopback needs `api_keys`."""
    port: int = 8000
    """Port of the gateway."""
    redis_url: str = ""
    """Redis of job records; `REDIS_URL` is read too. `lantern up` starts its own if empty."""
    blob_redis_url: str = ""
    """Redis of uploads, results and previews; that of the job records where this is empty."""
    file_store: str = ""
    """Where larger files lie, an fsspec URL; `files` in the run directory where this is empty."""
    inline_bytes: int = 1024 * 1024
    """Files above this many bytes go to the file store, others into Redis."""
    storage_high: float = 0.85
    """Share of the storage in use from which on new work is refused."""
    torchserve_url: str = "http://127.0.0.1:8080"
    """TorchServe's inference address."""
    torchserve_management_url: str = "http://127.0.0.1:8081"
    """TorchServe's management address."""
    torchserve_key_file: str = ""
    """TorchServe's `key_file.json`; empty where its token check is off."""
    run_dir: str = ""
    """Folder for the files of a running stack; `.run/<port>` where this is empty."""
    model_store: str = str(ROOT / "model_store")
    """Folder of the styles and the TorchServe archives."""
    models: str = ""
    """Folder of callers' own networks and styles, which gateway, TorchServe and workers share;
    `models` in the run directory where this is empty."""
    max_model_bytes: int = 128 * 1024 * 1024
    """Largest request body that brings a network."""
    max_models: int = 20
    """Most networks of one key."""
    max_styles: int = 100
    """Most styles that were trained for one key."""
    api_keys: str = ""
    """Comma-separated SHA-256 digests of the keys that may call; see `lantern key`. A key may have
    less than all scopes (`infer`, `jobs`, `files`) and a `max_active` of its own:
    `<digest>:infer+jobs:5`."""
    origins: str = ""
    """Comma-separated origins, as `https://app.example`, whose web pages may call from a browser;
    without keys they may do everything."""
    downloads: bool = False
    """Whether the worker may download weights of networks."""
    gateway_processes: int = 2
    """gunicorn processes."""
    gateway_threads: int = 96
    """Threads of each gunicorn process; an open event stream takes one."""
    workers: int = 1
    """Celery workers for long jobs, one job at a time each."""
    fast_workers: int = 1
    """Celery workers for interactive calls that became jobs; long jobs never hold these up."""
    niceness: int = 0
    """What is added to a worker's niceness once it is ready; `lantern up` chooses."""
    torch_threads: int = 0
    """torch threads of a process; all cores, shared among the workers, where this is 0."""
    drain_s: int = 2
    """How long a stopping gateway lets running calls end."""
    max_upload_bytes: int = 12 * 1024 * 1024
    """Largest request body."""
    max_teraflop: float = 5000.0
    """Tera-operations that one job may take; an hour of two cores is about 200."""
    max_interactive_teraflop: float = 1.25
    """Tera-operations above which a call of an interactive technique is a job, in the lane of the
    long ones: two cores take about as long as the gateway waits for TorchServe."""
    max_fast_teraflop: float = 0.35
    """Tera-operations, with the evidence, above which a call that became a job is in the lane of
    the long ones: two busy cores take some ten seconds, in which others wait."""
    max_megabytes: float = 4000.0
    """Megabytes that one job may keep for a gradient at a time."""
    interactive_timeout_s: float = 20.0
    """How long the gateway waits for TorchServe."""
    lease_s: float = 6.0
    """How long a job stays with a worker that gives no sign of life."""
    beat_s: float = 0.5
    """How often a worker gives one."""
    alive_file: str = ""
    """File that a worker touches while it lives, for a probe; one each. Empty: none."""
    longest_step_s: float = 900.0
    """How long a job may make no step before it is given up, beside the time that a large step
    takes on slow cores; for ever where this is 0."""
    max_attempts: int = 3
    """How often a job is started without getting further before it is given up."""
    checkpoint_every_s: float = 2.0
    """Shortest time between two checkpoints of a job."""
    result_ttl_s: int = 24 * 3600
    """How long results, uploads and job records are kept."""
    preview_ttl_s: int = 3600
    """How long previews are kept after their job's end."""
    cache_ttl_s: int = 3600
    """How long an interactive answer is kept to be given again; 0 keeps none."""
    max_age_s: int = 7 * 24 * 3600
    """How long after its making a job may end; a caller's `deadline_s` may be shorter."""
    max_queued: int = 1000
    """Most jobs that wait at a time, of all callers."""
    max_active: int = 100
    """Most jobs of one key that wait, run or are paused at a time."""
    max_kept: int = 20_000
    """Most results and uploads that are kept for one key; any number where this is 0."""
    max_kept_bytes: int = 10 * 1024 * 1024 * 1024
    """Most bytes of results and uploads that are kept for one key; any number where this is 0."""
    max_streams: int = 80
    """Most event streams and waiting calls of one gunicorn process at a time."""
    max_streams_per_key: int = 80
    """Most of these of one key."""
    collection_ttl_s: int = 30 * 24 * 3600
    """How long a collection is kept from its last use on, which is an upload or a job."""
    max_collections: int = 20
    """Most collections of one key."""
    max_collection_pictures: int = 2000
    """Most pictures of a collection."""
    max_collection_bytes: int = 512 * 1024 * 1024
    """Most bytes of a collection's pictures."""
    max_collection_upload_bytes: int = 64 * 1024 * 1024
    """Largest request body that brings pictures for a collection."""
    webhook_loopback: bool = False
    """Whether webhooks may go to this machine; for tests only."""

    @property
    def run_path(self) -> Path:
        """Folder for the files of a running stack."""
        return Path(self.run_dir or ROOT / ".run" / str(self.port)).absolute()

    @property
    def state_url(self) -> str:
        """The Redis of the job records, named or not."""
        return self.redis_url or "redis://127.0.0.1:6379/0"

    @property
    def blob_url(self) -> str:
        """The Redis of the bytes."""
        return self.blob_redis_url or self.state_url

    @property
    def file_store_url(self) -> str:
        """Where larger files lie."""
        return self.file_store or f"file://{self.run_path}/files"

    @property
    def live_ttl_s(self) -> int:
        """How long the bytes of a job that has not ended are kept."""
        return self.max_age_s + self.preview_ttl_s

    @property
    def styles_path(self) -> Path:
        """Folder of the style networks."""
        return Path(self.model_store) / "styles"

    @property
    def models_path(self) -> Path:
        """Folder of the networks callers bring."""
        return Path(self.models or self.run_path / "models").absolute()

    @property
    def netloc(self) -> str:
        """Address and port as they stand in an URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys of `api_keys`."""
        return read_keys(self.api_keys)

    @property
    def web_origins(self) -> frozenset[str]:
        """The origins of `origins`."""
        return frozenset(one.strip() for one in self.origins.split(",") if one.strip())

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return self.host in ("127.0.0.1", "::1", "localhost")


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Raises:
        SettingsError: a value is not of its setting's type, or an address is open to all unguarded.
    """
    values: dict[str, Any] = {}
    for field in fields(Settings):
        name = "LANTERN_" + field.name.upper()
        text = environment.get(name, "")
        if text:
            values[field.name] = _parse(name, text, type(field.default))
    if "redis_url" not in values and environment.get("REDIS_URL"):
        values["redis_url"] = environment["REDIS_URL"]
    settings = Settings(**values)
    _check_keys(settings)
    _check_origins(settings)
    if not settings.is_loopback and not settings.keys:
        raise SettingsError(
            f"LANTERN_HOST is {settings.host}, which others can reach; set LANTERN_API_KEYS "
            "(`lantern key` makes one) or use 127.0.0.1"
        )
    return settings


def _check_keys(settings: Settings) -> None:
    try:
        _ = settings.keys
    except ValueError as error:
        raise SettingsError(
            "LANTERN_API_KEYS must hold SHA-256 digests of 64 hex digits, separated by commas; "
            "`lantern key` prints one. Each may be followed by a colon and scopes out of "
            f"{', '.join(SCOPES)}, joined by +, and by another colon and the most jobs it may have "
            f"under way. But {error}"
        ) from None


def _check_origins(settings: Settings) -> None:
    for origin in settings.web_origins:
        if not ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"LANTERN_ORIGINS has {origin!r}; it must hold origins as browsers write them, in "
                "small letters and without a path, such as https://app.example or "
                "http://localhost:5173, separated by commas"
            )


def _parse(name: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        wanted = "0 or 1" if kind is bool else f"a value of type {kind.__name__}"
        raise SettingsError(f"{name} is {text!r}; it must be {wanted}") from None
