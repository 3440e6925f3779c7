"""Gradients of class scores by the pixels: for many pictures compiled, where that can be done."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lantern.backward import CannotRecord, backward_network
from lantern.compiled import compiled
from lantern.vision_model import VisionModel

Gradients = Callable[[Tensor, int], Tensor]
"""Returns the gradients `[N,3,S,S]` of a class's logit by pixels of the network's own size."""

# To compile takes as long as twenty gradients; each takes half the time from then on. Whoever asks
# for so many will ask again, of the same process.
WORTH = 12
# Relative difference (norm) up to which two ways to a gradient are the same: rounding switches
# units that are nearly zero.
SAME = 1e-2
log = logging.getLogger("lantern")


def gradients(model: VisionModel, count: int) -> Gradients:
    """Return the quickest way to so many gradients, each of which adds little to a result.

    It depends on nothing that went before, so that the same call gives the same bytes.
    """
    return compiled_gradients(model, count) or plain_gradients(model.quick())


def plain_gradients(model: VisionModel) -> Gradients:
    """Return the way through the network as it is."""
    return lambda pixels, target: class_gradient(model, pixels, lambda logits: target)[0]


def class_gradient(
    model: VisionModel, pixels: Tensor, choose: Callable[[Tensor], int]
) -> tuple[Tensor, Tensor]:
    """Return the gradient of each picture's logit of a class, as `pixels` `[N,3,H,W]`, and logits.

    `choose` is given the logits and says which class.
    """
    with torch.enable_grad():
        leaf = pixels.detach().clone().requires_grad_()
        logits = model.logits(leaf)
        chosen = choose(logits.detach())
        (gradient,) = torch.autograd.grad(logits[:, chosen].sum(), leaf)
    return gradient, logits.detach()


def compiled_gradients(model: VisionModel, count: int) -> Gradients | None:
    """Return a compiled network for so many gradients; None where autograd does better.

    Networks with pools of largest values are not compiled: their way back is slow there.
    """
    if count < WORTH or model.device.type != "cpu":
        return None
    # None where it cannot be compiled or gives other numbers
    return model.once("gradients", lambda: _made(model))


def _made(model: VisionModel) -> Gradients | None:
    quick = model.quick()
    pixels, classes = quick.noise(1), model.class_count
    plain = quick.around(_laid_plainly(quick.network))
    given = pixels, _of_class(0, classes)
    try:
        network = backward_network(plain.logits, *given)
        made = compiled(network, given, [part.shape for part in given], precision="float32")
    except (CannotRecord, RuntimeError) as error:
        log.info("gradients of %s are not compiled: %s", model.name, error)
        return None
    if made is None:
        return None
    forward = made.forward

    def gradient(pixels: Tensor, target: int) -> Tensor:
        weights = _of_class(target, classes)
        return torch.cat([forward(one[None], weights) for one in pixels])

    # others than those it was made from: what it took for constant would show
    pixels, target = 1 - pixels.flip(3), classes - 1
    wanted, found = plain_gradients(quick)(pixels, target), gradient(pixels, target)
    return gradient if bool((found - wanted).norm() <= SAME * wanted.norm()) else None


def _of_class(target: int, classes: int) -> Tensor:
    weights = torch.zeros(1, classes)
    weights[0, target] = 1
    return weights


def _laid_plainly(network: nn.Module) -> nn.Module:
    """Return a copy whose weights are laid out as usual, which torch's pools then leave alone."""
    twin = copy.deepcopy(network)
    for parameter in twin.parameters():
        parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
    return twin
