"""What activation maximisation draws on, and how much of it passes and is kept at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lantern.artifact import Grid
from lantern.decoders.canvas import Codes
from lantern.decoders.decoder import POINTER, Decoder
from lantern.decoders.library import Decoders
from lantern.decoders.network import LARGEST
from lantern.errors import InvalidParameter
from lantern.optimize.goals import Goal
from lantern.optimize.objectives import gram_values
from lantern.optimize.parametrize import Fourier, Phase, Pixels, Separate
from lantern.optimize.parts import by
from lantern.vision_model import VisionModel
from lantern.work import PIXEL

if TYPE_CHECKING:
    from lantern.techniques.activation_maximization import ActivationMaximizationParams

# Looks of MACO at each picture at every step.
LOOKS = 4
# Pictures that a decoder draws together.
DRAWN = 8
# Copies of all pictures that are kept: the parameter, its gradient twice, what the rule of the
# steps remembers, a state to be stored and a preview; and of those that pass together.
COPIES, DRAWN_COPIES = 12, 10


def decoder_of(
    params: ActivationMaximizationParams, decoders: Decoders, model: VisionModel
) -> Decoder | None:
    """Find the decoder of the method that needs one, trained on this very network."""
    if params.method != "decoder" and params.decoder is None:
        return None
    if params.method != "decoder" or params.decoder is None:
        raise InvalidParameter(
            "the method decoder and the parameter decoder go together: give both, or neither",
            pointer=POINTER,
        )
    decoder = decoders.find(params.decoder)
    decoder.check(model)
    return decoder.to(model.device)


def canvas_of(
    params: ActivationMaximizationParams,
    count: int,
    generator: torch.Generator,
    device: torch.device,
    decoder: Decoder | None,
) -> Separate:
    """Return what so many pictures are drawn on."""
    shape = (count, 3, params.size, params.size)
    if decoder is not None:
        return Codes(decoder, count, params.size, generator)
    if params.method == "fourier":
        return Fourier.noise(shape, generator).to(device)
    if params.method == "maco":
        return Phase(shape, generator, device)
    noise = torch.randn(shape, generator=generator)
    return Pixels((0.5 + 0.1 * noise).clamp(0, 1).to(device))


def sheet_of(canvas: Separate, wanted: list[Goal]) -> Grid:
    """Lay out all pictures as they are now."""
    few = by(DRAWN, len(wanted))
    with torch.no_grad():
        drawn = [canvas.draw(one.of(canvas.parameters[0])).clamp(0, 1).cpu() for one in few]
    pictures = torch.cat(drawn)
    columns = max(1, round(len(pictures) ** 0.5 + 0.49))
    captions = tuple(goal.text for goal in wanted) if len(wanted) > 1 else ()
    return Grid("pictures", pictures, columns, captions)


def looks_of(params: ActivationMaximizationParams) -> int:
    """Return how often each picture is looked at in a step."""
    return LOOKS if params.method == "maco" else 1


def is_diverse(params: ActivationMaximizationParams) -> bool:
    """Tell whether variants shun each other."""
    return params.diversity > 0 and params.variants > 1


def together(params: ActivationMaximizationParams, model: VisionModel) -> int:
    """Return how many looks pass together; variants that shun each other are not parted."""
    whole = params.variants * looks_of(params) if is_diverse(params) else 1
    most = model.together(params.size)
    if params.method == "decoder":
        most = min(DRAWN, most)
    return whole * max(1, most // whole)


def beside(params: ActivationMaximizationParams, pictures: int, model: VisionModel) -> float:
    """Return the bytes that are kept beside what the network makes of so many pictures."""
    looks = min(pictures * looks_of(params), together(params, model))
    kept = (COPIES * pictures + DRAWN_COPIES * looks) * params.size**2 * PIXEL
    if params.method == "decoder":  # which one is not known yet
        kept += looks * LARGEST.tape
    if is_diverse(params):
        channels = model.channel_count(model.cam_layer)
        places = looks_of(params) * model.positions(model.cam_layer, params.size**2)
        each = gram_values(params.variants, channels, places)
        # they, their products and the gradient of either
        kept += 4 * 4 * looks / looks_of(params) * each
    return kept
