"""Neural style transfer: a photograph repainted by optimisation, any painting."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome, numbered
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.optimize.ascend import Settled, Trace, ascend
from lantern.optimize.likeness import (
    Activations,
    Drawing,
    Likeness,
    View,
    grams_of,
    likeness,
    seen_at_once,
    seen_in_step,
)
from lantern.optimize.octaves import Size, fitted
from lantern.optimize.parametrize import Pyramid
from lantern.optimize.regularize import total_variation
from lantern.optimize.style import Grams, SlicedWasserstein, Statistic, Style, smoothed
from lantern.palette import grey, luma_matched, recoloured, with_colours_of
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import Count, technique
from lantern.vision_model import SHORTEST, VisionModel
from lantern.work import Sizes, Work

Features = Callable[[Tensor], Activations]
LayerName = Annotated[str, Field(min_length=1, max_length=200)]


class StyleTransferParams(Params):
    """How long, how large, and what to weigh."""

    steps: int = Field(60, ge=1, le=2000, description="most optimisation steps at each scale")
    size: int = Field(
        384,
        ge=64,
        le=4096,
        description="longest side of the result",
        json_schema_extra={"unit": "px"},
    )
    tile_size: int = Field(
        1024,
        ge=256,
        le=2048,
        multiple_of=64,
        description="side of the tiles that larger pictures are looked at in, a multiple of 64",
        json_schema_extra={"unit": "px"},
    )
    style_scale: float = Field(
        1.0,
        ge=0.1,
        le=4,
        description="longest side of the painting to that of the result; more is broader strokes",
    )
    scales: int = Field(
        3, ge=1, le=5, description="sizes the picture is painted at, each 0.7 of the next"
    )
    content_weight: float = Field(
        0.2, ge=0, le=100, description="how much of the photograph is kept, against style = 1"
    )
    style_weights: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(
        (), max_length=8, description="share of each painting; equal if empty"
    )
    tv_weight: float = Field(1.0, ge=0, le=100, description="weight of the smoothness of pixels")
    statistic: Statistic = Field(
        "gram", description="what of the features is a style: their Gram matrices or distributions"
    )
    color: Literal["style", "luminance", "histogram"] = Field(
        "style",
        description=(
            "whose colours: the painting's; the photograph's, by painting only its luminance; or "
            "the photograph's, by giving the painting its histogram first"
        ),
    )
    smoothing: bool = Field(
        False, description="softmax over the channels; for residual networks that paint grain"
    )
    style_layers: tuple[LayerName, ...] = Field(
        (), max_length=16, description="layers of the style; the network's own choice if empty"
    )
    content_layers: tuple[LayerName, ...] = Field(
        (), max_length=16, description="layers of the content; the network's own choice if empty"
    )
    optimizer: Literal["adam", "l-bfgs"] = Field("adam", description="how steps are taken")
    learning_rate: float = Field(
        0.015, gt=0, le=1, description="Adam's rate, in pixel units of 0..1"
    )
    init: Literal["content", "noise"] = Field(
        "content", description="picture to start from where none is given as start"
    )


# Levels of the pyramid, the number of shifts tried in turn, and how far one goes (px).
LEVELS, SHIFTS, SHIFT = 5, 8, 8
# Ratio of one scale to the next.
RATIO = 2**-0.5
# What one run may paint, and what L-BFGS may: it keeps forty copies. Pixels of all pictures.
MOST_PIXELS, MOST_LBFGS_PIXELS = 2**24, 2**22
# The longest side a painting is looked at with, px.
MOST_PAINTING = 4096


def _work(params: StyleTransferParams, sizes: Sizes, model: VisionModel) -> Work:
    photos = [fitted(size, params.size) for size in sizes.get("image", ())]
    _check_size(photos, params)
    _check_layers(params, model)
    paintings, layers = len(sizes.get("style", ())), _layers(params, model)
    pixels, passes = 0.0, 0
    for photo in photos:
        for size in _sizes(photo, params):
            # the content of every shift is looked at once
            pixels += params.steps * seen_in_step(size, params.tile_size, has_drawing=True)
            pixels += SHIFTS * size[0] * size[1] + paintings * _painting_area(size, params)
            passes += 2 * params.steps + SHIFTS + paintings
    counts = Counter(photos)
    at_once = [
        count * seen_at_once(size, params.tile_size)
        for size, count in counts.items()
    ]  # fmt: skip
    return Work(passes, pixels / max(1, passes), layers, max(at_once, default=0))


@technique(
    "style-transfer",
    title="Neural style transfer",
    family="synthesis",
    runs="job",
    source=(
        "Gatys et al. 2016, Image Style Transfer Using Convolutional Neural Networks, section 2; "
        "Gatys et al. 2017, Controlling Perceptual Factors in Neural Style Transfer"
    ),
    outputs={"picture": "the photograph in the painting's hand"},
    work=_work,
)
def style_transfer(
    model: VisionModel,
    image: Annotated[tuple[Image, ...], "photograph whose content is kept", Count(1, 8)],
    style: Annotated[tuple[Image, ...], "painting whose hand is taken", Count(1, 8)],
    mask: Annotated[
        tuple[Image, ...], "where each painting goes, white on black, one for each", Count(0, 8)
    ],
    start: Annotated[Image | None, "picture to start from"],
    params: StyleTransferParams,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Repaint photographs in the hand of any paintings, by optimising their pixels.

    Several paintings are blended by their weights or, with masks, each has its region; what lies
    under no mask stays the photograph. Losses are
    relative to their targets, so that the same weights serve every network and size. Two departures
    from the paper keep networks with strided first layers from painting grids and coloured grain:
    the picture is a sum of a pyramid's levels, and each step looks at it shifted by a few pixels.
    """
    _check(params, style, mask)
    photos = [model.fit(photo, params.size) for photo in image]
    _check_size([(photo.height, photo.width) for photo in photos], params)
    _check_layers(params, model)
    batches = _batches(photos, alone=params.color != "style")
    pictures: dict[int, Image] = {}
    facts: list[dict[str, Any]] = []
    studio = _Studio(model, params, style, mask, start, progress, generator, checkpoints)
    for number, places in enumerate(batches):
        painted, said = studio.paint([photos[p] for p in places], number, len(batches))
        pictures |= dict(zip(places, painted, strict=True))
        facts.append(said)
    made = numbered("picture", (pictures[place] for place in range(len(photos))))
    return Outcome(made, facts[0] if len(facts) == 1 else {"batches": facts})


