"""Several explanations of one picture side by side."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from lantern import registry
from lantern.artifact import Grid, Heatmap, Outcome
from lantern.image import Image
from lantern.progress import Progress, Step, Told
from lantern.registry import Technique, technique
from lantern.techniques.effort import effort
from lantern.techniques.explained import ExplainParams
from lantern.vision_model import VisionModel
from lantern.work import Sizes, Work

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


def _work(params: CompareMethodsParams, sizes: Sizes, model: VisionModel) -> Work:
    passes = 0.0
    for method in dict.fromkeys(params.methods):
        found, own = _behind(method, _shared(params))
        # one gradient, where a method does not say how many
        work = found.work(own, sizes, model) if found.work else effort(params, model, 2)
        passes += work.passes
    return Work(passes, model.input_size**2)


@technique(
    "compare-methods",
    family="attribution",
    runs="interactive",
    source="the methods' own; evidence after Petsiuk et al. 2018, arXiv:1806.07421",
    outputs={
        "sheet": "the picture, and each method's map over it",
        "heatmap": "the map of each method, in their order",
    },
    work=_work,
)
def compare_methods(
    model: VisionModel,
    image: Annotated[Image, "picture to explain"],
    generator: torch.Generator,
    progress: Progress,
    params: CompareMethodsParams,
) -> Outcome:
    """Explain one picture by several methods, on one sheet, with the evidence for each.

    All explain the same class. The facts say how faithful each map is: use it to choose a method.
    """
    outcomes: dict[str, Outcome] = {}
    methods = list(dict.fromkeys(params.methods))
    told = Told(progress, Step(0, len(methods), 0.0, lambda: image))
    given = {"model": model, "generator": generator, "progress": told.again}
    for number, method in enumerate(methods, 1):
        shared = _shared(params)
        if outcomes:  # of the first one, where the network chose it
            shared["target"] = next(iter(outcomes.values())).facts["class"]["index"]
        outcomes[method] = _explained(method, image, shared, given)
        told.step(Step(number, len(methods), 0.0, _map(outcomes[method]).drawn))
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


def _shared(params: CompareMethodsParams) -> dict[str, Any]:
    return params.model_dump(include={"target", "fit", "evidence", "sanity"})


def _behind(method: str, shared: dict[str, Any]) -> tuple[Technique, Any]:
    """Return the technique behind a method, and its parameters."""
    name, fixed = _METHODS.get(method, (method, {}))
    found = registry.find(name)
    return found, found.params_type(**shared, **fixed)


def _explained(method: str, image: Image, shared: dict[str, Any], given: dict[str, Any]) -> Outcome:
    found, params = _behind(method, shared)
    injected = {argument: given[what] for argument, what in found.injected.items()}
    return found.function(image=image, params=params, **injected)
