"""Activation maps: what each channel of a layer makes of a picture."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Grid, Heatmap, Outcome, Table
from lantern.image import Image
from lantern.params import Params
from lantern.registry import technique
from lantern.techniques.classify import Fit
from lantern.techniques.sheets import check_sheet, squarish
from lantern.techniques.target import LARGEST_MAP, check_channel, require_grid
from lantern.vision_model import VisionModel


class ActivationsParams(Params):
    """Which layer to show, and how."""

    layer: str | None = Field(
        None, max_length=200, description="layer to show; the one that Grad-CAM takes if absent"
    )
    channel: int | None = Field(
        None, ge=0, le=100_000, description="channel to enlarge; the first of the ranking if absent"
    )
    rank: Literal["maximum", "mean"] = Field(
        "maximum", description="by what channels are ranked: their largest value or their mean"
    )
    most: int = Field(128, ge=1, le=1024, description="how many maps the sheet has, by rank")
    scaling: Literal["channel", "layer"] = Field(
        "channel", description="each map's own range, or the range of all"
    )
    size: int = Field(56, ge=7, le=224, description="side of a map on the sheet, px")
    fit: Fit = Field("squash", description="show the network the whole squashed, or the centre")


@technique(
    "activations",
    family="inspection",
    runs="interactive",
    source="Yosinski et al. 2015, arXiv:1506.06579, section 2",
    outputs={
        "heatmap": "map of one channel over the picture, in the layer's own unit",
        "maps": "maps of the channels in grey, the strongest first; raw, as the layer made them",
        "ranking": "channels, the strongest first, with their largest value and their mean",
    },
)
def activations(
    model: VisionModel, image: Annotated[Image, "picture to look at"], params: ActivationsParams
) -> Outcome:
    """Show what the channels of a layer answer to a picture, and where.

    Each channel is a map: bright where it has found what it looks for.
    """
    image = image.fit(LARGEST_MAP)
    framing = model.frame(image, params.fit)
    layer = params.layer or model.cam_layer
    with torch.inference_mode(), model.capture([layer]) as features:
        activation = features(framing.pixels)[layer]
    require_grid(activation, layer)
    maps = activation[0].float().cpu()
    flat = maps.flatten(1)
    largest, mean = flat.amax(1), flat.mean(1)
    order = (largest if params.rank == "maximum" else mean).argsort(descending=True, stable=True)
    chosen = int(order[0]) if params.channel is None else params.channel
    check_channel(chosen, len(maps), layer)
    shown = order[: params.most]
    check_sheet(
        len(shown), params.size, params.size, pointer="/params/size", remedy="lower size or most"
    )
    rows = tuple(
        {
            "channel": int(at),
            "maximum": round(float(largest[at]), 6),
            "mean": round(float(mean[at]), 6),
        }
        for at in shown
    )
    heatmap = Heatmap("heatmap", framing.to_picture(maps[chosen]), image, raw=maps[chosen])
    strongest = maps[shown]
    sheet = Grid(
        "maps", _tiles(strongest, params), squarish(len(shown)), _captions(shown), raw=strongest
    )
    facts = {
        "layer": layer,
        "shape": list(maps.shape),
        "channel": chosen,
        "dead": int((flat.amax(1) == flat.amin(1)).sum()),
        "map_size": [image.height, image.width],
    }
    return Outcome((heatmap, sheet, Table("ranking", rows)), facts)


def _captions(channels: Tensor) -> tuple[str, ...]:
    return tuple(str(int(channel)) for channel in channels)


def _tiles(maps: Tensor, params: ActivationsParams) -> Tensor:
    """Scale maps `[N,h,w]` to 0..1 and to their size on the sheet, `[N,3,s,s]`; squares stay."""
    along = (1, 2) if params.scaling == "channel" else (0, 1, 2)
    low, high = maps.amin(along, keepdim=True), maps.amax(along, keepdim=True)
    scaled = ((maps - low) / (high - low).clamp_min(1e-12))[:, None]
    large = torch.nn.functional.interpolate(
        scaled, size=(params.size, params.size), mode="nearest-exact"
    )
    return large.expand(-1, 3, -1, -1)
