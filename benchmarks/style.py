"""Fast styles: frames per second, how it is under several callers, and what it costs in quality."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import urllib3
from torch import Tensor

from benchmarks.measure import Row, take_turns
from lantern import samples
from lantern.image import SUFFIXES, Image
from lantern.styles.library import Style, StyleLibrary
from lantern.styles.loss import PaintingLoss, PaintingLossParams
from lantern.styles.painting import Painter
from lantern.styles.train import in_fours
from lantern.zoo import Zoo
from services.settings import Settings

HEADERS = {"Content-Type": "image/jpeg", "Accept": "image/jpeg", "Cache-Control": "no-cache"}
SIZES = ((256, 256), (512, 512), (1280, 720))
CALLERS, CALLS = 4, 25
# The quality figure: photographs of this side, and steps of the optimisation they are held against.
SIDE, ITERATIONS = 256, 100


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
        for photo in map(in_fours, _photographs(None)):
            apart = (_levels(painter.paint(photo).pixels) - _levels(_plain(painter, photo))).abs()
            worst = max(worst, (float(apart.mean()), style.name))
    figures = f"mean {worst[0]:.3f} levels at most ({worst[1]})"
    return [Row(f"{name} against eager float32, all styles", figures, "<= 1.5", worst[0] <= 1.5)]


def quality(paintings: Path, photographs: Path | None) -> Iterator[Row]:
    """Judge what each style paints, and what L-BFGS makes from the photograph, by the same loss.

    `paintings` is the folder of those the styles were trained on; `photographs` are ones they were
    not trained on, the samples if there is no folder.
    """
    library, zoo = StyleLibrary(Settings().styles_path), Zoo(downloads=False)
    photos = [in_fours(image.cover(SIDE)) for image in _photographs(photographs)]
    params = PaintingLossParams()
    for style in library.styles().values():
        path = paintings / str(style.facts["painting"])
        judge = zoo.load(str(style.facts.get("judge") or style.facts["loss_model"]))
        painting = Image.decode(path.read_bytes()).cover(int(style.facts["params"]["style_size"]))
        with PaintingLoss.by(judge) as loss:
            wanted = loss.hand(painting.pixels[None])
            other = np.mean([_optimised(loss, p.pixels[None], wanted, params) for p in photos])
            for kind, painter in _painters(library, style):
                mean = np.mean([_judged(loss, painter.paint(p), p, wanted, params) for p in photos])
                figures = f"{mean:.3f}, L-BFGS {ITERATIONS} iterations {other:.3f}"
                yield Row(f"loss of {style.name}, {kind}", figures, "no worse", bool(mean <= other))


def _painters(library: StyleLibrary, style: Style) -> Iterator[tuple[str, Painter]]:
    if style.file:
        yield "a network of its own", library.painter({style.name: 1.0})
    if style.blends:
        yield "a hand", library.painter_of(library.shared().hands[style.name])


def _judged(
    loss: PaintingLoss,
    painted: Image,
    photo: Image,
    wanted: dict[str, Tensor],
    params: PaintingLossParams,
) -> float:
    with torch.no_grad():
        return float(loss(painted.pixels[None], photo.pixels[None], wanted).total(params))


def _optimised(
    loss: PaintingLoss, photo: Tensor, wanted: dict[str, Tensor], params: PaintingLossParams
) -> float:
    """Return the loss of a picture that is optimised from the photograph on."""
    pixels = photo.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([pixels], max_iter=ITERATIONS, history_size=20)

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(pixels.clamp(0, 1), photo, wanted).total(params)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    painted = Image(pixels.detach().clamp(0, 1)[0])
    return _judged(loss, painted, Image(photo[0]), wanted, params)


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


def _photographs(folder: Path | None) -> list[Image]:
    if folder is None:
        paths = [path for name, path in samples.photographs().items() if name != "retina"]
    else:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    return [Image.decode(path.read_bytes()).fit(512) for path in paths]


def _plain(painter: Painter, photo: Image) -> Tensor:
    with torch.inference_mode():
        painted: Tensor = painter.network(photo.pixels[None], painter.hand)[0]
    return painted


def _levels(pixels: Tensor) -> Tensor:
    return (pixels * 255).round()
