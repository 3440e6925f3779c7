"""How much work an explanation is: that of the map, and of the evidence for it."""

from __future__ import annotations

from lantern.faithfulness import JUDGED
from lantern.techniques.explained import ExplainParams
from lantern.vision_model import VisionModel
from lantern.work import Work


def effort(params: ExplainParams, model: VisionModel, passes: float) -> Work:
    """Return the work of a map that takes so many passes.

    What a gradient keeps is left out: no parameter makes it more, as few pictures of the network's
    own size pass at a time.
    """
    # the network's own map, and those of two with random weights
    maps = 1 + 2 * params.sanity
    ends_and_between = JUDGED + 2 * JUDGED * (params.evidence - 1) if params.evidence else 0
    return Work(maps * passes + ends_and_between, model.input_size**2)
