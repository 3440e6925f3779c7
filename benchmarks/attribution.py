"""Explanations against captum's and pytorch-grad-cam's: same network, same input, how fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import (
    Deconvolution,
    GuidedBackprop,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn

from benchmarks.measure import Row, take_turns
from benchmarks.peers import (
    Classifier,
    ClassifierOutputTarget,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
)
from lantern import samples
from lantern.artifact import Heatmap
from lantern.faithfulness import curves
from lantern.image import Image
from lantern.run import run
from lantern.techniques.grad_cam import class_activation
from lantern.vision_model import VisionModel

SAMPLES, POINTS, PATCH, STRIDE, MASKS, FEW = 16, 50, 32, 16, 1000, 4
Contenders = dict[str, Callable[[], object]]
# The peers' classes, and the layer; what tries every channel does so where there are few. For its
# Ablation-CAM the peer cannot replace this network's blocks.
CAMS = {
    "grad-cam++": (GradCAMPlusPlus, "_conv_head"),
    "hires-cam": (HiResCAM, "_conv_head"),
    "layer-cam": (LayerCAM, "_conv_head"),
    "score-cam": (ScoreCAM, "_blocks.10"),
}


@dataclass(frozen=True)
class _Scene:
    """A photograph as the network sees it, its class, and the network as the peers want it."""

    model: VisionModel
    image: Image
    target: int
    peer: nn.Module

    @staticmethod
    def of(model: VisionModel) -> _Scene:
        photo = Image.decode(samples.photographs()["cat"].read_bytes())
        image = Image(model.frame(photo).pixels[0])
        with torch.inference_mode():
            target = int(model.logits(image.pixels[None]).argmax())
        return _Scene(model, image, target, Classifier(model))

    @property
    def pixels(self) -> Tensor:
        return self.image.pixels[None].clone()

    def way(self, name: str, **params: Any) -> Callable[[], Tensor]:
        """Return how a technique's map is made, to be timed."""
        return lambda: self.ours(name, **params)

    def ours(self, name: str, **params: Any) -> Tensor:
        """Return a technique's map, without evidence, as the peers give none."""
        given = {"target": self.target, "evidence": 0, **params}
        found = run(name, {"image": self.image}, given, model=self.model).principal
        assert isinstance(found, Heatmap)
        return found.values


def grad_cam(model: VisionModel) -> list[Row]:
    """Compare maps and times."""
    scene = _Scene.of(model)
    peer = LayerGradCam(scene.peer, model.layer(model.cam_layer))
    maps: dict[str, Tensor] = {}

    def ours() -> None:
        with model.quick([model.cam_layer]).tail(model.cam_layer) as tail:
            activation, logits = tail(scene.pixels)
            (gradient,) = torch.autograd.grad(logits[0, scene.target], activation)
            maps["ours"] = class_activation(activation.detach(), gradient)

    def captum() -> None:
        found = peer.attribute(scene.pixels.requires_grad_(), target=scene.target)
        maps["captum"] = found[0, 0].detach()

    ours()  # the peer's hooks are not to be copied into the quick network
    with GradCAM(model=scene.peer, target_layers=[model.layer(model.cam_layer)]) as cam:

        def pytorch_grad_cam() -> None:
            # it needs a gradient somewhere, and the network's weights have none
            pixels = scene.pixels.requires_grad_()
            cam(input_tensor=pixels, targets=[ClassifierOutputTarget(scene.target)])

        contenders = {"ours": ours, "captum": captum, "pytorch-grad-cam": pytorch_grad_cam}
        rows = _times("grad-cam", contenders, 1.3, rounds=40)
    reach = maps["captum"].abs().max()
    difference = float((maps["ours"] - maps["captum"]).abs().max() / reach)
    what = "grad-cam, largest relative difference from captum"
    return [Row(what, f"{difference:.1e}", "<= 1e-5", difference <= 1e-5), *rows]


