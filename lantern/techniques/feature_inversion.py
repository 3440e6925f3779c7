"""Feature inversion: what a layer still knows of a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Grid, Outcome, Table
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.metrics import psnr, ssim
from lantern.optimize.ascend import Settled, ascend
from lantern.optimize.objectives import relative_error
from lantern.optimize.parametrize import Canvas, Fourier, Pixels
from lantern.optimize.regularize import alpha_norm, total_variation
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import Count, technique
from lantern.techniques.classify import Fit
from lantern.vision_model import LOGITS, VisionModel
from lantern.work import Sizes, Work

Parametrization = Literal["auto", "pixel", "fourier"]
LayerName = Annotated[str, Field(min_length=1, max_length=200)]


class FeatureInversionParams(Params):
    """Which layers to invert, and what is known of pictures beforehand."""

    layers: tuple[LayerName, ...] = Field(
        (),
        max_length=16,
        description="layers to invert, each by itself; a ladder from shallow to deep if empty",
    )
    steps: int = Field(120, ge=1, le=2000, description="most steps for each layer")
    parametrization: Parametrization = Field(
        "auto", description="pixels, frequencies, or whichever suits the layer's stride"
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Adam's rate; the parametrisation's own if absent"
    )
    tv_weight: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="weight of the smoothness of pixels; by the layer's stride if absent",
    )
    tv_beta: float = Field(2.0, ge=1, le=3, description="power of the smoothness")
    alpha_weight: float = Field(
        1e-3, ge=0, le=100, description="weight of the distance of pixels from grey"
    )
    alpha: float = Field(6.0, ge=1, le=12, description="power of that distance")
    fit: Fit = Field("squash", description="show the network the whole squashed, or the centre")


# From this stride on frequencies suit better than pixels, and the priors count.
COARSE = 8
RATES = {"pixel": 0.05, "fourier": 0.02}
TV = {"fine": 0.5, "coarse": 5.0}
# How far frequencies begin from grey.
SPREAD = 0.02


def _work(params: FeatureInversionParams, sizes: Sizes, model: VisionModel) -> Work:
    count, costs = len(sizes.get("image", ())), model.costs()
    layers = _layers(params, model)
    whole = max(costs.get(layer, costs[LOGITS]) for layer in layers)
    # each layer runs to its own end: as passes of the deepest
    share = sum(costs.get(layer, costs[LOGITS]) for layer in layers) / (whole or 1)
    pixels = model.input_size**2
    return Work(2 * params.steps * count * share, pixels, layers, count * pixels)


@technique(
    "feature-inversion",
    family="synthesis",
    runs="job",
    source="Mahendran and Vedaldi 2015, arXiv:1412.0035; Olah et al. 2017, Feature Visualization",
    outputs={
        "strip": "the picture, then what is left of it in each layer",
        "layers": "how near each reconstruction comes, in features and in pixels",
    },
    keeps_shape=False,
    work=_work,
)
def feature_inversion(
    model: VisionModel,
    image: Annotated[tuple[Image, ...], "picture to lose and find again", Count(1, 8)],
    params: FeatureInversionParams,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Find pictures anew from the features of a layer alone, for one layer after another.

    Detail that a layer has thrown away cannot come back: the strip shows how it fades with depth.
    The error is of the features, relative to their size; pictures are framed as the network sees
    them, and all of them are one batch.
    """
    framed = torch.cat([model.frame(picture, params.fit).pixels for picture in image])
    inverter = _Inverter(model, params, framed, progress, generator, checkpoints)
    layers = _layers(params, model)
    made = [inverter.invert(layer, n, len(layers)) for n, layer in enumerate(layers)]
    rows = [row for layer, pixels, said in made for row in inverter.judge(layer, pixels, said)]
    strip = _strip(framed.cpu(), [(layer, pixels) for layer, pixels, _ in made], rows)
    facts = {"steps": {layer: said["steps"] for layer, _, said in made}}
    return Outcome((strip, Table("layers", tuple(rows))), facts)


