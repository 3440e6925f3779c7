"""Synthesis against the usual loops, restated: seconds to the same loss on the same network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row
from benchmarks.peers import Classifier
from benchmarks.renderer import objectives, param, render
from lantern import samples
from lantern.image import Image
from lantern.optimize.objectives import content_loss, gram, style_loss
from lantern.optimize.parametrize import Fourier
from lantern.optimize.transforms import Movement, moved
from lantern.progress import Cancelled, Step
from lantern.run import run
from lantern.vision_model import VisionModel

# Of the usual loops, which say how far there is to go.
PAINT_STEPS, PAINT_SIZE, CONTENT, TURNS = 60, 256, 0.2, 5
EXCITE_STEPS, EXCITE_SIZE = 32, 128
OBJECTIVES = tuple(f"_blocks.6:{channel}" for channel in range(16))
Renderer = Callable[[VisionModel, int], tuple[float, float]]
"""Renders a channel; returns the seconds it took, and how far it got."""


def style(model: VisionModel) -> list[Row]:
    """Paint until the loss is what a plain two-term L-BFGS script has reached."""
    photo, painting = (_sample(name, PAINT_SIZE) for name in ("coffee", "retina"))
    layers = [*model.style_layers, *model.content_layers]
    with model.capture(layers) as look, torch.no_grad():
        hand = {n: gram(a) for n, a in look(painting).items() if n in model.style_layers}
        drawing = {n: a for n, a in look(photo).items() if n in model.content_layers}

    def judged(pixels: Tensor) -> Tensor:
        """Return the loss both are judged by."""
        with model.capture(layers) as look:
            seen = look(pixels)
        return (style_loss(seen, hand) + CONTENT * content_loss(seen, drawing)).sum()

    usual, own, goal, steps = list[float](), list[float](), 0.0, 0
    for _ in range(TURNS):
        seconds, goal = _plain_script(judged, photo)
        usual.append(seconds)
        seconds, steps = _ours(judged, goal, model)
        own.append(seconds)
    usual_s, ours_s = statistics.median(usual), statistics.median(own)
    ratio = usual_s / ours_s
    figures = (
        f"{ratio:.1f} times as fast ({ours_s:.1f} s, {steps} steps of {1e3 * ours_s / steps:.0f} "
        f"ms, against {usual_s:.1f} s, {PAINT_STEPS} of {1e3 * usual_s / PAINT_STEPS:.0f} ms) "
        f"to loss {goal:.3f}"
    )
    return [Row("style-transfer against a plain L-BFGS script", figures, ">= 2 times", ratio >= 2)]


def _plain_script(judged: Callable[[Tensor], Tensor], photo: Tensor) -> tuple[float, float]:
    """Descend as neural-style-pt does: the pixels themselves, L-BFGS, both terms at full size."""
    pixels = photo.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([pixels], lr=1.0, max_iter=PAINT_STEPS, history_size=100)
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = judged(pixels)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        return loss

    began = time.perf_counter()
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return time.perf_counter() - began, min(losses)


def _ours(judged: Callable[[Tensor], Tensor], goal: float, model: VisionModel) -> tuple[float, int]:
    """Run the technique until it is as good; the time spent judging it does not count."""
    judging_s, steps = 0.0, 0
    began = time.perf_counter()

    def watch(step: Step) -> None:
        nonlocal judging_s, steps
        steps = step.done
        if step.done % 2:
            return
        started = time.perf_counter()
        preview = step.preview()
        with torch.inference_mode():
            is_there = preview.width >= PAINT_SIZE and float(judged(preview.pixels[None])) <= goal
        judging_s += time.perf_counter() - started
        if is_there:
            raise Cancelled

    images = {"image": _picture("coffee"), "style": _picture("retina")}
    # the script's task: one size, one place to look from, nothing smoothed
    params = {
        "size": PAINT_SIZE, "scales": 1, "shifts": 1, "tv_weight": 0.0, "optimizer": "l-bfgs",
        "steps": 400,
    }  # fmt: skip
    try:
        run("style-transfer", images, params, model=model, progress=watch)
    except Cancelled:
        return time.perf_counter() - began - judging_s, steps
    return float("inf"), steps


def excitement(model: VisionModel) -> list[Row]:
    """Excite sixteen channels as far as renderers that take them one by one have."""
    peers = {"hooks on every layer": _hooks_on_everything, "torch-lucent": _lucent}
    return [_excited(model, name, renderer) for name, renderer in peers.items()]


def _excited(model: VisionModel, name: str, renderer: Renderer) -> Row:
    usual_s, goals = 0.0, []
    for objective in OBJECTIVES:
        seconds, value = renderer(model, int(objective.rpartition(":")[2]))
        usual_s += seconds
        goals.append(value)
    ours_s, share = _one_batch(model, goals)
    ratio, each = usual_s / ours_s, 1e3 / EXCITE_STEPS / len(OBJECTIVES)
    figures = (
        f"{ratio:.1f} times as fast ({ours_s:.1f} s against {usual_s:.1f} s; a step of a channel "
        f"{ours_s * each:.1f} ms against {usual_s * each:.1f} ms); {share:.0%} of them as far"
    )
    is_met = ratio >= 4 and share == 1
    return Row(f"16 channels against {name}, one by one", figures, ">= 4 times, as far", is_met)


def _lucent(model: VisionModel, channel: int) -> tuple[float, float]:
    """Render by torch-lucent, with its own transforms and rate, in as many steps."""
    torch.manual_seed(channel)  # it has no generator of its own
    objective = objectives.channel("network__blocks_6", channel)
    began = time.perf_counter()
    made = render.render_vis(
        Classifier(model), objective, lambda: param.image(EXCITE_SIZE), thresholds=(EXCITE_STEPS,),
        preprocess=False, progress=False, show_image=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    pixels = torch.from_numpy(made[-1]).permute(0, 3, 1, 2).contiguous()
    return seconds, _value(model, pixels, channel)


def _hooks_on_everything(model: VisionModel, channel: int) -> tuple[float, float]:
    """Render as lucent does: every module hooked, the whole network run, enlarged to its size."""
    seen: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda m, i, output, name=name: seen.update({name: output}))
        for name, module in model.network.named_modules()
        if name
    ]
    chance = torch.Generator().manual_seed(channel)
    canvas = Fourier.noise((1, 3, EXCITE_SIZE, EXCITE_SIZE), chance)
    optimizer = torch.optim.Adam(canvas.parameters, lr=0.02)
    movement = Movement(jitter=8, scale=0.1, rotate=10)
    side, size = (EXCITE_SIZE, EXCITE_SIZE), (model.input_size, model.input_size)
    began = time.perf_counter()
    try:
        for _ in range(EXCITE_STEPS):
            optimizer.zero_grad()
            pixels = canvas.pixels()
            # padding, jitter, scale, rotation and jitter again are resamplings of their own
            for _ in range(4):
                pixels = moved(pixels, movement.draw(1, side, chance), side)
            model.logits(F.interpolate(pixels, size, mode="bilinear", align_corners=True))
            (-seen["_blocks.6"][0, channel].mean()).backward()
            optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    return time.perf_counter() - began, _value(model, canvas.pixels().detach(), channel)


def _one_batch(model: VisionModel, goals: list[float]) -> tuple[float, float]:
    """Return the seconds of one batch of as many steps, and the share that got as far."""
    began = time.perf_counter()
    result = run(
        "activation-maximization", {},
        {"objectives": list(OBJECTIVES), "steps": EXCITE_STEPS, "size": EXCITE_SIZE},
        model=model,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    pictures = torch.from_numpy(result.principal.arrays()["pictures"])
    found = [_value(model, pictures[n : n + 1], n) for n in range(len(goals))]
    return seconds, sum(f >= g for f, g in zip(found, goals, strict=True)) / len(goals)


@torch.inference_mode()
def _value(model: VisionModel, pixels: Tensor, channel: int) -> float:
    with model.capture(["_blocks.6"]) as look:
        return float(look(pixels)["_blocks.6"][0, channel].mean())


def _picture(name: str) -> Image:
    return Image.decode(samples.photographs()[name].read_bytes())


def _sample(name: str, size: int) -> Tensor:
    return _picture(name).fit(size).pixels[None]
