"""Several explanations of one picture side by side."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from lantern import registry
from lantern.artifact import Grid, Heatmap, Outcome
from lantern.image import Image
from lantern.registry import technique
from lantern.techniques.explained import ExplainParams
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
        outcomes[method] = _explained(method, model, image, generator, shared)
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


# The technique behind each method, and what is fixed of it.
_METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "smooth-grad": ("saliency", {"method": "smooth-grad"}),
    **{name: ("grad-cam", {"method": name}) for name in ("grad-cam++", "hires-cam", "layer-cam")},
}


def _explained(
    method: str,
    model: VisionModel,
    image: Image,
    generator: torch.Generator,
    shared: dict[str, Any],
) -> Outcome:
    name, fixed = _METHODS.get(method, (method, {}))
    found, given = registry.find(name), {"model": model, "generator": generator}
    injected = {argument: given[what] for argument, what in found.injected.items()}
    return found.function(image=image, params=found.params_type(**shared, **fixed), **injected)
