"""Style transfer in one pass in the hand of any painting, also of one never seen before."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from lantern.artifact import Outcome
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.progress import Progress
from lantern.registry import Count, technique
from lantern.styles.library import StyleLibrary
from lantern.styles.painting import PaintingParams, repainted
from lantern.styles.work import painting_work

Weight = Annotated[float, Field(gt=0, le=1000)]


class ArbitraryStyleParams(PaintingParams):
    """How strong, how large, and how much of each painting."""

    style_weights: tuple[Weight, ...] = Field(
        (), max_length=4, description="one for each painting; all alike if empty"
    )


@technique(
    "arbitrary-style",
    title="Any painting's style in one pass",
    family="stylization",
    runs="interactive",
    source=(
        "Ghiasi et al. 2017, Exploring the Structure of a Real-Time, Arbitrary Neural Artistic "
        "Stylization Network, arXiv:1705.06830"
    ),
    outputs={"picture": "the painted photograph, an animation where it is one"},
    animates=True,
    shrinks_to="size",
    work=painting_work,
)
def arbitrary_style(
    styles: StyleLibrary,
    image: Annotated[Image, "photograph to paint"],
    style: Annotated[tuple[Image, ...], "painting whose hand to paint in", Count(1, 4)],
    mask: Annotated[Image | None, "where to paint: white is painted, black stays"],
    progress: Progress,
    checkpoints: Checkpoints,
    params: ArbitraryStyleParams,
) -> Outcome:
    """Paint a photograph in the hand of any painting: one network tells it, another paints.

    The hand of several paintings is the weighted mean of theirs.
    """
    weights = params.style_weights or (1.0,) * len(style)
    if len(weights) != len(style):
        raise InvalidParameter(
            f"there are {len(weights)} weights for {len(style)} paintings; give one for each",
            pointer="/params/style_weights",
        )
    hands = torch.stack([styles.hand_of(painting) for painting in style])
    shares = torch.tensor(weights)[:, None] / sum(weights)
    painter = styles.painter_of((shares * hands).sum(0))
    picture = repainted(painter, image, params, mask, progress, checkpoints)
    return Outcome((picture,), {"engine": painter.whole.name})