def gradients(model: VisionModel) -> list[Row]:
    """Compare the methods that take many gradients, and the one that takes one."""
    scene = _Scene.of(model)
    saliency = Saliency(scene.peer)
    noisy = NoiseTunnel(saliency)
    integrated = IntegratedGradients(scene.peer)
    spread = 0.15 * float(scene.pixels.max() - scene.pixels.min())
    grey = model.grey.expand_as(scene.pixels).clone()

    def once() -> None:
        saliency.attribute(scene.pixels.requires_grad_(), target=scene.target)

    def noisily(at_once: int | None) -> None:
        noisy.attribute(
            scene.pixels, nt_samples=SAMPLES, nt_samples_batch_size=at_once, stdevs=spread,
            target=scene.target,
        )  # fmt: skip

    def along(at_once: int | None) -> None:
        integrated.attribute(
            scene.pixels, grey, target=scene.target, n_steps=POINTS, internal_batch_size=at_once
        )

    one = {"ours": lambda: scene.ours("saliency"), "captum": once}
    return [
        *_times("saliency", one, None, rounds=20),
        *_many(
            scene, f"SmoothGrad, {SAMPLES} copies", "saliency",
            {"method": "smooth-grad", "samples": SAMPLES}, {"samples": 2 * SAMPLES}, noisily,
        ),
        *_many(
            scene, f"integrated gradients, {POINTS} points", "integrated-gradients",
            {"steps": POINTS, "gap": 1.0}, {"steps": 2 * POINTS}, along,
        ),
    ]  # fmt: skip


def _many(
    scene: _Scene,
    what: str,
    name: str,
    given: Mapping[str, Any],
    finer: Mapping[str, Any],
    captum: Callable[[int | None], None],
) -> list[Row]:
    """Compare a mean of many gradients, and say what its quicker arithmetic costs."""
    exact = scene.ours(name, **given, exact=True)

    def apart(other: Tensor) -> float:
        return float((other - exact).norm() / exact.norm())

    moved = apart(scene.ours(name, **given))
    more = apart(scene.ours(name, **{**given, **finer}, exact=True))
    peers = {"captum": lambda: captum(None), f"{FEW} at once": lambda: captum(FEW)}
    own = {"ours": scene.way(name, **given), **peers}
    plain = {"ours": scene.way(name, **given, exact=True), **peers}
    return [
        *_times(what, own, 1.5, rounds=4),
        *_times(f"{what}, exact", plain, None, rounds=2),
        Row(
            f"{what}: what the quicker arithmetic moves",
            f"{moved:.1%} of the map; twice as many gradients move {more:.1%}",
            "less than those",
            moved < more,
        ),
    ]


def cams(model: VisionModel) -> list[Row]:
    """Compare the rest of Grad-CAM's family with pytorch-grad-cam's, from picture to map."""
    scene = _Scene.of(model)
    rows = []
    for method, (peer, layer) in CAMS.items():
        own = scene.way("grad-cam", method=method, layer=layer, channels=4096)
        own()  # the peer's hooks are not to be copied into the quick network
        with peer(model=scene.peer, target_layers=[model.layer(layer)]) as cam:

            def theirs(cam: Any = cam) -> None:
                # it needs a gradient somewhere, and the network's weights have none
                pixels = scene.pixels.requires_grad_()
                cam(input_tensor=pixels, targets=[ClassifierOutputTarget(scene.target)])

            contenders: Contenders = {"ours": own, "pytorch-grad-cam": theirs}
            rows += _times(method, contenders, None, rounds=3)
    return rows


def rules(model: VisionModel) -> list[Row]:
    """Compare guided backpropagation and deconvnet with captum's, which know nn.ReLU alone."""
    twin = model.copy()
    for name, module in list(twin.network.named_modules()):
        if isinstance(module, nn.ReLU6):
            parent, _, leaf = name.rpartition(".")
            setattr(twin.network.get_submodule(parent), leaf, nn.ReLU())
    scene = _Scene.of(twin)
    rows = []
    for rule, peer in (("guided", GuidedBackprop), ("deconvnet", Deconvolution)):

        def theirs(peer: Any = peer) -> None:
            peer(scene.peer).attribute(scene.pixels.requires_grad_(), target=scene.target)

        contenders: Contenders = {"ours": scene.way("guided-backprop", rule=rule), "captum": theirs}
        rows += _times(f"{rule}, ReLU for ReLU6", contenders, None, rounds=10)
    return rows


