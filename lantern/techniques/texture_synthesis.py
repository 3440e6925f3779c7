"""Texture synthesis: as much as one likes of what a small picture shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome, numbered
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.optimize.ascend import Settled, ascend
from lantern.optimize.likeness import (
    Activations,
    likeness,
    rolled,
    seen_at_once,
    seen_in_step,
    views_of,
)
from lantern.optimize.objectives import gram
from lantern.optimize.octaves import fitted
from lantern.optimize.optimizers import Rule, stepping
from lantern.optimize.parametrize import Canvas, Pixels, Pyramid
from lantern.optimize.regularize import total_variation
from lantern.optimize.style import Grams, SlicedWasserstein, Style
from lantern.params import Params
from lantern.progress import Progress, Step
from lantern.registry import Count, technique
from lantern.texture.growth import grow, growth_operations
from lantern.texture.quilting import QuiltState, quilt, quilting_operations, unlaid
from lantern.texture.sources import Texture
from lantern.texture.starts import GrowthState, seeded
from lantern.vision_model import SHORTEST, VisionModel
from lantern.work import Sizes, Work

T = TypeVar("T")
LayerName = Annotated[str, Field(min_length=1, max_length=200)]


class TextureSynthesisParams(Params):
    """How the texture is made, and how large."""

    method: Literal["gram", "sliced-wasserstein", "growth", "quilting"] = Field(
        "gram",
        description=(
            "gram or sliced-wasserstein: features of a network are matched; growth: pixel by pixel "
            "from the best matching neighbourhoods; quilting: blocks joined by least-error cuts"
        ),
    )
    height: int = Field(
        256, ge=32, le=2048, description="rows of the texture", json_schema_extra={"unit": "px"}
    )
    width: int = Field(
        256, ge=32, le=2048, description="columns of the texture", json_schema_extra={"unit": "px"}
    )
    exemplar_size: int = Field(
        192,
        ge=32,
        le=1024,
        description="longest side the exemplar is looked at",
        json_schema_extra={"unit": "px"},
    )
    tile_size: int = Field(
        1024,
        ge=256,
        le=2048,
        multiple_of=64,
        description="side of the tiles that gram looks at larger textures in, a multiple of 64",
        json_schema_extra={"unit": "px"},
    )
    tileable: bool = Field(False, description="make it fit to itself at opposite edges")
    steps: int = Field(
        100, ge=1, le=2000, description="most steps at each scale; of gram and sliced-wasserstein"
    )
    scales: int = Field(
        3, ge=1, le=5, description="sizes it is made at, each half the next; of gram and the other"
    )
    layers: tuple[LayerName, ...] = Field(
        (), max_length=16, description="layers to match; the network's style layers if empty"
    )
    optimizer: Rule = Field(
        "l-bfgs",
        description="how steps are taken: l-bfgs, the paper's way, comes near to the exemplar; "
        "adam needs less memory and looks from another place at each step",
    )
    learning_rate: float = Field(
        0.05, gt=0, le=1, description="Adam's rate, in pixel units of 0..1"
    )
    tv_weight: float = Field(0.1, ge=0, le=100, description="weight of the smoothness of pixels")
    window: int = Field(
        11,
        ge=3,
        le=41,
        description="side of the neighbourhoods of growth, odd",
        json_schema_extra={"unit": "px"},
    )
    nearest: bool = Field(
        False, description="growth takes the best match, not any of the nearly best"
    )
    block: int = Field(
        32,
        ge=6,
        le=256,
        description="side of the blocks of quilting",
        json_schema_extra={"unit": "px"},
    )


# Sides of the squares whose mean colours are matched, px.
COLOURS = (1, 4, 16)
# The smallest side a scale may have, px.
SMALLEST = 64
# What a texture that is to tile is shown with around it, px: as much as early layers see.
RING = 32
# And with how much it is enlarged, px: more than bicubic weights reach.
AROUND = 8
COPIED = "every pixel is the exemplar's"


def _work(params: TextureSynthesisParams, sizes: Sizes, model: VisionModel) -> Work:
    exemplars = [fitted(size, params.exemplar_size) for size in sizes.get("image", ())]
    if params.method in ("growth", "quilting"):
        copied = growth_operations if params.method == "growth" else quilting_operations
        side = params.window if params.method == "growth" else params.block
        made = params.height * params.width
        return Work(0, 0, more=sum(copied(exemplar, made, side) for exemplar in exemplars))
    for name in _layers(params, model):
        model.check_positions(name, pointer="/params/layers")
    scales = _sizes(params)
    shown = [_shown(size, params) for size in scales]
    seen = [seen_in_step(size, _side(params), has_drawing=False) for size in shown]
    passes = 2 * params.steps * len(exemplars) * len(scales)
    pixels = sum(seen) / (2 * len(scales))
    most = max((len(group) for group in _together(exemplars, params)), default=0)
    at_once = most * seen_at_once(shown[-1], _side(params))
    return Work(passes, pixels, _layers(params, model), at_once)


@technique(
    "texture-synthesis",
    family="synthesis",
    runs="job",
    source=(
        "Gatys et al. 2015, Texture Synthesis Using Convolutional Neural Networks; Heitz et al. "
        "2021, A Sliced Wasserstein Loss; Efros and Leung 1999; Efros and Freeman 2001"
    ),
    outputs={"picture": "the texture"},
    keeps_shape=False,
    work=_work,
)
def texture_synthesis(
    model: VisionModel,
    image: Annotated[tuple[Image, ...], "exemplar of the texture", Count(1, 8)],
    params: TextureSynthesisParams,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Make a texture of any size from an exemplar: by a network's features, or by copying.

    Growth and quilting take every pixel from the exemplar and need no network; matching features
    makes new pixels. Several exemplars make as many textures.
    """
    exemplars = [model.fit(i, params.exemplar_size, pointer="/params/exemplar_size") for i in image]
    if params.method in ("growth", "quilting"):
        maker = _Maker(model, params, exemplars, progress, generator, checkpoints)
        return Outcome(numbered("picture", maker.copied()), {"sources": COPIED})
    pictures: list[Image] = []
    facts: list[dict[str, Any]] = []
    groups = _together(exemplars, params)
    for number, group in enumerate(groups):
        maker = _Maker(model, params, group, progress, generator, checkpoints)
        made, said = maker.matched(number, len(groups))
        pictures += made
        facts.append(said)
    said = facts[0] if len(facts) == 1 else {"textures": facts}
    return Outcome(numbered("picture", pictures), said)


