"""Guided backpropagation and deconvnet: the way back with the doubts left out."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome, Picture
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.registry import technique
from lantern.relu_rule import ReluRule, Rule
from lantern.techniques.explained import Attribution, explained
from lantern.techniques.neuron import NeuronParams, Watched, neuron_facts
from lantern.techniques.target import LARGEST_MAP, choose_class, require_whole
from lantern.vision_model import LOGITS, VisionModel

# What the randomisation test of Adebayo et al. 2018 found.
WARNING = (
    "maps by this rule hardly change when the network's weights are made random (Adebayo et al. "
    "2018): they show edges of the picture rather than what the network has learnt"
)


class GuidedBackpropParams(NeuronParams):
    """Which rule, and what to go back from: a class, or one neuron of a layer."""

    rule: Rule = Field(
        "guided", description="what passes a ReLU: where it was on, what is positive, or both"
    )


@technique(
    "guided-backprop",
    family="attribution",
    runs="interactive",
    source="Springenberg et al. 2015, arXiv:1412.6806, section 3.4; Zeiler and Fergus 2014, "
    "arXiv:1311.2901",
    outputs={
        "heatmap": "largest absolute value of the channels of what comes back at each pixel",
        "gradient": "what comes back as colours, grey where nothing does; raw, as it came back, "
        "signed",
    },
)
def guided_backprop(
    model: VisionModel, image: Annotated[Image, "picture to explain"], params: GuidedBackpropParams
) -> Outcome:
    """Show what a class, or one neuron, has seen, with fine detail.

    Goes back from the score through the network by one of three rules for its ReLUs. From a layer
    it goes back from one neuron: that at a place of a channel, or the strongest.
    """
    params.check()
    seen: list[Tensor] = []
    watched = Watched(params)

    def explain(model: VisionModel, pixels: Tensor, target: int | None) -> Attribution:
        found, logits, neuron, relus = _go_back(model, pixels, target, params, watched)
        seen.append(found)
        chosen = choose_class(model, logits, target)
        field = found.abs().amax(0)
        facts = {"relus": relus}
        return Attribution(field, logits, chosen, facts, neuron=neuron, warnings=warnings)

    warnings = (WARNING,) if params.rule != "vanilla" else ()
    outcome = explained(model, image, params, explain)
    coloured = _coloured(model, image, params, seen[0])
    return Outcome((*outcome.artifacts, coloured), outcome.facts, outcome.evidence)


def rule_gradient(
    model: VisionModel,
    pixels: Tensor,
    target: int | None,
    rule: Rule,
    *,
    pointer: str = "/params/rule",
) -> tuple[Tensor, Tensor, int]:
    """Return what comes back from a class by a rule, `[3,S,S]`, the logits `[1,C]`, how many ReLUs.

    `pointer` is to the parameter that chose the rule.

    Raises:
        InvalidParameter: the network has no ReLU, or no such class.
    """
    with torch.enable_grad(), ReluRule(rule) as reached:
        leaf = pixels.detach().clone().requires_grad_()
        logits = model.logits(leaf)
        (gradient,) = torch.autograd.grad(logits[0, choose_class(model, logits, target)], leaf)
    _require_relus(model, reached, rule, pointer)
    return gradient[0], logits.detach(), reached.reached


def _require_relus(model: VisionModel, reached: ReluRule, rule: Rule, pointer: str) -> None:
    if not reached.reached and rule != "vanilla":
        choice = "vanilla, or another method" if pointer == "/params/rule" else "another method"
        raise InvalidParameter(
            f"{model.name} has no ReLU for the rule to act on; choose {choice}", pointer=pointer
        )


def _go_back(
    model: VisionModel,
    pixels: Tensor,
    target: int | None,
    params: GuidedBackpropParams,
    watched: Watched,
) -> tuple[Tensor, Tensor, dict[str, object] | None, int]:
    if params.layer is None:
        gradient, logits, relus = rule_gradient(model, pixels, target, params.rule)
        return gradient, logits, None, relus
    with (
        model.capture([params.layer, LOGITS]) as features,
        torch.enable_grad(),
        ReluRule(params.rule) as reached,
    ):
        leaf = pixels.detach().clone().requires_grad_()
        found = features(leaf)
        require_whole(found[params.layer], params.layer, 1)
        activation = found[params.layer][0]
        neuron = watched.index(activation, params.layer)
        (gradient,) = torch.autograd.grad(activation[neuron], leaf)
    _require_relus(model, reached, params.rule, "/params/rule")
    at = neuron_facts(params.layer, neuron, activation)
    return gradient[0], found[LOGITS].detach(), at, reached.reached


def _coloured(
    model: VisionModel, image: Image, params: GuidedBackpropParams, gradient: Tensor
) -> Picture:
    """Lay what came back over the picture's place, as colours around grey."""
    image = image.fit(LARGEST_MAP)
    framing = model.frame(image, params.fit)
    over = torch.stack([framing.to_picture(channel.cpu()) for channel in gradient])
    most = over.abs().amax().clamp_min(1e-12)
    return Picture("gradient", image.repainted(over / most / 2 + 0.5), raw=over)