def perturbations(model: VisionModel) -> list[Row]:
    """Compare the methods that look at the picture many times."""
    scene = _Scene.of(model)
    maps: dict[str, Tensor] = {}

    def captum(at_once: int) -> Callable[[], None]:
        def go() -> None:
            maps[f"captum, {at_once}"] = _captum_occlusion(scene, model, at_once)

        return go

    def ours(*, exact: bool) -> Callable[[], None]:
        def go() -> None:
            maps[f"exact={exact}"] = scene.ours(
                "occlusion", patch=PATCH, stride=STRIDE, exact=exact
            )

        return go

    peers = {"captum": captum(1), "captum, 16 at once": captum(16)}
    rows = [
        *_times("occlusion", {"ours": ours(exact=False), **peers}, 3.0, rounds=3),
        *_times("occlusion, exact", {"ours": ours(exact=True), **peers}, 3.0, rounds=3),
    ]
    theirs = [maps["captum, 1"], maps["captum, 16"]]
    what = "occlusion, captum's two ways, largest difference"
    rows.append(Row(what, f"{_apart(theirs[1], theirs[0]):.1e}"))
    for name in ("exact=False", "exact=True"):
        one, many = (_apart(maps[name], other) for other in theirs)
        what = f"occlusion, {name}, largest difference from captum"
        figures = f"{one:.1e}; from 16 at once {many:.1e}"
        rows.append(Row(what, figures, "<= 1e-5", one <= 1e-5))
    double = model.copy()
    double.network.double()
    true = _captum_occlusion(scene, double, 1)
    ours64 = _apart(maps["exact=False"], true)
    one, many = (_apart(other, true) for other in theirs)
    rows.append(
        Row(
            "occlusion, largest difference from captum in float64",
            f"{ours64:.1e}; captum's own in float32 {one:.1e}; 16 at once {many:.1e}",
            "<= captum's own",
            ours64 <= min(one, many),
        )
    )
    coarse = {"ours": scene.way("occlusion", coarse=0.2), "all": scene.way("occlusion")}
    return [*rows, *_times("occlusion, coarse to fine", coarse, None, rounds=3), *_rise(scene)]


def _captum_occlusion(scene: _Scene, model: VisionModel, at_once: int) -> Tensor:
    """Return captum's map of a network, in the precision of its weights."""
    pixels = scene.pixels.to(next(model.network.parameters()).dtype)
    peer = Occlusion(lambda pixels: model.logits(pixels).softmax(1))
    with torch.no_grad():
        found: Tensor = peer.attribute(
            pixels, (3, PATCH, PATCH), (3, STRIDE, STRIDE), model.grey.to(pixels).expand_as(pixels),
            target=scene.target, perturbations_per_eval=at_once,
        )  # fmt: skip
    return found[0, 0]


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def _rise(scene: _Scene) -> list[Row]:
    """Compare with RISE as its authors wrote it: independent masks, as many as they say."""
    maps: dict[str, Tensor] = {}

    def ours() -> None:
        maps["ours"] = scene.ours("rise")

    def plain() -> None:
        maps["plain"] = _plain_rise(scene)

    rows = _times("RISE", {"ours": ours, f"plain, {MASKS} masks": plain}, 3.0, rounds=2)
    inserted, _ = curves(
        scene.model, scene.pixels, torch.stack([maps["ours"], maps["plain"]]), scene.target, 32
    )
    mine, theirs = inserted.tolist()
    figures = f"{mine:.3f} against {theirs:.3f}"
    return [*rows, Row("RISE, insertion", figures, ">= plain - 0.01", mine >= theirs - 0.01)]


@torch.inference_mode()
def _plain_rise(scene: _Scene) -> Tensor:
    side, cells = scene.pixels.shape[-1], 7
    cell = -(-side // cells)
    chance = torch.Generator().manual_seed(0)
    total = torch.zeros(side, side)
    for _ in range(MASKS // 10):
        coarse = (torch.rand(10, 1, cells + 1, cells + 1, generator=chance) < 0.5).float()
        large = nn.functional.interpolate(coarse, scale_factor=cell, mode="bilinear")
        down, right = torch.randint(0, cell, (2,), generator=chance).tolist()
        masks = large[:, :, down : down + side, right : right + side]
        seen = scene.model.grey + (scene.pixels - scene.model.grey) * masks
        scores = scene.model.logits(seen).softmax(1)[:, scene.target]
        total += torch.einsum("n,nhw->hw", scores, masks[:, 0])
    return total / MASKS / 0.5


def _times(
    what: str, contenders: Mapping[str, Callable[[], object]], goal: float | None, *, rounds: int
) -> list[Row]:
    """Time contenders in turns; ours is to be faster than the best of the others, by `goal`."""
    times = {n: t.median * 1e3 for n, t in take_turns(contenders, rounds=rounds).items()}
    mine = times.pop("ours")
    ratio = min(times.values()) / mine
    others = ", ".join(f"{name} {value:.1f}" for name, value in times.items())
    figures = f"{mine:.1f} ms against {others} = {ratio:.2f} times"
    if goal is None:
        return [Row(what, figures)]
    return [Row(what, figures, f">= {goal} times", ratio >= goal)]