@dataclass(frozen=True)
class _Studio:
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
        sizes = _sizes((photos[0].height, photos[0].width), self.params)
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
        drawn = torch.randint(0, SHIFT, (SHIFTS, 2), generator=self.generator)
        shifts = [(int(down), int(right)) for down, right in drawn]
        terms: dict[str, float] = {}
        with model.capture(_layers(params, model), pointer="/params/style_layers") as features:
            content, cover = self._content(photos, size), self._cover(size)
            judge = self._likeness(features, photos[0], content, shifts)

            def shown() -> Tensor:
                pixels = canvas.pixels()
                return pixels if cover is None else torch.lerp(content, pixels, cover)

            def loss(step: int) -> Tensor:
                pixels = shown()
                found = judge(pixels, step % SHIFTS)
                rough = total_variation(pixels).sum()
                terms.update(style=found.style, content=found.content, tv=rough.item())
                return found.total + params.tv_weight * rough

            trace = ascend(
                loss,
                _optimizer(canvas.parameters, params),
                steps=params.steps,
                progress=self.progress,
                preview=lambda: self._finished(shown()[0].detach(), photos[0]),
                checkpoints=self.checkpoints,
                generator=self.generator,
                settled=Settled(window=2 * SHIFTS, gain=2e-3),
                stage=stage[0],
                stages=stage[1],
            )
            with torch.no_grad():  # a run that was resumed behind its last step has no terms
                loss(len(trace.losses))
        with torch.no_grad():
            return shown().cpu(), _facts(trace, terms, size)

    def _likeness(
        self, features: Features, photo: Image, content: Tensor, shifts: Sequence[tuple[int, int]]
    ) -> Likeness:
        """Return how like paintings and photographs pictures of one size are."""
        params, model = self.params, self.model
        style_layers, content_layers = _style_layers(params, model), _content_layers(params, model)

        def look(pixels: Tensor) -> tuple[Activations, Activations]:
            seen = features(pixels)
            kept = smoothed(seen) if params.smoothing else seen
            return {n: kept[n] for n in style_layers}, {n: kept[n] for n in content_layers}

        size = (content.shape[2], content.shape[3])
        strides = {name: model.stride(name) for name in _layers(params, model)}
        style = self._style(lambda pixels: look(pixels)[0], photo, size, strides)
        drawing = Drawing(content, params.content_weight) if params.content_weight else None
        views = [View(style, by) for by in shifts]
        return likeness(look, views, drawing, size=size, side=params.tile_size, strides=strides)

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
        if params.statistic == "sliced-wasserstein":
            with torch.no_grad():
                hands = [hand(self._painting(one, photo, size)) for one in self.paintings]
            return SlicedWasserstein(hands, weights, self.generator)
        grams = [
            grams_of(hand, self._painting(one, photo, size), side=params.tile_size, strides=strides)
            for one in self.paintings
        ]
        if not self.masks:
            return Grams.blended(grams, weights)
        masks = [grey(m).resize(*size).pixels[0].to(self.model.device) for m in self.masks]
        return Grams.by_region(grams, masks, weights)

    def _content(self, photos: Sequence[Image], size: tuple[int, int]) -> Tensor:
        drawn = [grey(p) if self.params.color == "luminance" else p for p in photos]
        return torch.stack([p.resize(*size).pixels for p in drawn]).to(self.model.device)

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
        scale = max(size) * self.params.style_scale / max(painting.height, painting.width)
        scale = max(scale, SHORTEST / min(painting.height, painting.width))
        painting = painting.resize(round(painting.height * scale), round(painting.width * scale))
        if self.params.color == "luminance":
            painting = luma_matched(grey(painting), photo)
        elif self.params.color == "histogram":
            painting = recoloured(painting, photo)
        return painting.pixels[None].to(self.model.device)

    def _finished(self, pixels: Tensor, photo: Image) -> Image:
        image = dataclasses.replace(photo, pixels=pixels.clamp(0, 1).cpu())
        if self.params.color != "luminance":
            return image
        return with_colours_of(image, photo.resize(image.height, image.width))


