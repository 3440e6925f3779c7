"""Fooling images fool, stay within their bound, and hold when they are read back from a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern import samples
from lantern.artifact import Animation, Picture, Result, Table
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.progress import Cancelled, Step
from lantern.run import run
from lantern.vision_model import VisionModel
from tests.test_checkpoint import Store

# Photographs and parts of them (top, left, height, width) which the network knows to be one thing:
# cats, cups of espresso, a helmet.
KNOWN = [
    ("cat", (0, 0, 300, 451)),
    ("cat", (22, 0, 255, 255)),
    ("cat", (67, 0, 165, 165)),
    ("cat", (135, 143, 165, 165)),
    ("coffee", (0, 0, 400, 600)),
    ("coffee", (0, 0, 340, 340)),
    ("coffee", (0, 0, 280, 280)),
    ("coffee", (90, 190, 220, 220)),
    ("coffee", (30, 260, 340, 340)),
    ("astronaut", (231, 231, 281, 281)),
]


@pytest.fixture(scope="module")
def known() -> list[Image]:
    photos = {n: Image.decode(path.read_bytes()) for n, path in samples.photographs().items()}
    return [photos[name].crop(*box) for name, box in KNOWN]


def fool(model: VisionModel, images: Sequence[Image], seed: int = 0, **params: Any) -> Result:
    return run("fooling-image", {"image": images}, params, model=model, seed=seed)


def rows(result: Result) -> list[dict[str, Any]]:
    (table,) = (a for a in result.artifacts if isinstance(a, Table))
    return [dict(row) for row in table.rows]


def pictures(result: Result, name: str = "picture") -> list[Picture]:
    found = [a for a in result.artifacts if a.name.partition("-")[0] == name]
    assert all(isinstance(a, Picture) for a in found)
    return [a for a in found if isinstance(a, Picture)]


def levels(image: Image) -> Tensor:
    """Return the picture as its PNG holds it, in levels of 255."""
    return Image.decode(image.encode("image/png")).pixels * 255


def changes(model: VisionModel, images: Sequence[Image], result: Result) -> list[Tensor]:
    """Measure what was changed: from the rounded view of the network to the file that was made."""
    made = [levels(picture.image) for picture in pictures(result)]
    return [
        after - levels(Image(model.frame(image).pixels[0]))
        for image, after in zip(images, made, strict=True)
    ]


# --- On a real network -------------------------------------------------------------------------


def check_fooled(model: VisionModel, result: Result, targets: Sequence[int]) -> int:
    """Return how many files fool the network, and ask it itself about the last few."""
    for row, picture, target in zip(rows(result), pictures(result), targets, strict=True):
        assert picture.media_types[0] == "image/png"
        assert row["holds_as_png"] == (row["class_after"] == target)
    for row, picture in zip(rows(result)[-3:], pictures(result)[-3:], strict=True):
        again = Image.decode(picture.encode("image/png"))
        (table,) = run("classify", {"image": again}, {"top": 1}, model=model).artifacts
        assert isinstance(table, Table)
        assert table.rows[0]["class"] == row["class_after"]
        assert table.rows[0]["probability"] == pytest.approx(row["probability_after"], abs=1e-6)
    found = sum(row["holds_as_png"] for row in rows(result))
    assert result.facts["hold_as_png"] == found
    return int(found)


def known_class(model: VisionModel, image: Image) -> int:
    with torch.no_grad():
        best = model.logits(model.frame(image).pixels).softmax(1).max(1)
    assert best.values.item() > 0.6
    return int(best.indices)


def test_two_levels_are_enough_for_a_class_far_away(model: VisionModel, known: list[Image]) -> None:
    epsilon = 2.0
    targets = [(known_class(model, image) + 500) % 1000 for image in known]
    result = fool(model, known, targets=targets, epsilon=epsilon, steps=20, confidence=0)
    assert check_fooled(model, result, targets) >= 9
    for change, row in zip(changes(model, known, result), rows(result), strict=True):
        assert change.abs().max() <= epsilon + 1e-3
        assert row["linf"] == round(change.abs().max().item())
        assert row["l2"] == pytest.approx(change.norm().item(), rel=1e-4)
        assert row["steps"] <= 20
        assert 0.9 < row["ssim"] < 1


def test_normalised_steps_reach_a_class_far_away(model: VisionModel, known: list[Image]) -> None:
    chosen = [known[0], known[4], known[9]]
    targets = [(known_class(model, image) + 500) % 1000 for image in chosen]
    result = fool(model, chosen, targets=targets, method="normalised", steps=30)
    assert check_fooled(model, result, targets) == 3
    assert all(row["linf"] <= 24 and row["steps"] < 30 for row in rows(result))
    assert all(row["probability_after"] >= 0.9 for row in rows(result))
    assert result.facts["epsilon"] is None


def test_a_short_change_is_enough_to_leave_a_class(model: VisionModel, known: list[Image]) -> None:
    chosen = [known[2], known[7]]
    result = fool(model, chosen, norm="l2", method="i-fgsm", epsilon=120, steps=20, confidence=0)
    for change, row in zip(changes(model, chosen, result), rows(result), strict=True):
        assert change.double().norm() <= 120 + 1e-2
        assert row["class_after"] != row["class_before"]
        assert row["holds_as_png"]
        assert row["target"] is None


def test_noise_is_taken_for_anything(model: VisionModel) -> None:
    result = run("fooling-image", {}, {"targets": [9, 340], "confidence": 0.99}, model=model)
    assert [row["class_after"] for row in rows(result)] == [9, 340]
    assert all(row["probability_after"] >= 0.99 and row["holds_as_png"] for row in rows(result))
    assert len({row["class_before"] for row in rows(result)}) == 1, "both begin with the same noise"
    for picture in pictures(result):
        assert picture.image.pixels.shape == (3, 224, 224)
        along = picture.image.pixels[:, 1:] * 2 - 1, picture.image.pixels[:, :-1] * 2 - 1
        assert abs((along[0] * along[1]).mean() / along[0].square().mean()) < 0.1, "still noise"


# --- By hand -----------------------------------------------------------------------------------

SIDE = 16


def linear(weights: Tensor, bias: Tensor) -> VisionModel:
    """Return a network whose class scores are `weights` times the pixels, plus `bias`."""
    head = nn.Linear(weights.shape[1], weights.shape[0])
    with torch.no_grad():
        head.weight.copy_(weights)
        head.bias.copy_(bias)
    network = nn.Sequential(nn.Flatten(), head)
    return VisionModel(
        "linear", network, mean=(0.0,) * 3, std=(1.0,) * 3, input_size=SIDE, resize_size=SIDE,
        labels=(), weights_sha256="0" * 64,
    )  # fmt: skip


def grey_and_slope() -> tuple[Image, Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = Image(torch.randint(60, 190, (3, SIDE, SIDE), generator=generator) / 255)
    return image, torch.randn(3, SIDE, SIDE, generator=generator)


def barely(image: Image, slope: Tensor, reach: float) -> VisionModel:
    """Return a network of two classes, led to class 1 by moving more than `reach` along `slope`."""
    score = (slope * image.pixels).sum()
    weights = torch.stack([torch.zeros_like(slope), slope]).flatten(1)
    return linear(weights, torch.stack([score + reach, torch.zeros(())]))


@pytest.mark.parametrize(("share", "fools"), [(0.9, True), (1.1, False)])
@pytest.mark.parametrize("method", ["i-fgsm", "pgd"])
def test_the_best_change_of_a_linear_network_is_found_linf(
    method: str, share: float, fools: bool
) -> None:
    image, slope = grey_and_slope()
    model = barely(image, slope, share * 3 / 255 * float(slope.abs().sum()))
    result = fool(model, [image], targets=[1], method=method, epsilon=3, confidence=0.9999)
    (change,) = changes(model, [image], result)
    assert torch.equal(change.round(), 3 * slope.sign())
    assert rows(result)[0]["holds_as_png"] == fools


@pytest.mark.parametrize(("share", "fools"), [(0.97, True), (1.03, False)])
@pytest.mark.parametrize("method", ["i-fgsm", "pgd"])
def test_the_best_change_of_a_linear_network_is_found_l2(
    method: str, share: float, fools: bool
) -> None:
    image, slope = grey_and_slope()
    model = barely(image, slope, share * 200 / 255 * float(slope.norm()))
    result = fool(
        model, [image], targets=[1], method=method, norm="l2", epsilon=200, confidence=0.9999
    )
    (change,) = changes(model, [image], result)
    assert 199 < change.double().norm() <= 200 + 1e-3
    assert F.cosine_similarity(change.flatten(), slope.flatten(), dim=0) > 0.997
    assert rows(result)[0]["holds_as_png"] == fools


@pytest.mark.parametrize("target", [None, 3])
def test_one_step_of_the_whole_bound_is_the_fast_gradient_sign(
    small_model: VisionModel, picture: Image, target: int | None
) -> None:
    start = (small_model.frame(picture).pixels * 255).round() / 255
    pixels = start.clone().requires_grad_()
    logits = small_model.logits(pixels)
    wanted = logits.argmax(1) if target is None else torch.tensor([target])
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, wanted), pixels)
    step = gradient.sign() * (1 if target is None else -1)
    expected = (start * 255 + 5 * step).clamp(0, 255)
    result = fool(
        small_model, [picture], targets=[] if target is None else [target], method="i-fgsm",
        epsilon=5, step_size=5, steps=1, confidence=0.9999,
    )  # fmt: skip
    assert torch.equal(levels(pictures(result)[0].image).round(), expected[0].round())


def test_a_normalised_step_has_its_length_in_the_networks_own_units(
    small_model: VisionModel, picture: Image
) -> None:
    start = (small_model.frame(picture).pixels * 255).round() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
    normalised = ((start - mean) / std).requires_grad_()
    score = small_model.network(normalised)[0, 3]
    (gradient,) = torch.autograd.grad(score, normalised)
    moved = normalised + 7 * gradient / gradient.norm()
    expected = ((moved * std + mean) * 255).clamp(0, 255).detach()
    result = fool(
        small_model, [picture], targets=[3], method="normalised", step_size=7, steps=1,
        confidence=0.9999,
    )  # fmt: skip
    made = levels(pictures(result)[0].image)
    assert (made - expected[0]).abs().max() <= 0.51
    assert (made - start[0] * 255).abs().max() > 5


# --- Several, again, and broken off ------------------------------------------------------------


@pytest.fixture
def eager(small_model: VisionModel) -> VisionModel:
    """A small network that is quick to change its mind."""
    head = small_model.layer("fc")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(30)
    return small_model


def several() -> list[Image]:
    generator = torch.Generator().manual_seed(11)
    return [Image(torch.rand(3, 32, 32, generator=generator).pow(n + 0.5)) for n in range(4)]


HARD: dict[str, Any] = {"epsilon": 40, "step_size": 4, "steps": 14, "confidence": 0.3}


def uneven(model: VisionModel, **params: Any) -> Result:
    """Run on pictures that are done after different numbers of steps."""
    result = fool(model, several(), **HARD | params)
    assert len({row["steps"] for row in rows(result)}) > 1
    return result


@pytest.mark.parametrize("method", ["pgd", "i-fgsm", "normalised"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_picture_fares_among_others_as_it_does_alone(
    eager: VisionModel, method: str, norm: str
) -> None:
    params = HARD | {"method": method, "norm": norm, "targets": [5, 3, 6, 3]}
    if norm == "l2":
        params |= {"epsilon": 900, "step_size": 150}
    if method == "normalised":
        params |= {"epsilon": None, "step_size": 6.0}
    together = fool(eager, several(), **params)
    for number, image in enumerate(several()):
        alone = fool(eager, [image], **params | {"targets": [params["targets"][number]]})
        ours, theirs = rows(together)[number], rows(alone)[0]
        assert ours["steps"] == theirs["steps"]
        assert ours["class_after"] == theirs["class_after"]
        assert ours["probability_after"] == pytest.approx(theirs["probability_after"], abs=1e-3)
        made = [levels(pictures(result)[n].image) for result, n in ((together, number), (alone, 0))]
        # a sign may tip over where a gradient is nearly zero
        assert ((made[0] - made[1]).abs() < 0.5).double().mean() > 0.95


def test_one_target_is_meant_for_all(eager: VisionModel) -> None:
    one, each = (uneven(eager, targets=targets) for targets in ([6], [6] * 4))
    assert rows(one) == rows(each)
    assert [row["target"] for row in rows(one)] == [6] * 4


@pytest.mark.parametrize(
    "params",
    [{}, {"momentum": 1.0, "targets": [6]}, {"norm": "l2", "epsilon": 900, "step_size": 150}],
)
def test_a_run_that_is_broken_off_ends_in_the_same_bytes(
    eager: VisionModel, params: dict[str, Any]
) -> None:
    whole = uneven(eager, **params)
    taken = [row["steps"] for row in rows(whole)]
    assert min(taken) < 4, "some are done before it is broken off"
    assert max(taken) >= 11
    given: Any = ("fooling-image", {"image": several()}, HARD | params)
    for last in (2, 4, 8, 11):
        store = Store()

        def die(step: Step, last: int = last) -> None:
            if step.done == last:
                raise Cancelled

        with pytest.raises(Cancelled):
            run(
                *given, model=eager, progress=die,
                checkpoints=Checkpoints(store.save, every_s=0.0, most_cost=1e9),
            )  # fmt: skip
        assert store.count == last - 1
        resumed = run(*given, model=eager, checkpoints=Checkpoints(saved=store.saved))
        assert encoded(resumed) == encoded(whole)
        assert {**resumed.facts, "seconds": 0} == {**whole.facts, "seconds": 0}


def encoded(result: Result) -> list[bytes]:
    return [artifact.encode(artifact.media_types[0]) for artifact in result.artifacts]


def test_every_picture_is_as_sure_as_was_asked_for(eager: VisionModel) -> None:
    steps = []
    for confidence in (0.0, 0.5, 0.7):
        result = fool(eager, several(), **HARD | {"confidence": confidence, "targets": [6]})
        for row in rows(result):
            if row["steps"] < HARD["steps"]:
                assert row["class_after"] == 6
                assert row["probability_after"] >= confidence
        steps.append([row["steps"] for row in rows(result)])
    assert all(a <= b <= c for a, b, c in zip(*steps, strict=True))
    assert sum(steps[0]) < sum(steps[1]) < sum(steps[2])


# --- What is told ------------------------------------------------------------------------------


def test_the_difference_is_shown_around_grey_and_amplified(eager: VisionModel) -> None:
    result = uneven(eager)
    told = result.facts["amplification"]
    assert len(told) == 4
    for change, shown, factor in zip(
        changes(eager, several(), result), pictures(result, "difference"), told, strict=True
    ):
        expected = (127.5 + change.round() * factor).clamp(0, 255)
        assert (levels(shown.image) - expected).abs().max() <= 0.51
        assert shown.media_types[0] == "image/png"
    films = [a for a in result.artifacts if isinstance(a, Animation)]
    assert [film.name for film in films] == ["animation", *(f"animation-{n}" for n in (2, 3, 4))]
    for film, picture, shown, image in zip(
        films, pictures(result), pictures(result, "difference"), several(), strict=True
    ):
        before, between, after, last = (levels(frame) for frame in film.frames)
        assert torch.equal(after, levels(picture.image))
        assert torch.equal(between, levels(shown.image))
        assert torch.equal(last, between)
        assert torch.equal(before, levels(Image(eager.frame(image).pixels[0])))


def test_it_warns_of_files_that_lose_something(eager: VisionModel) -> None:
    image = Image(several()[0].pixels, notes=("the picture is animated",))
    first, second = fool(eager, [image], steps=1).facts["warnings"]
    assert first == "the picture is animated"
    assert "JPEG" in second
    assert "PNG" in second


def test_a_picture_that_is_what_it_should_be_is_left_alone(eager: VisionModel) -> None:
    (image,) = several()[:1]
    own = rows(fool(eager, [image], steps=1))[0]["class_before"]
    result = fool(eager, [image], targets=[own], method="i-fgsm", confidence=0)
    (row,) = rows(result)
    assert (row["steps"], row["linf"], row["class_after"], row["holds_as_png"]) == (
        0,
        0,
        own,
        False,
    )


@pytest.mark.parametrize(
    ("params", "count", "pointer", "said"),
    [
        ({"targets": [1, 2, 3]}, 2, "/params/targets", "3 targets for 2 pictures"),
        ({"targets": [7]}, 1, "/params/targets", "0 to 6"),
        ({"epsilon": 300}, 1, "/params/epsilon", "1 to 255"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    eager: VisionModel, params: dict[str, Any], count: int, pointer: str, said: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        fool(eager, several()[:count], **params)
    assert caught.value.pointer == pointer
    assert said in caught.value.detail


def test_the_estimate_is_what_a_run_takes_at_most(eager: VisionModel) -> None:
    passes = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal passes
        passes += len(inputs[0]) * (2 if output.requires_grad else 1)

    eager.costs()
    _ = eager.class_count
    handle = eager.network.register_forward_hook(count)
    result = fool(eager, several(), targets=[6], steps=6, confidence=0.9999)
    handle.remove()
    # the last look has no way back, as no step follows it
    assert result.facts["estimate"]["passes"] - 4 <= passes <= result.facts["estimate"]["passes"]
