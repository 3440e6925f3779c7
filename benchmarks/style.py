"""Fast styles: frames per second, how it is under several callers, and what bfloat16 moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import torch
import urllib3
from torch import Tensor

from benchmarks.measure import Row, take_turns
from benchmarks.quality import photographs
from lantern import samples
from lantern.image import Image
from lantern.styles.library import StyleLibrary
from lantern.styles.painting import Painter
from lantern.styles.train import in_fours
from services.settings import Settings

HEADERS = {"Content-Type": "image/jpeg", "Accept": "image/jpeg", "Cache-Control": "no-cache"}
SIZES = ((256, 256), (512, 512), (1280, 720))
CALLERS, CALLS = 4, 25


def rates(url: str) -> list[Row]:
    """Time whole calls of several sizes, in turns."""
    callers = {f"{width}x{height}": _caller(url, width, height) for width, height in SIZES}
    return [
        Row(
            f"fast-style {size}, whole service, one caller",
            f"{1 / own.median:5.1f} frames a second ({own.median * 1e3:.0f} ms)",
        )
        for size, own in take_turns(callers, rounds=15).items()
    ]


def crowd(url: str) -> list[Row]:
    """Time calls of several callers at once."""
    times: list[float] = []

    def call() -> None:
        paint = _caller(url, 512, 512)
        paint()
        for _ in range(CALLS):
            times.append(_timed(paint))

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    started = time.perf_counter()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    rate = len(times) / (time.perf_counter() - started)
    p50, p99 = (float(np.percentile(times, share)) * 1e3 for share in (50, 99))
    figures = f"{rate:.1f} frames a second; p50 {p50:.0f} ms, p99 {p99:.0f} ms"
    return [Row(f"fast-style 512x512, whole service, {CALLERS} callers", figures)]


def precision() -> list[Row]:
    """Compare what the engine paints with float32, in levels of 256."""
    library = StyleLibrary(Settings().styles_path)
    worst: tuple[float, str] = (0.0, "")
    name = ""
    for style in library.styles().values():
        painter = library.painter({style.name: 1.0})
        name = painter.whole.name
        for photo in map(in_fours, photographs(None)):
            apart = (_levels(painter.paint(photo).pixels) - _levels(_plain(painter, photo))).abs()
            worst = max(worst, (float(apart.mean()), style.name))
    figures = f"mean {worst[0]:.3f} levels at most ({worst[1]})"
    return [Row(f"{name} against eager float32, all styles", figures, "<= 1.5", worst[0] <= 1.5)]


def _caller(url: str, width: int, height: int) -> Callable[[], None]:
    photo = Image.decode(samples.photographs()["astronaut"].read_bytes()).resize(height, width)
    body, http = photo.encode("image/jpeg", 90), urllib3.PoolManager(retries=False)
    path = f"{url}/v1/techniques/fast-style?style=starry-night&size={max(width, height)}"

    def paint() -> None:
        response = http.request("POST", path, body=body, headers=HEADERS)
        assert response.status == 200, response.data

    return paint


def _timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _plain(painter: Painter, photo: Image) -> Tensor:
    with torch.inference_mode():
        painted: Tensor = painter.network(photo.pixels[None], painter.hand)[0]
    return painted


def _levels(pixels: Tensor) -> Tensor:
    return (pixels * 255).round()
