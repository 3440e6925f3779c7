"""A run that is broken off and resumed ends in the same bytes as an unbroken one."""

from __future__ import annotations

import io
import itertools
import pickle
import time
from typing import Any

import pytest
import torch

import lantern
from lantern import checkpoint
from lantern.artifact import Result
from lantern.checkpoint import LATEST, Checkpoints, DamagedCheckpoint
from lantern.image import Image
from lantern.optimize.ascend import ascend
from lantern.progress import Cancelled, Progress, Step, Suspended, silent
from lantern.run import run
from lantern.vision_model import VisionModel
from lantern.zoo import Zoo


class Killed(Exception):
    """The process dies here."""


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('code ran')",))


class Store:
    """Keeps the last checkpoint and counts them."""

    def __init__(self) -> None:
        self.saved: bytes | None = None
        self.count = 0

    def save(self, data: bytes) -> None:
        self.saved, self.count = data, self.count + 1


@pytest.fixture(scope="module")
def network() -> VisionModel:
    return Zoo(downloads=False).load()


def _picture(seed: int, height: int = 64, width: int = 72) -> Image:
    return Image(torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)))


def _pictures(slots: tuple[str, ...], params: dict[str, Any]) -> dict[str, Image]:
    """Return a picture for each slot, large enough for several scales where these are asked for."""
    size = (100, 108) if "scales" in params else (64, 72)
    return {slot: _picture(number, *size) for number, slot in enumerate(slots)}


CASES: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("style-transfer", ("image", "style"), {"steps": 12, "size": 72}),
    (
        "style-transfer",
        ("image", "style"),
        {"steps": 12, "size": 72, "optimizer": "l-bfgs", "init": "noise"},
    ),
    (
        "style-transfer",
        ("image", "style", "mask"),
        {"steps": 6, "size": 104, "scales": 2, "shifts": 3},
    ),
    *(
        (
            "texture-synthesis",
            ("image",),
            {
                "method": method,
                "optimizer": optimizer,
                "steps": 6,
                "scales": 2,
                "height": 128,
                "width": 128,
                "exemplar_size": 64,
            },
        )
        for method, optimizer in (
            ("gram", "adam"),
            ("gram", "l-bfgs"),
            ("sliced-wasserstein", "l-bfgs"),
        )
    ),
    ("deep-dream", ("image",), {"steps": 4, "octaves": 3, "octave_scale": 1.1, "size": 72}),
    *(
        (
            "activation-maximization",
            (),
            {"objectives": ["class:3"], "method": method, "steps": 12, "size": 64},
        )
        for method in ("fourier", "pixels", "yosinski", "maco")
    ),
]


_wholes: dict[str, Result] = {}


def unbroken(
    network: VisionModel, name: str, images: dict[str, Image], params: dict[str, Any]
) -> Result:
    """Return what a run that is not broken off ends in, made once."""
    words = f"{name} {params}"
    if words not in _wholes:
        _wholes[words] = run(name, images, params, model=network, seed=3)
    return _wholes[words]


@pytest.mark.parametrize(("name", "slots", "params"), CASES)
@pytest.mark.parametrize("dies_at", [1, 7, 11])
def test_a_resumed_run_ends_in_the_same_bytes(
    network: VisionModel, name: str, slots: tuple[str, ...], params: dict[str, Any], dies_at: int
) -> None:
    images = _pictures(slots, params)
    whole = unbroken(network, name, images, params)
    store = Store()

    def die(step: Step) -> None:
        if step.done == dies_at + 1:
            raise Killed

    with pytest.raises(Killed):
        run(
            name, images, params, model=network, seed=3, progress=die,
            checkpoints=Checkpoints(store.save, every_s=0.0, most_cost=1e9),
        )  # fmt: skip
    assert store.count == dies_at
    seen: list[int] = []
    resumed = run(
        name, images, params, model=network, seed=3, progress=lambda step: seen.append(step.done),
        checkpoints=Checkpoints(store.save, store.saved, every_s=0.0, most_cost=1e9),
    )  # fmt: skip
    assert seen[0] == dies_at + 1
    assert resumed.principal.encode("image/png") == whole.principal.encode("image/png")
    assert {k: v for k, v in resumed.facts.items() if k != "seconds"} == {
        k: v for k, v in whole.facts.items() if k != "seconds"
    }


