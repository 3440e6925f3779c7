"""Several explanations of one picture side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from lantern.artifact import Grid, Heatmap, Outcome
from lantern.image import Image
from lantern.registry import technique
from lantern.techniques.explained import ExplainParams
from lantern.techniques.grad_cam import GradCamParams, grad_cam
from lantern.techniques.guided_backprop import GuidedBackpropParams, guided_backprop
from lantern.techniques.integrated_gradients import IntegratedGradientsParams, integrated_gradients
from lantern.techniques.occlusion import OcclusionParams, occlusion
from lantern.techniques.rise import RiseParams, rise
from lantern.techniques.saliency import SaliencyParams, saliency
from lantern.vision_model import VisionModel

Method = Literal[
    "saliency",
    "smooth-grad",
    "integrated-gradients",
    "guided-backprop",
    "grad-cam",
    "grad-cam++",
    "hires-cam",
    "layer-cam",
    "occlusion",
    "rise",
]


class CompareMethodsParams(ExplainParams):
    """Which methods to compare, and how large."""

    methods: list[Method] = Field(
        ["saliency", "smooth-grad", "integrated-gradients", "guided-backprop", "grad-cam", "rise"],
        min_length=1,
        max_length=10,
        description="methods, in the order of the sheet",
    )
    size: int = Field(224, ge=64, le=512, description="longer side of each picture, px")


@technique(
    "compare-methods",
    family="attribution",
    runs="interactive",
    source="the methods' own; evidence after Petsiuk et al. 2018, arXiv:1806.07421",
    outputs={
        "sheet": "the picture, and each method's map over it",
        "heatmap": "the map of each method, in their order",
    },
)
def compare_methods(
    model: VisionModel,
    image: Annotated[Image, "picture to explain"],
    generator: torch.Generator,
    params: CompareMethodsParams,
) -> Outcome:
    """Explain one picture by several methods, on one sheet, with the evidence for each.

    All explain the same class. The facts say how faithful each map is: use it to choose a method.
    """
    outcomes: dict[str, Outcome] = {}
    for method in dict.fromkeys(params.methods):
        target = params.target
        if outcomes:  # of the first one, where the network chose it
            target = next(iter(outcomes.values())).facts["class"]["index"]
        shared = params.model_dump(include={"fit", "evidence", "sanity"}) | {"target": target}
        outcomes[method] = _METHODS[method](model, image, generator, shared)
    maps = [_map(outcome) for outcome in outcomes.values()]
    drawn = [maps[0].under, *(heatmap.drawn() for heatmap in maps)]
    pictures = torch.stack([picture.fit(params.size).pixels for picture in drawn])
    sheet = Grid("sheet", pictures, min(len(pictures), 4), ("picture", *outcomes))
    facts = next(iter(outcomes.values())).facts

    def judged() -> dict[str, Any]:
        return {"methods": {name: _judged(outcome) for name, outcome in outcomes.items()}}

    numbered = tuple(
        Heatmap("heatmap" if at == 1 else f"heatmap-{at}", heatmap.values, heatmap.under)
        for at, heatmap in enumerate(maps, 1)
    )
    return Outcome((sheet, *numbered), {"class": facts["class"]}, judged)


def _map(outcome: Outcome) -> Heatmap:
    heatmap = outcome.artifacts[0]
    assert isinstance(heatmap, Heatmap)
    return heatmap


def _judged(outcome: Outcome) -> dict[str, Any]:
    own = {name: fact for name, fact in outcome.facts.items() if name != "class"}
    return own | dict(outcome.evidence() if outcome.evidence else {})


Explaining = Callable[[VisionModel, Image, torch.Generator, dict[str, Any]], Outcome]


def _cam(method: str) -> Explaining:
    return lambda model, image, _, shared: grad_cam(
        model, image, GradCamParams(method=method, **shared)
    )


_METHODS: dict[str, Explaining] = {
    "saliency": lambda m, i, g, shared: saliency(m, i, g, SaliencyParams(**shared)),
    "smooth-grad": lambda m, i, g, shared: saliency(
        m, i, g, SaliencyParams(method="smooth-grad", **shared)
    ),
    "integrated-gradients": lambda m, i, _, shared: integrated_gradients(
        m, i, IntegratedGradientsParams(**shared)
    ),
    "guided-backprop": lambda m, i, _, shared: guided_backprop(
        m, i, GuidedBackpropParams(**shared)
    ),
    **{name: _cam(name) for name in ("grad-cam", "grad-cam++", "hires-cam", "layer-cam")},
    "occlusion": lambda m, i, _, shared: occlusion(m, i, OcclusionParams(**shared)),
    "rise": lambda m, i, g, shared: rise(m, i, g, RiseParams(**shared)),
}
