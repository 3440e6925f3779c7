"""Painting photographs in the hand of paintings: from the smallest scale to the full one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.optimize.ascend import Settled, Trace, ascend
from lantern.optimize.excitement import Features
from lantern.optimize.likeness import (
    Activations,
    Drawing,
    Likeness,
    grams_of,
    likeness,
    views_of,
)
from lantern.optimize.octaves import Size, octaves
from lantern.optimize.optimizers import stepping, takes_turns
from lantern.optimize.parametrize import Pyramid
from lantern.optimize.regularize import total_variation
from lantern.optimize.style import Grams, SlicedWasserstein, Style, smoothed
from lantern.palette import grey, luma_matched, recoloured, with_colours_of
from lantern.progress import Progress
from lantern.vision_model import SHORTEST, VisionModel

if TYPE_CHECKING:
    from lantern.techniques.style_transfer import StyleTransferParams

# Levels of the pyramid, places to look from unless told, and how far a shift goes (px).
LEVELS, SHIFTS, SHIFT = 5, 8, 8
# The loss is compared over twice as many steps as this, to tell that it has settled.
WINDOW = 8
# Ratio of one scale to the next.
RATIO = 2**-0.5


@dataclass(frozen=True)
class Painter:
    """All that painting a batch of photographs of one size needs."""

    model: VisionModel
    params: StyleTransferParams
    paintings: Sequence[Image]
    masks: Sequence[Image]
    start: Image | None
    progress: Progress
    generator: torch.Generator
    checkpoints: Checkpoints

    def paint(
        self, photos: Sequence[Image], batch: int, batches: int
    ) -> tuple[list[Image], dict[str, Any]]:
        """Paint from the smallest scale to the full one; return the pictures and the facts."""
        sizes = sizes_of((photos[0].height, photos[0].width), self.params)
        pixels = self._first(photos, sizes[0])
        for number, size in enumerate(sizes):
            pixels = _resized(pixels, size)
            stage = (batch * len(sizes) + number, batches * len(sizes))
            pixels, facts = self._scale(photos, pixels, size, stage)
        return [self._finished(p, photo) for p, photo in zip(pixels, photos, strict=True)], facts

    def _scale(
        self,
        photos: Sequence[Image],
        start: Tensor,
        size: tuple[int, int],
        stage: tuple[int, int],
    ) -> tuple[Tensor, dict[str, Any]]:
        """Paint at one size, from `start`; return the pixels and the facts."""
        params, model = self.params, self.model
        canvas = Pyramid(start.to(model.device), levels=LEVELS)
        count = shifts_of(params)
        drawn = torch.randint(0, SHIFT, (count, 2), generator=self.generator)
        shifts = [(int(down), int(right)) for down, right in drawn] if count > 1 else [(0, 0)]
        terms: dict[str, float] = {}
        each = torch.zeros(len(photos), device=model.device)
        layers = layers_of(params, model)
        with model.quick(layers).capture(layers, pointer="/params/style_layers") as features:
            content, cover = self._content(photos, size), self._cover(size)
            judge, views = self._likeness(features, photos[0].opaque(), content, shifts)

            def shown() -> Tensor:
                pixels = canvas.pixels()
                return pixels if cover is None else torch.lerp(content, pixels, cover)

            def loss(step: int) -> Tensor:
                pixels = shown()
                found = judge(pixels, step % views)
                rough = total_variation(pixels)
                terms.update(style=found.style, content=found.content, tv=rough.sum().item())
                each.copy_(found.each + params.tv_weight * rough.detach())
                return found.total + params.tv_weight * rough.sum()

            trace = ascend(
                loss,
                stepping(canvas.parameters, params.optimizer, rate=params.learning_rate),
                steps=params.steps,
                progress=self.progress,
                preview=lambda: self._finished(shown()[0].detach(), photos[0]),
                each=lambda: each,
                checkpoints=self.checkpoints,
                generator=self.generator,
                settled=Settled(window=2 * max(WINDOW, count), gain=2e-3),
                stage=stage[0],
                stages=stage[1],
            )
            with torch.no_grad():  # a run that was resumed behind its last step has no terms
                loss(len(trace.losses))
        with torch.no_grad():
            return shown().cpu(), _facts(trace, terms, size)

    def _likeness(
        self, features: Features, photo: Image, content: Tensor, shifts: Sequence[tuple[int, int]]
    ) -> tuple[Likeness, int]:
        """Return how like paintings and photographs pictures of one size are, and its views."""
        params, model = self.params, self.model
        style_layers, content_layers = (
            style_layers_of(params, model),
            content_layers_of(params, model),
        )

        def look(pixels: Tensor) -> tuple[Activations, Activations]:
            seen = features(pixels)
            kept = smoothed(seen) if params.smoothing else seen
            return {n: kept[n] for n in style_layers}, {n: kept[n] for n in content_layers}

        size = (content.shape[2], content.shape[3])
        strides = {name: model.stride(name) for name in layers_of(params, model)}
        style = self._style(lambda pixels: look(pixels)[0], photo, size, strides)
        drawing = Drawing(content, params.content_weight) if params.content_weight else None
        turns = takes_turns(params.optimizer)
        views = views_of(style, shifts, size=size, side=params.tile_size, turns=turns)
        judge = likeness(
            look, views, drawing, size=size, side=params.tile_size, strides=strides,
            style_weight=params.style_weight,
        )  # fmt: skip
        return judge, len(views)

    def _style(
        self,
        hand: Callable[[Tensor], Activations],
        photo: Image,
        size: Size,
        strides: Mapping[str, int],
    ) -> Style:
        """Return what is taken from the paintings, which are looked at one by one."""
        params = self.params
        weights = params.style_weights or (1.0,) * len(self.paintings)
        layers = style_layers_of(params, self.model)
        shares = dict(zip(layers, params.style_layer_weights, strict=False))
        if params.statistic == "sliced-wasserstein":
            hands = (hand(self._painting(one, photo, size)) for one in self.paintings)
            with torch.no_grad():
                return SlicedWasserstein(hands, weights, self.generator, shares)
        grams = [
            grams_of(hand, self._painting(one, photo, size), side=params.tile_size, strides=strides)
            for one in self.paintings
        ]
        if not self.masks:
            return Grams.blended(grams, weights, shares)
        masks = [grey(m).resize(*size).pixels[0].to(self.model.device) for m in self.masks]
        return Grams.by_region(grams, masks, weights, shares)

    def _content(self, photos: Sequence[Image], size: tuple[int, int]) -> Tensor:
        grounds = [photo.opaque() for photo in photos]
        drawn = [grey(g) if self.params.color == "luminance" else g for g in grounds]
        return torch.stack([d.resize(*size).pixels for d in drawn]).to(self.model.device)

    def _cover(self, size: tuple[int, int]) -> Tensor | None:
        """Return what lies under any mask, `[H,W]`, 0..1; the rest stays the photograph."""
        if not self.masks:
            return None
        masks = [grey(mask).resize(*size).pixels[0] for mask in self.masks]
        return torch.stack(masks).sum(0).clamp(0, 1).to(self.model.device)

    def _first(self, photos: Sequence[Image], size: tuple[int, int]) -> Tensor:
        """Return the pictures to start from, `[N,3,H,W]`."""
        if self.start is not None:
            return self.start.resize(*size).pixels[None].repeat(len(photos), 1, 1, 1)
        if self.params.init == "content":
            return self._content(photos, size).cpu()
        return torch.rand(len(photos), 3, *size, generator=self.generator)

    def _painting(self, painting: Image, photo: Image, size: tuple[int, int]) -> Tensor:
        """Return a painting as it is looked at beside pictures of one size, `[1,3,H,W]`."""
        own = painting.height, painting.width
        painting = painting.resize(*painting_size(own, size, self.params))
        if self.params.color == "luminance":
            painting = luma_matched(grey(painting), photo)
        elif self.params.color == "histogram":
            painting = recoloured(painting, photo)
        return painting.pixels[None].to(self.model.device)

    def _finished(self, pixels: Tensor, photo: Image) -> Image:
        image = Image(pixels.clamp(0, 1).cpu())
        if self.params.color == "luminance":
            image = with_colours_of(image, photo.opaque().resize(image.height, image.width))
        return photo.resize(image.height, image.width).repainted(image.pixels)


def sizes_of(size: Size, params: StyleTransferParams) -> list[Size]:
    """Return height and width of each scale, smallest first, none but the last under 64 px."""
    return octaves(size, count=params.scales, scale=1 / RATIO, smallest=64)


def painting_size(painting: Size, size: Size, params: StyleTransferParams) -> Size:
    """Return the size at which a painting is looked at beside pictures of one size."""
    scale = max(size) * params.style_scale / max(painting)
    scale = max(scale, SHORTEST / min(painting))
    return round(painting[0] * scale), round(painting[1] * scale)


def shifts_of(params: StyleTransferParams) -> int:
    """Return how many places pictures are looked at from, in turn."""
    if params.shifts is not None:
        return params.shifts
    return SHIFTS if takes_turns(params.optimizer) else 1


def style_layers_of(params: StyleTransferParams, model: VisionModel) -> tuple[str, ...]:
    """Return the layers whose statistics are a style."""
    return params.style_layers or tuple(model.style_layers)


def content_layers_of(params: StyleTransferParams, model: VisionModel) -> tuple[str, ...]:
    """Return the layers whose activations are kept."""
    return params.content_layers or tuple(model.content_layers)


def layers_of(params: StyleTransferParams, model: VisionModel) -> tuple[str, ...]:
    """Return every layer that is looked at."""
    return (*style_layers_of(params, model), *content_layers_of(params, model))


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return F.interpolate(
        pixels, size=size, mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)


def _facts(trace: Trace, terms: Mapping[str, float], size: tuple[int, int]) -> dict[str, Any]:
    return {
        "losses": {name: round(value, 6) for name, value in terms.items()},
        "loss": {"first": round(trace.losses[0], 6), "last": round(trace.losses[-1], 6)},
        "steps": len(trace.losses),
        "settled": trace.settled,
        "height": size[0],
        "width": size[1],
    }
