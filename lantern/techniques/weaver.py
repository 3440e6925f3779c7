"""Weaving textures: a network's features of an exemplar, matched from small to large."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.optimize.ascend import Settled, ascend
from lantern.optimize.likeness import Activations, likeness, rolled, views_of
from lantern.optimize.objectives import gram
from lantern.optimize.optimizers import stepping, takes_turns
from lantern.optimize.parametrize import Canvas, Pixels, Pyramid
from lantern.optimize.regularize import total_variation
from lantern.optimize.style import Grams, SlicedWasserstein, Style
from lantern.progress import Progress
from lantern.vision_model import SHORTEST, VisionModel

if TYPE_CHECKING:
    from lantern.techniques.texture_synthesis import TextureSynthesisParams

# Sides of the squares whose mean colours are matched, px.
COLOURS = (1, 4, 16)
# The smallest side a scale may have, px.
SMALLEST = 64
# What a texture that is to tile is shown with around it, px: as much as early layers see.
RING = 32
# And with how much it is enlarged, px: more than bicubic weights reach.
AROUND = 8


@dataclass(frozen=True)
class Weaver:
    """All that weaving the textures of a batch of exemplars needs."""

    model: VisionModel
    params: TextureSynthesisParams
    exemplars: Sequence[Image]
    progress: Progress
    generator: torch.Generator
    checkpoints: Checkpoints

    def matched(self, group: int, groups: int) -> tuple[list[Image], dict[str, Any]]:
        """Match the features of the exemplars, from the smallest scale to the full one."""
        sizes = sizes_of(self.params)
        pixels = self._noise(sizes[0])
        facts: list[dict[str, Any]] = []
        for stage, size in enumerate(sizes):
            start = _resized(pixels, size, self.params)
            stages = group * len(sizes) + stage, groups * len(sizes)
            pixels, said = self._scale(start, size, *stages)
            facts.append(said)
        return [Image(p.contiguous()) for p in pixels], {"scales": facts}

    def _scale(
        self, start: Tensor, size: tuple[int, int], stage: int, stages: int
    ) -> tuple[Tensor, dict[str, Any]]:
        params, model = self.params, self.model
        canvas = self._canvas(start.to(model.device))
        layers = layers_of(params, model)
        with model.quick(layers).capture(layers, pointer="/params/layers") as features:

            def look(pixels: Tensor) -> tuple[Activations, Activations]:
                return features(pixels) | _colours(pixels), {}

            with torch.no_grad():
                share = size[0] / params.height
                style = self._style(look(self._exemplar(e, share))[0] for e in self.exemplars)
            strides = {name: model.stride(name) for name in layers}
            shown = size_shown(size, params)
            views = views_of(
                style, [(0, 0)], size=shown, side=side_of(params),
                turns=takes_turns(params.optimizer),
            )  # fmt: skip
            judge = likeness(
                look, views, None, size=shown, side=side_of(params),
                strides=strides | {f"colours/{n}": n for n in COLOURS},
            )  # fmt: skip

            each = torch.zeros(len(self.exemplars), device=model.device)

            def loss(step: int) -> Tensor:
                pixels = canvas.pixels()
                matched = judge(self._looked_at(pixels), step % len(views))
                rough = params.tv_weight * total_variation(pixels)
                each.copy_(matched.each + rough.detach())
                return matched.total + rough.sum()

            trace = ascend(
                loss,
                stepping(canvas.parameters, params.optimizer, rate=params.learning_rate),
                steps=params.steps,
                progress=self.progress,
                after=lambda step: canvas.project(),
                each=lambda: each,
                preview=lambda: Image(canvas.pixels()[0].detach().cpu()),
                settled=Settled(window=16, gain=5e-3),
                checkpoints=self.checkpoints,
                generator=self.generator,
                stage=stage,
                stages=stages,
            )
        facts = {
            "height": size[0],
            "width": size[1],
            "steps": len(trace.losses),
            "settled": trace.settled,
            "loss": {"first": round(trace.losses[0], 6), "last": round(trace.losses[-1], 6)},
        }
        with torch.no_grad():
            return canvas.pixels().detach().cpu(), facts

    def _canvas(self, start: Tensor) -> Canvas:
        if self.params.optimizer == "adam":
            return Pixels(start)
        # clipped where it is looked at: to clip it behind a step would spoil the curvature
        return Pyramid(start, levels=1)

    def _style(self, seen: Iterable[Mapping[str, Tensor]]) -> Style:
        if self.params.method == "gram":
            return Grams.blended([{n: gram(a) for n, a in e.items()} for e in seen], None)
        return SlicedWasserstein(seen, None, self.generator)

    def _exemplar(self, exemplar: Image, share: float) -> Tensor:
        """Return an exemplar as it is looked at at a scale, never too small for the network."""
        longer, shorter = sorted((exemplar.height, exemplar.width), reverse=True)
        longest = max(SMALLEST, round(longer * share), math.ceil(SHORTEST * longer / shorter))
        seen = self.model.fit(exemplar, longest, pointer="/params/exemplar_size")
        return seen.pixels[None].to(self.model.device)

    def _noise(self, size: tuple[int, int]) -> Tensor:
        """Return pixels of each exemplar in random order, `[N,3,H,W]`."""
        flat = [exemplar.pixels.flatten(1) for exemplar in self.exemplars]
        chosen = [torch.randint(f.shape[1], size, generator=self.generator) for f in flat]
        return torch.stack([f[:, places] for f, places in zip(flat, chosen, strict=True)])

    def _looked_at(self, pixels: Tensor) -> Tensor:
        """Return textures as they are looked at.

        For Adam from another place at each step: some pixels away, or anywhere if they are to tile.
        L-BFGS needs the same function at every step: there what follows lies around them.
        """
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        if self.params.optimizer == "l-bfgs":
            ring = _ring(size, self.params)
            return F.pad(pixels, [ring] * 4, mode="circular") if ring else pixels
        reach = size if self.params.tileable else (8, 8)
        down, right = (int(torch.randint(n, (), generator=self.generator)) for n in reach)
        return rolled(pixels, (down, right))


def _colours(pixels: Tensor) -> dict[str, Tensor]:
    """Return the colours at several scales, with a constant channel, as if they were layers.

    The features of networks with strided first layers leave broad areas of colour open.
    """
    pooled = {f"colours/{n}": F.avg_pool2d(pixels, n, ceil_mode=True) for n in COLOURS}
    return {
        name: torch.cat([colours, torch.ones_like(colours[:, :1])], 1)
        for name, colours in pooled.items()
    }


def layers_of(params: TextureSynthesisParams, model: VisionModel) -> tuple[str, ...]:
    """Return the names of the layers whose features are matched."""
    return params.layers or model.style_layers


def _resized(pixels: Tensor, size: tuple[int, int], params: TextureSynthesisParams) -> Tensor:
    """Resize textures; those that are to tile, with what follows around them: else seams come."""
    ring = AROUND if params.tileable else 0
    if ring:
        pixels = F.pad(pixels, [ring] * 4, mode="circular")
    sides = zip(size, pixels.shape[2:], strict=True)
    down, right = (ring * new // (old - 2 * ring) for new, old in sides)
    whole = size[0] + 2 * down, size[1] + 2 * right
    made = F.interpolate(pixels, size=whole, mode="bicubic", antialias=True).clamp(0, 1)
    return made[:, :, down : down + size[0], right : right + size[1]]


def _ring(size: tuple[int, int], params: TextureSynthesisParams) -> int:
    """Return how many pixels of what follows when it is laid side by side are shown around it."""
    is_laid = params.tileable and params.optimizer == "l-bfgs"
    return min(RING, *size) if is_laid else 0


def size_shown(size: tuple[int, int], params: TextureSynthesisParams) -> tuple[int, int]:
    """Return height and width a texture is shown to the network at, px."""
    ring = _ring(size, params)
    return size[0] + 2 * ring, size[1] + 2 * ring


def side_of(params: TextureSynthesisParams) -> int:
    """Return from which size on tiles are looked at; distributions need the whole."""
    if params.method == "gram":
        return params.tile_size
    return max(size_shown((params.height, params.width), params))


def sizes_of(params: TextureSynthesisParams) -> list[tuple[int, int]]:
    """Return height and width of each scale, smallest first, none but the last under 64 px."""
    sizes = [(params.height >> n, params.width >> n) for n in reversed(range(1, params.scales))]
    return [size for size in sizes if min(size) >= SMALLEST] + [(params.height, params.width)]