@pytest.mark.parametrize("dies_at", [3, 4, 5, 7, 8, 11, 12, 15])
def test_a_run_of_many_results_is_resumed_at_any_octave_and_frame(
    network: VisionModel, dies_at: int
) -> None:
    # two octaves of two steps and two frames of two steps, for each of two pictures
    images = {"image": [_picture(0), Image(_picture(1).pixels[:, :, :66])]}
    params = {"steps": 2, "octaves": 2, "octave_scale": 1.1, "frames": 3, "frame_steps": 2}

    def go(checkpoints: Checkpoints, progress: Progress = silent) -> dict[str, bytes]:
        result = run(
            "deep-dream", images, params | {"size": 72}, model=network, seed=3,
            progress=progress, checkpoints=checkpoints,
        )  # fmt: skip
        assert [a.name for a in result.artifacts] == ["picture", "picture-2", "zoom", "zoom-2"]
        return {
            name: array.tobytes() for a in result.artifacts for name, array in a.arrays().items()
        }

    def die(step: Step) -> None:
        assert step.total == 16
        if step.done == dies_at + 1:
            raise Killed

    store, seen = Store(), list[int]()
    with pytest.raises(Killed):
        go(Checkpoints(store.save, every_s=0.0, most_cost=1e9), die)
    resumed = go(Checkpoints(saved=store.saved), lambda step: seen.append(step.done))
    assert seen == list(range(dies_at + 1, 17))
    assert resumed == go(Checkpoints())


def in_stages(checkpoints: Checkpoints, progress: Progress = silent) -> list[list[float]]:
    """Optimise in three stages that draw before and within, and return where each one ended."""
    generator, ends = torch.Generator().manual_seed(5), []
    for stage in range(3):
        at = torch.rand(4, generator=generator).requires_grad_()

        def loss(step: int, at: torch.Tensor = at, goal: float = stage) -> torch.Tensor:
            return (at - goal - torch.rand(4, generator=generator)).square().sum()

        ascend(
            loss, torch.optim.Adam([at], lr=0.1), steps=4, progress=progress,
            preview=lambda: _picture(0), checkpoints=checkpoints, generator=generator,
            stage=stage, stages=3,
        )  # fmt: skip
        ends.append(at.tolist())
    return ends


@pytest.mark.parametrize("dies_at", range(1, 12))
def test_the_ends_of_stages_that_are_over_are_put_back(dies_at: int) -> None:
    whole, store = in_stages(Checkpoints()), Store()
    assert len({value for end in whole for value in end}) == 12

    def die(step: Step) -> None:
        if step.done == dies_at + 1:
            raise Killed

    with pytest.raises(Killed):
        in_stages(Checkpoints(store.save, every_s=0.0, most_cost=1e9), die)
    assert in_stages(Checkpoints(saved=store.saved)) == whole


def test_a_stage_that_goes_on_with_the_same_parameters_leaves_the_end_before_alone() -> None:
    at, store = torch.zeros(1, requires_grad=True), Store()

    def go(checkpoints: Checkpoints, ends: list[float]) -> list[float]:
        for stage in range(2):
            ascend(
                lambda step: -at.sum(), torch.optim.SGD([at], lr=1.0), steps=2, progress=silent,
                preview=lambda: _picture(0), checkpoints=checkpoints, stage=stage, stages=2,
            )  # fmt: skip
            ends.append(at.item())
        return ends

    assert go(Checkpoints(store.save, every_s=0.0, most_cost=1e9), []) == [2, 4]
    assert go(Checkpoints(saved=store.saved), []) == [2, 4]


def test_a_stage_that_leaves_nothing_is_not_kept_but_passed_by() -> None:
    def go(checkpoints: Checkpoints, leaves: bool) -> list[float]:
        ends = []
        for stage in range(3):
            at = torch.zeros(10_000, requires_grad=True)
            trace = ascend(
                lambda step, at=at: -at.sum(), torch.optim.SGD([at], lr=1.0), steps=2,  # type: ignore[misc]
                progress=silent, preview=lambda: _picture(0), checkpoints=checkpoints,
                stage=stage, stages=3, leaves=leaves,
            )  # fmt: skip
            assert len(trace.losses) == 2
            ends.append(at[0].item())
        return ends

    stores = [Store(), Store()]
    for leaves, store in zip([True, False], stores, strict=True):
        assert go(Checkpoints(store.save, every_s=0.0, most_cost=1e9), leaves) == [2, 2, 2]
    assert go(Checkpoints(saved=stores[0].saved), True) == [2, 2, 2]
    assert go(Checkpoints(saved=stores[1].saved), False) == [0, 0, 2]
    kept = [len(store.saved or b"") for store in stores]
    assert kept[0] > 3 * 40_000 > 2 * 40_000 > kept[1] > 40_000