@dataclass(frozen=True)
class _Maker:
    """All that making textures needs."""

    model: VisionModel
    params: TextureSynthesisParams
    exemplars: Sequence[Image]
    progress: Progress
    generator: torch.Generator
    checkpoints: Checkpoints

    # --- By features

    def matched(self, group: int, groups: int) -> tuple[list[Image], dict[str, Any]]:
        """Match the features of the exemplars, from the smallest scale to the full one."""
        sizes = _sizes(self.params)
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
        layers = _layers(params, model)
        with model.quick(layers).capture(layers, pointer="/params/layers") as features:

            def look(pixels: Tensor) -> tuple[Activations, Activations]:
                return features(pixels) | _colours(pixels), {}

            with torch.no_grad():
                share = size[0] / params.height
                style = self._style([look(self._exemplar(e, share))[0] for e in self.exemplars])
            strides = {name: model.stride(name) for name in _layers(params, model)}
            shown = _shown(size, params)
            views = views_of(style, [(0, 0)], size=shown, side=_side(params))
            judge = likeness(
                look, views, None, size=shown, side=_side(params),
                strides=strides | {f"colours/{n}": n for n in COLOURS},
            )  # fmt: skip

            def loss(step: int) -> Tensor:
                pixels = canvas.pixels()
                matched = judge(self._looked_at(pixels), step % len(views)).total
                return matched + params.tv_weight * total_variation(pixels).sum()

            trace = ascend(
                loss,
                stepping(canvas.parameters, params.optimizer, rate=params.learning_rate),
                steps=params.steps,
                progress=self.progress,
                after=lambda step: canvas.project(),
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

    def _style(self, seen: Sequence[Mapping[str, Tensor]]) -> Style:
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

    # --- By copying

    def copied(self) -> list[Image]:
        """Copy pixels or blocks from each exemplar in turn."""
        kept = self.checkpoints.restore_tensors() or {}
        done = [kept[name] for name in sorted(n for n in kept if n.startswith("picture-"))]
        unfinished = {n: tensor for n, tensor in kept.items() if not n.startswith("picture-")}
        for place in range(len(done), len(self.exemplars)):
            done.append(self._copy(place, unfinished, done).pixels)
            unfinished = {}
        return [Image(pixels) for pixels in done]

    def _copy(self, place: int, unfinished: dict[str, Tensor], done: Sequence[Tensor]) -> Texture:
        exemplar, params = self.exemplars[place].pixels, self.params
        watch = self._watch(exemplar, place, done)
        if params.method == "growth":
            start = (
                GrowthState.from_state(unfinished)
                if unfinished
                else seeded(exemplar, params.height, params.width, generator=self._own(place))
            )
            return grow(
                exemplar, start, window=params.window, nearest=params.nearest,
                tileable=params.tileable, progress=watch,
            )  # fmt: skip
        laid = (
            QuiltState.from_state(unfinished)
            if unfinished
            else unlaid(params.height, params.width, generator=self._own(place))
        )
        return quilt(exemplar, laid, block=params.block, tileable=params.tileable, progress=watch)

    def _own(self, place: int) -> torch.Generator:
        """Return the generator of one texture, the same in a run that was resumed."""
        draws = torch.randint(2**31, (place + 1,), generator=self.generator.clone_state())
        return torch.Generator().manual_seed(int(draws[place]))

    def _watch(
        self, exemplar: Tensor, place: int, done: Sequence[Tensor]
    ) -> Callable[[int, int, GrowthState | QuiltState], None]:
        def watch(made: int, total: int, state: GrowthState | QuiltState) -> None:
            step = Step(
                place * total + made, len(self.exemplars) * total, 1 - made / total,
                lambda: Image(state.pixels(exemplar)),
            )  # fmt: skip
            self.progress(step)
            finished = {f"picture-{n:02d}": pixels for n, pixels in enumerate(done)}
            self.checkpoints.keep_tensors(lambda: finished | state.state())

        return watch


def _colours(pixels: Tensor) -> dict[str, Tensor]:
    """Return the colours at several scales, with a constant channel, as if they were layers.

    The features of networks with strided first layers leave broad areas of colour open.
    """
    pooled = {f"colours/{n}": F.avg_pool2d(pixels, n, ceil_mode=True) for n in COLOURS}
    return {
        name: torch.cat([colours, torch.ones_like(colours[:, :1])], 1)
        for name, colours in pooled.items()
    }


def _layers(params: TextureSynthesisParams, model: VisionModel) -> tuple[str, ...]:
    return params.layers or model.style_layers


def _together(exemplars: Sequence[T], params: TextureSynthesisParams) -> list[list[T]]:
    """Group exemplars whose textures are made as one batch: L-BFGS has one step for all it has."""
    if params.optimizer == "adam":
        return [list(exemplars)]
    return [[exemplar] for exemplar in exemplars]


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


def _shown(size: tuple[int, int], params: TextureSynthesisParams) -> tuple[int, int]:
    ring = _ring(size, params)
    return size[0] + 2 * ring, size[1] + 2 * ring


def _side(params: TextureSynthesisParams) -> int:
    """Return from which size on tiles are looked at; distributions need the whole."""
    if params.method == "gram":
        return params.tile_size
    return max(_shown((params.height, params.width), params))


def _sizes(params: TextureSynthesisParams) -> list[tuple[int, int]]:
    """Return height and width of each scale, smallest first, none but the last under 64 px."""
    sizes = [(params.height >> n, params.width >> n) for n in reversed(range(1, params.scales))]
    return [size for size in sizes if min(size) >= SMALLEST] + [(params.height, params.width)]
