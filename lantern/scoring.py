"""Class scores of very many pictures: a network compiled for the purpose where that pays."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.compiled import compiled
from lantern.folding import headless
from lantern.scores import is_close
from lantern.vision_model import TOGETHER, VisionModel

Scorer = Callable[[Tensor], Tensor]
"""Returns the logits `[N,C]` of pixels `[N,3,S,S]` in 0..1, of the network's own size.

Compiled ones give float64.
"""

# To compile takes as long as about a hundred passes; each takes a fifth of the time from then on.
WORTH = 120
log = logging.getLogger("lantern")


def compiled_scorer(model: VisionModel, passes: int) -> Scorer | None:
    """Return a compiled network for so many pictures; None where `model.logits` does better.

    It depends on nothing that went before, so that the same call gives the same bytes.
    """
    if passes < WORTH or model.device.type != "cpu":
        return None
    # None where it cannot be compiled or gives other numbers
    return model.once("scorer", lambda: _made(model))


def scorer(model: VisionModel, passes: int) -> Scorer:
    """Return the quickest way to score so many pictures, without gradients."""
    return compiled_scorer(model, passes) or model.logits


def _made(model: VisionModel) -> Scorer | None:
    pixels = model.noise(2)
    example = model.prepared(pixels)
    body, head = headless(model.network, example)
    finish = _finish(head)
    try:
        with warnings.catch_warnings():
            # it traces the network, in a way that torch would like to retire
            warnings.simplefilter("ignore")
            made = compiled(  # for always as many: a sixth quicker than for any number
                body, [example[:1]], [(TOGETHER, *example.shape[1:])], precision="float32"
            )
    except RuntimeError as error:
        log.info("%s is not compiled: %s", model.name, type(error).__name__)
        return None
    if made is None:
        return None
    forward = made.forward

    def score(pixels: Tensor) -> Tensor:
        made = [forward(model.prepared(_filled(few))) for few in torch.split(pixels, TOGETHER)]
        return finish(torch.cat(made)[: len(pixels)])

    with torch.inference_mode():
        wanted, got = model.logits(pixels), score(pixels)
    return score if got.shape == wanted.shape and is_close(got, wanted) else None


def _finish(head: nn.Linear | None) -> Callable[[Tensor], Tensor]:
    """Return what makes logits `[N,C]`, float64, of features `[N,D]`; of logits without a head.

    A logit is a large number of which small differences are asked for. In float64 a head costs
    nothing, and what the body rounds is much the same for pictures that are nearly the same.
    """
    if head is None:
        return Tensor.double
    weight = head.weight.detach().double()
    bias = None if head.bias is None else head.bias.detach().double()

    def finish(made: Tensor) -> Tensor:
        return F.linear(made.double(), weight, bias)

    return finish


def _filled(pixels: Tensor) -> Tensor:
    """Return as many pictures as pass together, the last one again where there are fewer."""
    missing = TOGETHER - len(pixels)
    return torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)]) if missing else pixels