def test_what_was_remembered_is_not_made_again() -> None:
    def refuse() -> torch.Tensor:
        raise AssertionError("it was made already")

    at, store = torch.zeros(1, requires_grad=True), Store()
    optimizer = torch.optim.SGD([at], lr=1.0)
    first = Checkpoints(store.save, every_s=0.0, most_cost=1e9)
    made = first.remember("ends", lambda: torch.arange(5, dtype=torch.uint8))
    assert first.remember("ends", refuse) is made
    first.keep([1.0], optimizer, None)
    later = Checkpoints(store.save, store.saved, every_s=0.0, most_cost=1e9)
    assert torch.equal(later.remember("ends", refuse), made)
    # and it stays in the states to come
    later.keep([1.0, 2.0], optimizer, None)
    assert torch.equal(Checkpoints(saved=store.saved).remember("ends", refuse), made)


def test_runs_within_a_run_keep_their_tensors_side_by_side() -> None:
    store = Store()
    first = Checkpoints(store.save, every_s=0.0, most_cost=1e9)
    one, other = first.part("one"), first.part("other").part("inner")
    one.keep_tensors(lambda: {"count": torch.tensor(1)})
    first.keep_tensors(lambda: {"count": torch.tensor(0)})
    other.keep_tensors(lambda: {"count": torch.tensor(2)})
    later = Checkpoints(store.save, store.saved, every_s=0.0, most_cost=1e9)
    # what is gone on with in place is kept as it was until it is kept anew
    found = later.part("one").restore_tensors()
    assert found is not None
    found["count"] += 8
    later.part("new").keep_tensors(lambda: {"count": torch.tensor(3)})
    last = Checkpoints(saved=store.saved)
    parts = [last, last.part("one"), last.part("other").part("inner"), last.part("new")]
    kept = [part.restore_tensors() for part in parts]
    assert kept == [{"count": torch.tensor(number)} for number in range(4)]
    assert last.part("else").restore_tensors() is None


def test_a_run_within_a_run_that_stops_keeps_what_the_others_found() -> None:
    store, is_over = Store(), False
    first = Checkpoints(store.save, every_s=3600.0, suspend=lambda: is_over)
    first.part("one").keep_tensors(lambda: {"count": torch.tensor(1)})
    first.part("other").heed()
    assert store.count == 0
    is_over = True
    with pytest.raises(Suspended):
        first.part("other").heed()
    assert Checkpoints(saved=store.saved).part("one").restore_tensors() is not None


def test_checkpoints_are_no_more_frequent_than_asked(network: VisionModel) -> None:
    store = Store()
    images = {"image": _picture(0)}
    run(
        "deep-dream", images, {"steps": 5, "octaves": 1, "size": 64}, model=network,
        checkpoints=Checkpoints(store.save, every_s=3600.0),
    )  # fmt: skip
    assert store.count == 0


@pytest.mark.parametrize("dies_at", [1, 9])
@pytest.mark.parametrize(("name", "slots", "params"), CASES)
def test_a_suspended_run_keeps_its_state_and_goes_on(
    network: VisionModel, name: str, slots: tuple[str, ...], params: dict[str, Any], dies_at: int
) -> None:
    images = _pictures(slots, params)
    whole = unbroken(network, name, images, params)
    store, steps = Store(), list[int]()

    def note(step: Step) -> None:
        steps.append(step.done)

    with pytest.raises(Suspended):
        run(
            name, images, params, model=network, seed=3, progress=note,
            checkpoints=Checkpoints(
                store.save, every_s=3600.0, suspend=lambda: len(steps) == dies_at
            ),
        )  # fmt: skip
    assert (len(steps), store.count) == (dies_at, 1)
    resumed = run(
        name, images, params, model=network, seed=3, progress=note,
        checkpoints=Checkpoints(saved=store.saved),
    )  # fmt: skip
    assert steps == list(range(1, len(steps) + 1))
    assert resumed.principal.encode("image/png") == whole.principal.encode("image/png")


