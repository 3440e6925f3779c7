"""Attention maps: which patches a vision transformer's class comes from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome
from lantern.attention_flow import Flow, flow_back
from lantern.image import Image
from lantern.registry import technique
from lantern.techniques.explained import (
    Attribution,
    ExplainParams,
    completeness,
    explained,
    gap_of,
)
from lantern.techniques.target import choose_class
from lantern.vision_model import VisionModel

_BLIND = "rollout is the same for every class: it shows where the network looks, not for what"


class AttentionMapParams(ExplainParams):
    """What to explain, and what to follow."""

    method: Flow = Field(
        "attn-lrp", description="follow the class score by relevance, or the attention alone"
    )


@technique(
    "attention-map",
    family="attribution",
    runs="interactive",
    source="Achtibat et al. 2024, arXiv:2402.05602, section 3; Abnar and Zuidema 2020, "
    "arXiv:2005.00928, section 3",
    outputs={
        "heatmap": "relevance for the class, signed, that of a patch shared out among its pixels; "
        "or attention, sum 1"
    },
    default_model="vit-b-16",
)
def attention_map(
    model: VisionModel,
    image: Annotated[Image, "picture to explain"],
    params: AttentionMapParams,
) -> Outcome:
    """Show the patches that a vision transformer's answer comes from.

    For ViT, Swin and others that cut a picture into patches. `attn-lrp` shares out the class score
    among the patches, through attention and all other layers; `rollout` follows attention alone.
    `completeness` says how much of the score the patches have: the rest is that of biases, of
    tokens of no patch, and of softmax, by whose rule shares change their sum.
    """

    def explain(model: VisionModel, pixels: Tensor, target: int | None) -> Attribution:
        chosen = target

        def choose(logits: Tensor) -> int:
            nonlocal chosen
            chosen = choose_class(model, logits, target)
            return chosen

        found = flow_back(model.logits, pixels, choose, params.method)
        assert chosen is not None
        facts: dict[str, Any] = {"grid": list(found.field.shape), "attention_layers": found.layers}
        if params.method == "attn-lrp":
            score, total = float(found.logits[0, chosen]), float(found.field.sum())
            facts["completeness"] = completeness(score, total, gap_of(score, total, found.logits))
        return Attribution(
            found.field, found.logits, chosen, facts, warnings=warnings, are_shares=True
        )

    warnings = (_BLIND,) if params.method == "rollout" else ()
    return explained(model, image, params, explain)
