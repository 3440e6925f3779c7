"""Several explanations of one picture side by side."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from lantern import registry
from lantern.artifact import Grid, Heatmap, Outcome, with_evidence
from lantern.checkpoint import Checkpoints, DamagedCheckpoint
from lantern.errors import InvalidParameter, LanternError
from lantern.image import Image
from lantern.judging import Judging
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
    "deconvnet",
    "grad-cam",
    "grad-cam++",
    "hires-cam",
    "layer-cam",
    "score-cam",
    "ablation-cam",
    "guided-grad-cam",
    "occlusion",
    "rise",
    "attention-map",
]


class CompareMethodsParams(ExplainParams):
    """Which methods to compare, and how large."""

    methods: list[Method] = Field(
        ["saliency", "smooth-grad", "integrated-gradients", "guided-backprop", "grad-cam", "rise"],
        min_length=1,
        max_length=15,
        description="methods, in the order of the sheet; one that the network has nothing for is "
        "left out",
    )
    size: int = Field(224, ge=64, le=512, description="longer side of each picture, px")

    def steps_of_evidence(self, own: int) -> int:
        """Return how many steps the evidence of all methods takes."""
        return own * super().steps_of_evidence(own)


def _work(params: CompareMethodsParams, sizes: Sizes, model: VisionModel) -> Work:
    passes = 0.0
    for method in dict.fromkeys(params.methods):
        found, own = _behind(method, _shared(params))
        with contextlib.suppress(LanternError):  # a method that refuses is left out
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
    checkpoints: Checkpoints,
    params: CompareMethodsParams,
) -> Outcome:
    """Explain one picture by several methods, on one sheet, with the evidence for each.

    All explain the same class. The facts say how faithful each map is: use it to choose a method.
    A method that refuses the network is left out of the sheet, and the facts say why.
    """
    outcomes, refused = _ask(model, image, generator.initial_seed(), params, progress, checkpoints)
    if not outcomes:
        reasons = "; ".join(f"{method}: {reason}" for method, reason in refused.items())
        raise InvalidParameter(f"every method refuses: {reasons}", pointer="/params/methods")
    heatmaps = _numbered(outcomes)
    drawn = [heatmaps[0].under, *(heatmap.drawn() for heatmap in heatmaps)]
    pictures = torch.stack([picture.fit(params.size).pixels for picture in drawn])
    sheet = Grid("sheet", pictures, min(len(pictures), 4), ("picture", *outcomes))
    facts = {"class": next(iter(outcomes.values())).facts["class"]}
    warnings = _warnings(outcomes, refused)

    def judged(judging: Judging) -> dict[str, Any]:
        found = {
            method: _judged(outcome, judging.part(method)) for method, outcome in outcomes.items()
        }
        found |= {method: {"refused": reason} for method, reason in refused.items()}
        return {"methods": {m: found[m] for m in dict.fromkeys(params.methods)}}

    return Outcome((sheet, *heatmaps), facts | ({"warnings": warnings} if warnings else {}), judged)


def _ask(
    model: VisionModel,
    image: Image,
    seed: int,
    params: CompareMethodsParams,
    progress: Progress,
    checkpoints: Checkpoints,
) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Return what each method found, all of one class, and why the others refused.

    Each keeps a state of its own. In a run that goes on those that had ended are asked again, and
    find their map in it; those that keep none take a few passes.

    Raises:
        LanternError: what all methods share is wrong.
    """
    shared = _shared(params)
    outcomes: dict[str, Outcome] = {}
    refused: dict[str, str] = {}
    methods = list(dict.fromkeys(params.methods))
    told = Told(progress, Step(0, len(methods), 0.0, lambda: image, is_even=False))
    kept = checkpoints.restore_tensors()
    ended = int(kept["ended"]) if kept else 0
    for number, method in enumerate(methods, 1):
        # chance of its own: the same map as when it is called alone
        chance = torch.Generator().manual_seed(seed)
        given = {"model": model, "generator": chance, "progress": told.again}
        given |= {"checkpoints": checkpoints.part(method)}
        try:
            outcomes[method] = _explained(method, image, shared, given)
        except DamagedCheckpoint:
            raise
        except LanternError as error:
            if error.pointer.removeprefix("/params/") in shared:
                raise
            refused[method] = error.detail
        else:  # of the first one, where the network chose it
            shared["target"] = outcomes[method].facts["class"]["index"]
        shown = partial(_shown, outcomes.get(method), image)
        step = Step(number, len(methods), 0.0, shown, is_even=False)
        if number >= ended:  # of a run that goes on, where it was
            told.step(step)
        if number > ended:
            checkpoints.keep_tensors(partial(_ended, number))
    return outcomes, refused


def _ended(number: int) -> dict[str, torch.Tensor]:
    return {"ended": torch.tensor(number)}


def _shown(outcome: Outcome | None, image: Image) -> Image:
    """Return a method's map over the picture, or the picture where it refused."""
    return image if outcome is None else _map(outcome).drawn()


def _map(outcome: Outcome) -> Heatmap:
    heatmap = outcome.artifacts[0]
    assert isinstance(heatmap, Heatmap)
    return heatmap


def _numbered(outcomes: dict[str, Outcome]) -> tuple[Heatmap, ...]:
    """Return the map of each method, named by its place."""
    found = []
    for at, heatmap in enumerate(map(_map, outcomes.values()), 1):
        name = "heatmap" if at == 1 else f"heatmap-{at}"
        found.append(dataclasses.replace(heatmap, name=name))
    return tuple(found)


def _warnings(outcomes: dict[str, Outcome], refused: dict[str, str]) -> list[str]:
    """Say which methods were left out and why, and what those that were not warn of."""
    left_out = [f"{method} is left out: {reason}" for method, reason in refused.items()]
    return left_out + [
        f"{method}: {warning}"
        for method, outcome in outcomes.items()
        for warning in outcome.facts.get("warnings", ())
    ]


def _judged(outcome: Outcome, judging: Judging) -> dict[str, Any]:
    own = {name: fact for name, fact in outcome.facts.items() if name != "class"}
    return with_evidence(own, outcome.evidence_by(judging))


_OF_GRAD_CAM = (
    "grad-cam++", "hires-cam", "layer-cam", "score-cam", "ablation-cam", "guided-grad-cam",
)  # fmt: skip
# The technique behind each method, and what is fixed of it.
_METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "smooth-grad": ("saliency", {"method": "smooth-grad"}),
    "deconvnet": ("guided-backprop", {"rule": "deconvnet"}),
    **{name: ("grad-cam", {"method": name}) for name in _OF_GRAD_CAM},
}


def _shared(params: CompareMethodsParams) -> dict[str, Any]:
    return params.model_dump(include=set(ExplainParams.model_fields))


def _behind(method: str, shared: dict[str, Any]) -> tuple[Technique, Any]:
    """Return the technique behind a method, and its parameters."""
    name, fixed = _METHODS.get(method, (method, {}))
    found = registry.find(name)
    return found, found.params_type(**shared, **fixed)


def _explained(method: str, image: Image, shared: dict[str, Any], given: dict[str, Any]) -> Outcome:
    found, params = _behind(method, shared)
    injected = {argument: given[what] for argument, what in found.injected.items()}
    return found.function(image=image, params=params, **injected)