@pytest.mark.parametrize("waits_s", [0.0, 0.01, 0.02])
def test_saving_takes_no_more_than_its_share_of_the_time(
    network: VisionModel, waits_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SMALL", 0)
    saved_at: list[float] = []

    def save_slowly(state: bytes) -> float:
        time.sleep(waits_s)
        saved_at.append(time.monotonic())
        return 0.02 - waits_s

    images = {"image": _picture(0)}
    began = time.monotonic()
    run(
        "deep-dream", images, {"steps": 200, "octaves": 1, "size": 64}, model=network,
        checkpoints=Checkpoints(save_slowly, every_s=0.0, most_cost=0.1),
    )  # fmt: skip
    # the first few are what the cost is learnt from
    assert LATEST <= len(saved_at) <= LATEST + (time.monotonic() - began) / (0.02 / 0.1)


@pytest.mark.parametrize("slow", [1, 2, 5])
def test_one_slow_saving_does_not_silence_the_rest(slow: int, network: VisionModel) -> None:
    saved_at: list[float] = []

    def save(state: bytes) -> None:
        if len(saved_at) + 1 == slow:
            time.sleep(0.5)  # 5 s of silence, if this were the cost
        saved_at.append(time.monotonic())

    def stop(step: Step) -> None:
        time.sleep(0.01)
        if len(saved_at) >= slow + 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(
            "deep-dream", {"image": _picture(0)}, {"steps": 200, "octaves": 1, "size": 64},
            model=network, progress=stop,
            checkpoints=Checkpoints(save, every_s=0.1, most_cost=0.1),
        )  # fmt: skip
    assert saved_at[slow] - saved_at[slow - 1] < 1.0


def test_a_small_state_is_saved_however_long_a_busy_machine_takes(network: VisionModel) -> None:
    saved_at: list[float] = []

    def save(state: bytes) -> float:
        saved_at.append(time.monotonic())
        return 60.0

    def stop(step: Step) -> None:
        time.sleep(0.01)
        if len(saved_at) > LATEST + 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(
            "deep-dream", {"image": _picture(0)}, {"steps": 200, "octaves": 1, "size": 64},
            model=network, progress=stop, checkpoints=Checkpoints(save, every_s=0.1),
        )  # fmt: skip
    gaps = [after - before for before, after in itertools.pairwise(saved_at)]
    assert min(gaps) >= 0.1
    assert max(gaps) < 1.0


def test_a_checkpoint_that_holds_code_is_refused() -> None:
    with pytest.raises(DamagedCheckpoint):
        Checkpoints(saved=pickle.dumps(Trap(), protocol=2))


@pytest.mark.parametrize("saved", [b"x", b"PK", bytes(1000)])
def test_what_is_no_checkpoint_is_refused(saved: bytes) -> None:
    with pytest.raises(DamagedCheckpoint):
        Checkpoints(saved=saved)


@pytest.mark.parametrize("error", [AttributeError, TypeError, IndexError, AssertionError])
def test_a_checkpoint_that_torch_stumbles_over_is_refused(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise error("found no such thing")

    saved = _saved()
    monkeypatch.setattr(torch, "load", stumble)
    with pytest.raises(DamagedCheckpoint, match="cannot be read"):
        Checkpoints(saved=saved)


@pytest.mark.parametrize(
    "state",
    [
        [1, 2],
        {"losses": []},
        {"ended": [{"losses": []}]},
        {"ended": 3},
        {"ended": [3]},
        {"ended": [], "remembered": 3},
    ],
)
def test_what_is_no_state_of_a_run_is_refused(state: Any) -> None:
    out = io.BytesIO()
    torch.save(state, out)
    with pytest.raises(DamagedCheckpoint):
        Checkpoints(saved=out.getvalue())


def test_a_checkpoint_that_was_cut_off_is_refused(network: VisionModel) -> None:
    store = Store()
    run(
        "deep-dream", {"image": _picture(0)}, {"steps": 2, "octaves": 1, "size": 64}, model=network,
        checkpoints=Checkpoints(store.save, every_s=0.0),
    )  # fmt: skip
    assert store.saved is not None
    with pytest.raises(DamagedCheckpoint):
        Checkpoints(saved=store.saved[: len(store.saved) // 2])


def _at(size: int) -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.zeros(size, requires_grad=True)])


def _saved(technique: str = "") -> bytes:
    store = Store()
    Checkpoints(store.save, every_s=0.0, technique=technique).keep([1.0], _at(3), None)
    assert store.saved is not None
    return store.saved


def test_a_state_that_does_not_fit_the_run_is_refused() -> None:
    saved = _saved()
    assert Checkpoints(saved=saved).restore(0, _at(3), None).losses == (1.0,)
    with pytest.raises(DamagedCheckpoint, match="does not fit"):
        Checkpoints(saved=saved).restore(0, _at(4), None)
    two = torch.optim.Adam([torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)])
    with pytest.raises(DamagedCheckpoint, match="does not fit"):
        Checkpoints(saved=saved).restore(0, two, None)


def test_a_state_of_another_technique_or_version_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = _saved("deep-dream")
    Checkpoints(saved=saved, technique="deep-dream")
    with pytest.raises(DamagedCheckpoint, match="style-transfer"):
        Checkpoints(saved=saved, technique="style-transfer")
    monkeypatch.setattr(lantern, "__version__", "9.9.9")
    with pytest.raises(DamagedCheckpoint, match=r"9\.9\.9"):
        Checkpoints(saved=saved, technique="deep-dream")
