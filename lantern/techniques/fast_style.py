"""Fast style transfer: a photograph painted in one forward pass."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lantern.artifact import Outcome
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.progress import Progress
from lantern.registry import technique
from lantern.styles.library import StyleLibrary
from lantern.styles.mix import read_mix
from lantern.styles.painting import PaintingParams, repainted
from lantern.styles.work import painting_work


class FastStyleParams(PaintingParams):
    """Which painting's hand, how strong, how large."""

    style: str = Field(
        "starry-night",
        min_length=1,
        max_length=400,
        description=(
            "name of a trained style, see the list of styles; several with weights are mixed, as "
            "in starry-night:0.6,great-wave:0.4"
        ),
    )


@technique(
    "fast-style",
    title="Fast style transfer",
    family="stylization",
    runs="interactive",
    source=(
        "Johnson et al. 2016, arXiv:1603.08155; mixed styles: Dumoulin et al. 2017, A Learned "
        "Representation for Artistic Style, arXiv:1610.07629"
    ),
    outputs={"picture": "the painted photograph, an animation where it is one"},
    animates=True,
    shrinks_to="size",
    work=painting_work,
)
def fast_style(
    styles: StyleLibrary,
    image: Annotated[Image, "photograph to paint"],
    mask: Annotated[Image | None, "where to paint: white is painted, black stays"],
    progress: Progress,
    checkpoints: Checkpoints,
    params: FastStyleParams,
) -> Outcome:
    """Paint a photograph in the hand of a painting, in one pass of a trained network."""
    mix = read_mix(params.style)
    painter = styles.painter(mix)
    picture = repainted(painter, image, params, mask, progress, checkpoints)
    facts = {"engine": painter.whole.name, "styles": {n: round(w, 4) for n, w in mix.items()}}
    return Outcome((picture,), facts)
