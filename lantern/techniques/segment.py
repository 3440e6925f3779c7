"""Segmentation from an explanation: the network's own idea of where the object is, cut out."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Heatmap, Outcome, Picture
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.optimize.regularize import blur
from lantern.progress import silent
from lantern.registry import technique
from lantern.techniques.explained import ExplainParams, resized
from lantern.techniques.grad_cam import GradCamParams, grad_cam
from lantern.techniques.saliency import SaliencyParams, saliency
from lantern.vision_model import VisionModel

# GrabCut takes seconds for a large picture: it is run on a small one, px.
LONGEST = 512
# Of the shorter side: the blur that closes the gaps between a gradient's speckles.
CLOSING = 1 / 40
# A mask of less than this share, or of more than the rest, is nothing and everything.
LEAST_SHARE = 0.002
_FLAT = "the map says the same of every place: the middle of the picture is taken for the object"


class SegmentParams(ExplainParams):
    """Which map begins it, and what of it is certain."""

    method: Literal["saliency", "grad-cam", "grad-cam++", "layer-cam"] = Field(
        "grad-cam", description="map that says where the object is"
    )
    foreground: float = Field(
        0.95, ge=0.5, le=0.999, description="quantile of the map above which a pixel is the object"
    )
    background: float = Field(
        0.3,
        ge=0.0,
        le=0.9,
        description="quantile below which a pixel is probably not; less than `foreground`",
    )
    iterations: int = Field(5, ge=1, le=20, description="rounds of GrabCut")
    largest: bool = Field(True, description="keep only the largest connected piece")

    def check(self) -> None:
        """Make sure that no pixel is both the object and probably not.

        Raises:
            InvalidParameter: the background's quantile is not below the foreground's.
        """
        if self.background >= self.foreground:
            raise InvalidParameter(
                f"background is {self.background:g} and foreground {self.foreground:g}: lower "
                "background, or raise foreground, until background is the smaller one",
                pointer="/params/background",
            )


@technique(
    "segment",
    family="attribution",
    runs="interactive",
    source="Simonyan et al. 2013, arXiv:1312.6034, section 3.2; Rother et al. 2004 (GrabCut)",
    outputs={
        "cutout": "the object, transparent around it",
        "mask": "1 where the object is, 0 elsewhere, over the picture",
    },
)
def segment(
    model: VisionModel,
    image: Annotated[Image, "picture with the object"],
    truth: Annotated[Image | None, "mask to compare with, white where the object is"],
    params: SegmentParams,
) -> Outcome:
    """Cut out the object of a class with no teacher but the classifier itself.

    What the map is surest of is the object, what it ignores is probably not; GrabCut finds the
    border between their colours. With `truth` the facts say how well both agree (`iou`).
    """
    params.check()
    outcome = _explained(model, image, params)
    heatmap = outcome.artifacts[0]
    assert isinstance(heatmap, Heatmap)
    small = image.fit(LONGEST)
    seeds = resized(heatmap.values, (small.height, small.width))
    if params.method == "saliency":
        seeds = blur(seeds[None, None], CLOSING * min(seeds.shape))[0, 0]
    warnings = list(outcome.facts.get("warnings", ()))
    if outcome.facts["degenerate"] or seeds.min() == seeds.max():
        warnings.append(_FLAT)
        seeds = _middle(seeds)
    labels = seed_labels(seeds, params)
    found = _grab_cut(small, labels, params.iterations)
    if params.largest:
        found = _largest_piece(found)
    if not LEAST_SHARE <= float(found.mean()) <= 1 - LEAST_SHARE:
        warnings.append(
            "GrabCut found nothing, or everything: the mask is where the map is above the quantile "
            "`foreground`"
        )
        found = (labels == SURE).float()
    mask = (resized(found, (image.height, image.width)) >= 0.5).float()
    facts = dict(outcome.facts) | {"share": round(float(mask.mean()), 4)}
    del facts["map_size"]  # the mask is as large as the picture
    if truth is not None:
        facts["iou"] = round(_overlap(mask, truth.resize(image.height, image.width)), 4)
    if warnings:
        facts["warnings"] = warnings
    alpha = mask if image.alpha is None else mask * image.alpha
    cutout = Image(image.pixels * mask + (1 - mask), alpha=alpha)
    return Outcome(
        (Picture("cutout", cutout, lossless=True), Heatmap("mask", mask, image)),
        facts,
        outcome.evidence,
    )


# What GrabCut calls pixels that are certainly the object's, and those that probably are or are not.
SURE, NOT, MAYBE = 1, 2, 3


def _explained(model: VisionModel, image: Image, params: SegmentParams) -> Outcome:
    shared = params.model_dump(include=set(ExplainParams.model_fields))
    kept = Checkpoints()  # one gradient is no state worth keeping
    if params.method == "saliency":
        chance = torch.Generator()  # which it does not need
        return saliency(model, image, chance, silent, kept, SaliencyParams(**shared))
    cam = GradCamParams(method=params.method, **shared)
    return grad_cam(model, image, silent, kept, cam)


def seed_labels(seeds: Tensor, params: SegmentParams) -> Tensor:
    """Return what GrabCut is told of each pixel, by the quantiles of a map that is not flat.

    Pixels of the same value are told the same: those that the background's quantile lies among
    are probably not the object, unless the map has nothing larger.
    """
    ranked = seeds.flatten().sort().values
    last = len(ranked) - 1
    low, high = ranked[int(params.background * last)], ranked[math.ceil(params.foreground * last)]
    labels = torch.full(seeds.shape, MAYBE)
    labels[seeds <= low] = NOT
    labels[seeds > low if low == high < ranked[-1] else seeds >= high] = SURE
    return labels


def _middle(field: Tensor) -> Tensor:
    """Return a map that falls from the middle of another one `[H,W]` to its border."""
    rows, columns = (1 - torch.linspace(-1, 1, side).abs() for side in field.shape)
    return torch.minimum(rows[:, None], columns[None])


def _grab_cut(image: Image, labels: Tensor, iterations: int) -> Tensor:
    """Return 1 where GrabCut finds the object, `[H,W]`; its global random state is seeded.

    It needs colours of both: without one of them there is no border to find.
    """
    import cv2

    may_be = labels != NOT
    if may_be.all() or not may_be.any():
        return may_be.float()
    levels = image.pixels.mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    mask = labels.to(torch.uint8).numpy().copy()
    cv2.setRNGSeed(0)
    nowhere = (0, 0, 0, 0)  # the mask says where
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(
        np.ascontiguousarray(levels[..., ::-1]), mask, nowhere, background, foreground, iterations,
        cv2.GC_INIT_WITH_MASK,
    )  # fmt: skip
    return torch.from_numpy(np.isin(mask, (SURE, MAYBE)).astype(np.float32))


def _largest_piece(mask: Tensor) -> Tensor:
    from scipy import ndimage

    pieces, count = ndimage.label(mask.numpy())
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())[1:]
    return torch.from_numpy((pieces == 1 + int(sizes.argmax())).astype(np.float32))


def _overlap(mask: Tensor, truth: Image) -> float:
    """Return the intersection over the union of two masks; 1 where both are empty."""
    other = truth.pixels.mean(0) >= 0.5
    one = mask >= 0.5
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 1.0