def _check(params: StyleTransferParams, style: Sequence[Image], mask: Sequence[Image]) -> None:
    if params.style_weights and len(params.style_weights) != len(style):
        raise InvalidParameter(
            f"there are {len(params.style_weights)} weights for {len(style)} paintings; "
            "give one for each or none",
            pointer="/params/style_weights",
        )
    if mask and len(mask) != len(style):
        raise InvalidParameter(
            f"there are {len(mask)} masks for {len(style)} paintings; give one for each or none",
            pointer="/inputs/mask",
        )
    if mask and params.statistic != "gram":
        raise InvalidParameter("masks need the statistic gram", pointer="/params/statistic")


def _painting_area(size: Size, params: StyleTransferParams) -> float:
    return (max(size) * params.style_scale) ** 2


def _check_layers(params: StyleTransferParams, model: VisionModel) -> None:
    """Refuse layers the network lacks, and for the style those without positions."""
    for name in _content_layers(params, model):
        model.shape(name, pointer="/params/content_layers")
    for name in _style_layers(params, model):
        model.check_positions(name, pointer="/params/style_layers")


def _check_size(photos: Sequence[Size], params: StyleTransferParams) -> None:
    """Refuse pictures that would take too much memory."""
    pixels = sum(height * width for height, width in photos)
    most = MOST_LBFGS_PIXELS if params.optimizer == "l-bfgs" else MOST_PIXELS
    if pixels > most:
        raise InvalidParameter(
            f"the pictures would have {pixels} pixels together; at most {most} are painted in one "
            f"run by {params.optimizer}: choose a smaller size, or send fewer pictures",
            pointer="/params/size",
        )
    longest = max((max(size) for size in photos), default=0)
    if longest * params.style_scale > MOST_PAINTING:
        raise InvalidParameter(
            f"the painting would be looked at with {longest * params.style_scale:.0f} px a side; "
            f"at most {MOST_PAINTING} are: choose a smaller style_scale or size",
            pointer="/params/style_scale",
        )
    largest = longest * max(1.0, params.style_scale)
    if params.statistic == "sliced-wasserstein" and largest > params.tile_size:
        raise InvalidParameter(
            f"a picture or painting of {largest:.0f} px is looked at in tiles, which needs the "
            "statistic gram: choose it, a smaller size or larger tiles",
            pointer="/params/statistic",
        )


def _batches(photos: Sequence[Image], *, alone: bool) -> list[list[int]]:
    """Group the places of photographs of one size, in the order of the first of each."""
    groups: dict[Any, list[int]] = {}
    for place, photo in enumerate(photos):
        groups.setdefault(place if alone else (photo.height, photo.width), []).append(place)
    return list(groups.values())


def _sizes(size: Size, params: StyleTransferParams) -> list[Size]:
    """Return height and width of each scale, smallest first, none but the last under 64 px."""
    shares = [RATIO**n for n in reversed(range(params.scales))]
    sizes = [(round(size[0] * share), round(size[1] * share)) for share in shares]
    return [smaller for smaller in sizes[:-1] if min(smaller) >= 64] + sizes[-1:]


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return F.interpolate(
        pixels, size=size, mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)


def _style_layers(params: StyleTransferParams, model: VisionModel) -> tuple[str, ...]:
    return params.style_layers or tuple(model.style_layers)


def _content_layers(params: StyleTransferParams, model: VisionModel) -> tuple[str, ...]:
    return params.content_layers or tuple(model.content_layers)


def _layers(params: StyleTransferParams, model: VisionModel) -> tuple[str, ...]:
    return (*_style_layers(params, model), *_content_layers(params, model))


def _facts(trace: Trace, terms: Mapping[str, float], size: tuple[int, int]) -> dict[str, Any]:
    return {
        "losses": {name: round(value, 6) for name, value in terms.items()},
        "loss": {"first": round(trace.losses[0], 6), "last": round(trace.losses[-1], 6)},
        "steps": len(trace.losses),
        "settled": trace.settled,
        "height": size[0],
        "width": size[1],
    }


def _optimizer(levels: list[Tensor], params: StyleTransferParams) -> torch.optim.Optimizer:
    if params.optimizer == "adam":
        return torch.optim.Adam(levels, lr=params.learning_rate, betas=(0.9, 0.99))
    # one evaluation a step; the curvature history is kept between steps
    return torch.optim.LBFGS(levels, lr=1.0, max_iter=1, history_size=20)