@dataclass
class _Inverter:
    """All that inverting the layers of a batch needs, and what has been found so far."""

    model: VisionModel
    params: FeatureInversionParams
    pictures: Tensor
    progress: Progress
    generator: torch.Generator
    checkpoints: Checkpoints

    def invert(self, layer: str, stage: int, stages: int) -> tuple[str, Tensor, dict[str, Any]]:
        """Find the pictures from one layer; return its name, pixels `[N,3,S,S]` and facts."""
        params = self.params
        is_coarse = self.model.stride(layer, pointer="/params/layers") >= COARSE
        chosen = params.parametrization
        kind = chosen if chosen != "auto" else "fourier" if is_coarse else "pixel"
        canvas = self._canvas(kind)
        tv = TV["coarse" if is_coarse else "fine"] if params.tv_weight is None else params.tv_weight
        rate = params.learning_rate or RATES[kind]
        quick = self.model.quick([layer])
        with quick.capture([layer], pointer="/params/layers") as features:
            with torch.no_grad():
                target = features(self.pictures)[layer].clone()

            each = torch.zeros(len(self.pictures), device=self.model.device)

            def loss(step: int) -> Tensor:
                pixels = canvas.pixels()
                error = relative_error(features(pixels)[layer], target)
                prior = tv * total_variation(pixels, beta=params.tv_beta)
                prior = prior + params.alpha_weight * alpha_norm(pixels, alpha=params.alpha)
                each.copy_((error + prior).detach())
                return (error + prior).sum()

            trace = ascend(
                loss,
                torch.optim.Adam(canvas.parameters, lr=rate, betas=(0.6, 0.8)),
                steps=params.steps,
                progress=self.progress,
                preview=lambda: Image(canvas.pixels()[0].detach().clamp(0, 1).cpu()),
                rate=lambda step: rate * _cosine(step / params.steps),
                after=lambda step: canvas.project(),
                each=lambda: each,
                settled=Settled(window=20, gain=2e-3),
                checkpoints=self.checkpoints,
                generator=self.generator,
                stage=stage,
                stages=stages,
            )
            with torch.no_grad():
                pixels = canvas.pixels().clamp(0, 1)
                error = relative_error(features(pixels)[layer], target)
        said = {"parametrization": kind, "error": error.tolist(), "steps": len(trace.losses)}
        return layer, pixels.cpu(), said

    def judge(self, layer: str, pixels: Tensor, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Compare what was found with the pictures; a row for each."""
        with torch.inference_mode():
            before = self.model.logits(self.pictures).argmax(1)
            after = self.model.logits(pixels.to(self.model.device)).argmax(1)
        rows = []
        for place, (found, own) in enumerate(zip(pixels, self.pictures.cpu(), strict=True)):
            rows.append(
                {
                    "layer": layer,
                    "picture": place + 1,
                    "relative_error": round(said["error"][place], 5),
                    "psnr_db": round(min(psnr(found, own), 99.0), 2),
                    "ssim": round(ssim(Image(found), Image(own)), 4),
                    "class_kept": bool(before[place] == after[place]),
                    "parametrization": said["parametrization"],
                    "steps": said["steps"],
                }
            )
        return rows

    def _canvas(self, kind: str) -> Canvas:
        # one start for all pictures, so that a batch finds what single runs find
        shape = (1, *self.pictures.shape[1:])
        noise = Fourier.noise(shape, self.generator, spread=SPREAD)
        count, device = len(self.pictures), self.model.device
        if kind == "pixel":
            start = noise.pixels().detach().expand(count, -1, -1, -1)
            return Pixels(start.to(device))
        noise.parameters = [p.detach().repeat(count, 1, 1, 1, 1) for p in noise.parameters]
        return noise.to(device)


def _cosine(share: float) -> float:
    """Return the rate at a share of the way, from 1 down to a twentieth."""
    return 0.05 + 0.475 * (1 + math.cos(math.pi * share))


def _layers(params: FeatureInversionParams, model: VisionModel) -> tuple[str, ...]:
    if len(set(params.layers)) < len(params.layers):
        raise InvalidParameter("a layer is named twice; name each once", pointer="/params/layers")
    if params.layers:
        for layer in params.layers:
            model.shape(layer, pointer="/params/layers")
        return params.layers
    ladder = {*model.style_layers[1::2], model.dream_layer, model.cam_layer}
    return tuple(sorted(ladder, key=lambda layer: (model.costs()[layer], layer)))


def _strip(
    pictures: Tensor, made: Sequence[tuple[str, Tensor]], rows: Sequence[Mapping[str, Any]]
) -> Grid:
    """Lay the pictures and what was found in each layer side by side, a row for each picture."""
    found = {(row["layer"], row["picture"]): row["psnr_db"] for row in rows}
    tiles: list[Tensor] = []
    captions: list[str] = []
    for place, picture in enumerate(pictures):
        tiles += [picture, *(pixels[place] for _, pixels in made)]
        captions += ["picture", *(f"{n} {found[n, place + 1]:.1f} dB" for n, _ in made)]
    return Grid("strip", torch.stack(tiles), len(made) + 1, tuple(captions))
