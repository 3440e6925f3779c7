"""Grad-CAM against captum's on the same network and input: the same numbers, and how fast."""

from __future__ import annotations

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from benchmarks.measure import Row, take_turns
from lantern import samples
from lantern.image import Image
from lantern.techniques.grad_cam import class_activation
from lantern.vision_model import VisionModel


class _Classifier(nn.Module):
    """The network with its normalisation, as captum wants it."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.network = model.network
        self._model = [model]

    def forward(self, pixels: Tensor) -> Tensor:
        return self._model[0].logits(pixels)


def grad_cam(model: VisionModel) -> list[Row]:
    """Compare maps and times."""
    photo = Image.decode(samples.photographs()["cat"].read_bytes())
    pixels = model.frame(photo).pixels
    with torch.inference_mode():
        target = int(model.logits(pixels).argmax())
    peer = LayerGradCam(_Classifier(model), model.layer(model.cam_layer))
    maps: dict[str, Tensor] = {}

    def ours() -> None:
        with model.tail(model.cam_layer) as tail:
            activation, logits = tail(pixels)
            maps["ours"] = class_activation(activation, logits[0, target], model.cam_layer)

    def captum() -> None:
        found = peer.attribute(pixels.clone().requires_grad_(), target=target)
        maps["captum"] = found[0, 0].detach()

    times = take_turns({"ours": ours, "captum": captum}, rounds=60)
    reach = maps["captum"].abs().max()
    difference = float((maps["ours"] - maps["captum"]).detach().abs().max() / reach)
    ratio = times["captum"].median / times["ours"].median
    mine, theirs = (times[name].median * 1e3 for name in ("ours", "captum"))
    figures = f"{mine:.1f} ms against captum's {theirs:.1f} = {ratio:.2f} times as fast"
    return [
        Row(
            "grad-cam, largest relative difference from captum",
            f"{difference:.1e}",
            "<= 1e-5",
            difference <= 1e-5,
        ),
        Row("grad-cam, network and map", figures, "not slower", ratio >= 1),
    ]
