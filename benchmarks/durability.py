"""What durability costs: keeping the state of a run, and ninety open event streams."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, cast

import redis
import urllib3
from urllib3.filepost import encode_multipart_formdata

from benchmarks.measure import Row, Times
from lantern import samples
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.progress import Cancelled, Step
from lantern.run import run
from lantern.vision_model import VisionModel
from services.blobs import Blobs
from services.settings import Settings
from services.worker.keeper import Keeper

RUN_S = 40.0
STREAMS = 90
POSTS = 300
KINDS = {"style-transfer 512 px, Adam": "adam", "style-transfer 512 px, L-BFGS": "l-bfgs"}


def checkpoints(model: VisionModel, run_dir: Path) -> list[Row]:
    """Run each optimiser for a while, keeping its state in the real stores."""
    config = (run_dir / "blobs" / "redis.conf").read_text().split()
    port, password = (config[config.index(name) + 1] for name in ("port", "requirepass"))
    defaults = Settings(run_dir=str(run_dir))
    with redis.Redis(port=int(port), password=password) as client:
        blobs = Blobs(
            client,
            defaults.file_store_url,
            inline_bytes=defaults.inline_bytes,
            high=defaults.storage_high,
        )
        return [_cost(what, kind, model, blobs) for what, kind in KINDS.items()]


def _cost(what: str, optimizer: str, model: VisionModel, blobs: Blobs) -> Row:
    """Count what a run waits for its states, and what storing them takes of the cores beside."""
    waited: list[float] = []
    stored: list[float] = []
    sizes: list[int] = []
    photos = samples.photographs()
    images = {slot: Image.decode(photos[slot_of].read_bytes()) for slot, slot_of in _SLOTS.items()}

    class Timed(Checkpoints):
        def keep(self, *arguments: object) -> None:
            began = time.perf_counter()
            super().keep(*arguments)  # type: ignore[arg-type]
            waited.append(time.perf_counter() - began)

    class TimedBlobs:
        def put(self, *arguments: Any, **more: Any) -> None:
            began = time.thread_time()
            blobs.put(*arguments, **more)
            stored.append(time.thread_time() - began)

    timed = cast(Blobs, TimedBlobs())
    keeper = Keeper(timed, "benchmark", 60, lambda purpose, name: None)

    def save(state: bytes) -> float:
        sizes.append(len(state))
        return keeper.offer("state", f"state-{len(sizes)}", state)

    began = time.perf_counter()

    def stop(step: Step) -> None:
        if time.perf_counter() - began > RUN_S:
            raise Cancelled

    keeper.start()
    with contextlib.suppress(Cancelled):
        run(
            "style-transfer", images,
            {"optimizer": optimizer, "size": 512, "scales": 1, "steps": 2000},
            model=model, progress=stop,
            checkpoints=Timed(save, every_s=Settings().checkpoint_every_s),
        )  # fmt: skip
    seconds = time.perf_counter() - began
    keeper.rest()
    blobs.delete("benchmark", *(f"state-{number + 1}" for number in range(len(sizes))))
    waits, beside = sum(waited) / seconds, sum(stored) / seconds / (os.cpu_count() or 1)
    figures = (
        f"{waits:.2%} of the time, and of all cores {beside:.2%} beside, "
        f"{len(sizes)} states of {max(sizes) / 2**20:.0f} MB"
    )
    return Row(f"checkpoints of {what}", figures, "< 3 %", waits + beside < 0.03)


_SLOTS = {"image": "coffee", "style": "retina"}


def streams(url: str) -> list[Row]:
    """Time the acceptance of jobs while ninety event streams of a running job are open."""
    photo = Image.decode(samples.photographs()["coffee"].read_bytes()).fit(512)
    body, kind = encode_multipart_formdata({"image": ("a.jpg", photo.encode("image/jpeg", 90))})
    http = urllib3.PoolManager(retries=False, timeout=60.0)

    def post(seed: int, **more: str) -> dict[str, dict[str, str]]:
        query = "&".join(f"{name}={value}" for name, value in {"seed": seed, **more}.items())
        answer = http.request(
            "POST", f"{url}/v1/techniques/deep-dream?{query}", body=body,
            headers={"Content-Type": kind, "Cache-Control": "no-cache"},
        )  # fmt: skip
        assert answer.status == 202, answer.data
        document: dict[str, dict[str, str]] = json.loads(answer.data)
        return document

    def cancel(job: dict[str, dict[str, str]]) -> None:
        http.request("POST", url + job["links"]["cancel"])

    def timed() -> Times:
        seconds = []
        for seed in range(POSTS):
            began = time.perf_counter()
            job = post(seed)
            seconds.append(time.perf_counter() - began)
            cancel(job)
        return Times(tuple(seconds))

    watched = post(0, steps="200", octaves="10")
    alone = timed()
    with contextlib.ExitStack() as opened:
        count = 0
        while count < STREAMS:
            pool = opened.enter_context(urllib3.PoolManager(retries=False, timeout=60.0))
            stream = pool.request("GET", url + watched["links"]["events"], preload_content=False)
            opened.callback(stream.close)
            count += stream.status == 200
        beside = timed()
    cancel(watched)
    return [
        _row("job accepted, no stream open", alone),
        _row(f"job accepted, {STREAMS} event streams open", beside),
    ]


def _row(what: str, times: Times) -> Row:
    p99 = times.percentile(0.99) * 1e3
    figures = f"p50 {times.median * 1e3:.1f} ms, p99 {p99:.1f} ms"
    return Row(what, figures, "p99 <= 50 ms", p99 <= 50)
