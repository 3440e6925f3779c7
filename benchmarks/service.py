"""The service end to end: its overhead, and fast style against the classic network alone."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import urllib3

from benchmarks.measure import Row, take_turns
from handlers.archive import package
from lantern import samples
from lantern.image import Image
from lantern.styles.engine import engine_for
from lantern.styles.library import StyleLibrary
from lantern.styles.network import CLASSIC, StyleNetwork
from lantern.vision_model import VisionModel
from services.processes import free_ports
from services.settings import Settings
from services.stack import Stack

HERE = Path(__file__).parent


@contextlib.contextmanager
def running_stack() -> Iterator[tuple[str, Path]]:
    """Run the real stack with the echo beside it; yield the gateway's address and its folder."""
    with tempfile.TemporaryDirectory(prefix="lantern-bench-") as scratch:
        store = Path(scratch) / "model_store"
        shutil.copytree(Settings().styles_path, store / "styles")
        package("echo", HERE / "echo_handler.py", store)
        (port,) = free_ports(1)
        settings = Settings(port=port, run_dir=f"{scratch}/run", model_store=str(store))
        stack = Stack(settings, application="benchmarks.echo_gateway:app")
        try:
            stack.start()
            _register_echo(Path(scratch) / "run" / "torchserve")
            yield stack.url, Path(settings.run_dir)
        finally:
            stack.stop()


def overhead(url: str) -> list[Row]:
    """Time a 300 kB picture to an engine that does nothing, and back."""
    body = _picture_of(300_000)
    # what the caller's own client takes is to be as little as can be
    http = HTTPConnection(url.removeprefix("http://"))
    headers = {"Content-Type": "image/jpeg", "Cache-Control": "no-cache"}

    def call() -> None:
        http.request("POST", "/echo", body, headers)
        response = http.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        assert answer == body

    for _ in range(30):
        call()
    times = take_turns({"echo": call}, rounds=400)["echo"]
    median = times.median * 1e3
    p95, p99 = (times.percentile(share) * 1e3 for share in (0.95, 0.99))
    figures = f"p50 {median:.1f} ms, p95 {p95:.1f}, p99 {p99:.1f}"
    return [
        Row(
            f"gateway + TorchServe, echo of {len(body) // 1000} kB",
            figures,
            "p50 <= 8 ms",
            median <= 8,
        )
    ]


def fast_style(url: str) -> list[Row]:
    """Time fast-style at 512x512 through the whole service against bare forward passes."""
    photo = Image.decode(samples.photographs()["astronaut"].read_bytes()).resize(512, 512)
    body = photo.encode("image/jpeg", 90)
    http = urllib3.PoolManager(retries=False)
    path = f"{url}/v1/techniques/fast-style?style=starry-night&size=512"
    headers = {"Content-Type": "image/jpeg", "Accept": "image/jpeg", "Cache-Control": "no-cache"}
    pixels = photo.pixels[None]
    classic = StyleNetwork(CLASSIC).eval()
    network = StyleLibrary(Settings().styles_path).painter({"starry-night": 1.0})
    eager = engine_for(StyleNetwork(CLASSIC))
    times_ms: dict[str, list[float]] = {}

    def service() -> None:
        response = http.request("POST", path, body=body, headers=headers)
        assert response.status == 200, response.data
        for part in response.headers["Server-Timing"].split(", "):
            name, _, value = part.partition(";dur=")
            times_ms.setdefault(name, []).append(float(value))

    def bare() -> None:
        with torch.inference_mode():
            classic(pixels)

    times = take_turns(
        {
            "classic, eager float32": bare,
            f"classic, {eager.name}": lambda: eager.forward(pixels),
            f"ours, {network.whole.name}, network alone": lambda: network.whole.forward(pixels),
            "ours, whole service": service,
        },
        rounds=9,
        repeats={"ours, whole service": 4},
    )
    base = times["classic, eager float32"].median
    rows = []
    for name, own in times.items():
        ratio = base / own.median
        is_goal = name == "ours, whole service"
        figures = f"{own.median * 1e3:7.1f} ms = {ratio:5.2f} times the classic's speed"
        goal = "at least 10 times" if is_goal else ""
        rows.append(
            Row(f"fast-style 512x512: {name}", figures, goal, ratio >= 10 if is_goal else None)
        )
    parts = ", ".join(f"{name} {np.median(values):.1f}" for name, values in times_ms.items())
    return [*rows, Row("  of which, ms", parts)]


def grad_cam_service(url: str, model: VisionModel) -> list[Row]:
    """Time grad-cam of a 224 px photograph through the service against a bare pass."""
    photo = Image.decode(samples.photographs()["cat"].read_bytes()).resize(224, 224)
    body = photo.encode("image/jpeg", 90)
    http = urllib3.PoolManager(retries=False)
    pixels = photo.pixels[None].requires_grad_()

    def service() -> None:
        response = http.request(
            "POST", f"{url}/v1/techniques/grad-cam", body=body,
            headers={
                "Content-Type": "image/jpeg", "Accept": "image/jpeg", "Cache-Control": "no-cache"
            },
        )  # fmt: skip
        assert response.status == 200, response.data

    def bare() -> None:
        logits = model.logits(pixels)
        torch.autograd.grad(logits[0].max(), pixels)

    times = take_turns({"service": service, "bare": bare}, rounds=40)
    ratio = times["service"].median / times["bare"].median
    figures = (
        f"{times['service'].median * 1e3:.1f} ms = {ratio:.2f} times a bare forward + backward"
    )
    return [Row("grad-cam 224 px, whole service", figures, "<= 1.5 times", ratio <= 1.5)]


def _register_echo(run_dir: Path) -> None:
    config = dict(
        line.split("=", 1)
        for line in (run_dir / "config.properties").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    key = json.loads((run_dir / "key_file.json").read_text())["management"]["key"]
    response = urllib3.request(
        "POST",
        f"{config['management_address']}/models?url=echo.mar&initial_workers=1&synchronous=true",
        headers={"Authorization": f"Bearer {key}"},
        timeout=60.0,
    )
    assert response.status == 200, response.data


def _picture_of(size: int) -> bytes:
    """Make a JPEG of at least `size` bytes, and hardly more: noise, which does not compress."""
    levels = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    for side in range(160, 1024, 4):
        out = io.BytesIO()
        PIL.Image.fromarray(levels[:side, :side]).save(out, "JPEG", quality=90)
        if out.tell() >= size:
            break
    return out.getvalue()


def settings_facts() -> str:
    """Say on what the figures were taken."""
    import os
    import platform

    return f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
