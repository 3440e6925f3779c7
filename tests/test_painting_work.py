"""What painting takes is known before: its operations, frames, memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lantern import registry
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.run import estimate, run
from lantern.styles import painting, work
from lantern.styles.library import StyleLibrary
from lantern.styles.network import Architecture, made
from lantern.styles.painting import Painter, PaintingParams
from lantern.styles.work import painting_work
from lantern.vision_model import VisionModel
from tests.alive import watched
from tests.films import film
from tests.paintings import in_float32, network

Size = tuple[int, int]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that is done, the network's part alone is counted."""
    for name in ("BESIDE", "MATCHING", "ENLARGING"):
        monkeypatch.setattr(work, name, 0.0)


def painted(*sizes: Size, **params: object) -> float:
    return painting_work(PaintingParams.model_validate(params), {"image": sizes}, None).more


@pytest.mark.usefixtures("alone")
def test_operations_are_those_of_a_real_pass() -> None:
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        made(Architecture())(torch.rand(1, 3, 96, 160))
    assert painted((96, 160)) == pytest.approx(counter.get_total_flops(), rel=1e-6)


@pytest.mark.usefixtures("alone")
def test_they_grow_with_what_is_painted() -> None:
    one = painted((300, 400))
    assert painted((300, 400), (300, 400)) == pytest.approx(2 * one)
    assert painted((600, 800), size=400) == pytest.approx(one)
    assert painted((300, 400), style_scale=0.5) == pytest.approx(4 * one)
    assert painted((300, 400), style_scale=2) == pytest.approx(one / 4)
    large = painted((3000, 4000), size=4096) / one
    assert 1.1 < large / 100 < 1.4, "tiles overlap"


def test_what_is_done_beside_the_network_counts_too() -> None:
    one = painted((300, 400))
    assert painted((600, 800), size=400) == pytest.approx(one)
    assert one < painted((300, 400), color="histogram") < 1.5 * one
    assert 4 * one < painted((300, 400), style_scale=0.5) < 6 * one


@pytest.mark.usefixtures("alone")
def test_a_picture_in_tiles_takes_what_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (painting, work):
        monkeypatch.setattr(module, "WHOLE", 0)
        monkeypatch.setattr(module, "SIDE", 256)
    ours, counter = network(), FlopCounterMode(display=False)
    engine = in_float32(ours, "measured")
    with torch.inference_mode():
        with FlopCounterMode(display=False) as one:
            ours(torch.rand(1, 3, 64, 64))
        with counter:
            Painter(ours, engine, lambda: engine).paint(Image(torch.rand(3, 640, 640)))
    each = one.get_total_flops() / 64**2
    measured = 9 * painting.PART**2 * each
    expected = painted((640, 640)) / work.operations() * each
    assert counter.get_total_flops() - measured == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize("name", ["fast-style", "arbitrary-style"])
def test_strokes_too_fine_are_refused_before(name: str) -> None:
    technique = registry.find(name)
    params = technique.params_type.model_validate({"size": 4096, "style_scale": 0.5})
    assert estimate(technique, params, {"image": [(1500, 2000)]}, None)["gigaflop"] > 0
    with pytest.raises(InvalidParameter, match="at most 4096") as caught:
        estimate(technique, params, {"image": [(1500, 2100)]}, None)
    assert caught.value.pointer == "/params/style_scale"


def test_all_frames_of_an_animation_count(styles: StyleLibrary) -> None:
    def told(data: bytes) -> tuple[int, float]:
        image = Image.decode(data)
        facts = run("fast-style", {"image": image}, {"size": 64}, styles=styles).facts
        return facts["estimate"]["passes"], facts["estimate"]["gigaflop"]

    still = Image.decode(film()).encode()
    (one, alone), (four, together) = told(still), told(film(count=4))
    assert (one, four) == (1, 4)
    assert together == pytest.approx(4 * alone, rel=0.01)


@pytest.mark.parametrize("way", ["quick", "thorough"])
def test_learning_keeps_about_what_is_expected(
    way: str, styles: StyleLibrary, small_model: VisionModel, photo: Image
) -> None:
    params = {"way": way, "steps": 1, "batch": 2, "crop": 128, "style_size": 64}
    with watched() as alive:
        result = run("train-style", {"style": photo}, params, model=small_model, styles=styles)
    expected = result.facts["estimate"]["megabytes"]
    assert 0.5 < alive.most / 1e6 / expected < 1.5
