"""Texture grows pixel by pixel as its paper says, however many pixels are found at once."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lantern.errors import InvalidParameter
from lantern.progress import Cancelled
from lantern.texture import growth
from lantern.texture.frontier import frontier, turns
from lantern.texture.growth import grow
from lantern.texture.matching import SLACK, near_best, window_distances
from lantern.texture.starts import GrowthState, around, continued, seeded
from tests.textures import checkerboard, sample, stripes, unlikeness


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Pictures this small are done sooner without handing work to other threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squared_difference(one: Tensor, other: Tensor, weights: Tensor) -> float:
    """Weighted mean squared difference of `[3,k,l]` and `[3,k,l]`, term by term."""
    total = sum(
        float(weights[y, x]) * float(one[c, y, x] - other[c, y, x]) ** 2
        for c in range(3)
        for y in range(one.shape[1])
        for x in range(one.shape[2])
    )
    return total / (3 * float(weights.sum()))


class TestMatching:
    def test_distances_are_those_of_a_plain_loop(self) -> None:
        exemplar = torch.rand(3, 9, 11, generator=draws())
        patches = torch.rand(4, 3, 5, 5, generator=draws(1))
        weights = torch.rand(4, 1, 5, 5, generator=draws(2))
        weights *= torch.rand(4, 1, 5, 5, generator=draws(3)) < 0.5
        found = window_distances(exemplar, patches, weights)
        assert found.shape == (4, 5, 7)
        for n in range(4):
            for y in range(5):
                for x in range(7):
                    window = exemplar[:, y : y + 5, x : x + 5]
                    expected = squared_difference(window, patches[n], weights[n, 0])
                    assert found[n, y, x].item() == pytest.approx(expected, abs=1e-6)

    def test_what_is_not_known_does_not_count(self) -> None:
        exemplar, patch = torch.rand(3, 8, 8, generator=draws()), torch.zeros(1, 3, 3, 3)
        weights = torch.zeros(1, 1, 3, 3)
        weights[..., 0, :] = 1
        changed = patch.clone()
        changed[..., 1:, :] = 0.8
        first, second = (window_distances(exemplar, p, weights) for p in (patch, changed))
        assert torch.allclose(first, second, atol=1e-7)

    def test_a_place_is_drawn_among_those_within_a_tenth_of_the_best(self) -> None:
        distances = torch.rand(50, 200, generator=draws()) + 0.5
        for draw in (0.0, 0.37, 0.999999, 1.0):
            chosen = near_best(distances, torch.full((50,), draw))
            for row, index in zip(distances, chosen.tolist(), strict=True):
                near = [i for i, d in enumerate(row.tolist()) if d <= 1.1 * min(row.tolist())]
                assert index == near[min(int(draw * len(near)), len(near) - 1)]

    def test_equal_places_have_equal_chances(self) -> None:
        distances = torch.tensor([0.2, 0.1, 0.105, 0.3, 0.1]).expand(3000, 5)
        chosen = near_best(distances, torch.rand(3000, generator=draws()))
        counts = chosen.bincount(minlength=5).tolist()
        assert counts[0] == counts[3] == 0
        assert all(900 < counts[i] < 1100 for i in (1, 2, 4))


class TestOrder:
    @pytest.mark.parametrize("tileable", [False, True])
    def test_the_frontier_is_what_touches_the_known_most_touched_first(
        self, tileable: bool
    ) -> None:
        known = torch.rand(9, 7, generator=draws()) < 0.2
        found = frontier(known, draws(1), tileable=tileable).tolist()
        counts = {
            (y, x): neighbours(known, y, x, tileable)
            for y in range(9)
            for x in range(7)
            if not known[y, x] and neighbours(known, y, x, tileable)
        }
        assert sorted(map(tuple, found)) == sorted(counts)
        assert [counts[y, x] for y, x in found] == sorted(counts.values(), reverse=True)

    def test_equally_touched_pixels_come_in_random_order(self) -> None:
        known = torch.zeros(11, 11, dtype=torch.bool)
        known[5] = True
        orders = [frontier(known, draws(seed), tileable=True).tolist() for seed in range(3)]
        assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
        assert orders[0] != orders[1] != orders[2] != sorted(orders[2])

    @pytest.mark.parametrize("tileable", [False, True])
    def test_pixels_of_a_turn_do_not_see_each_other_and_see_all_before_them(
        self, tileable: bool
    ) -> None:
        order = torch.rand(12, 15, generator=draws()).flatten().argsort()[:90]
        pixels = torch.stack([order // 15, order % 15], dim=1)
        split = turns(pixels, 12, 15, 2, tileable=tileable)
        assert torch.cat(split).sort().values.tolist() == list(range(90))
        turn_of = {int(i): n for n, turn in enumerate(split) for i in turn}
        for i in range(90):
            seen = [j for j in range(i) if apart(pixels[i], pixels[j], tileable) <= 2]
            # as early as can be: just behind the last one it sees
            assert turn_of[i] == max((turn_of[j] + 1 for j in seen), default=0)


def neighbours(known: Tensor, y: int, x: int, tileable: bool) -> int:
    height, width = known.shape
    around = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    if tileable:
        return sum(bool(known[i % height, j % width]) for i, j in around)
    return sum(bool(known[i, j]) for i, j in around if 0 <= i < height and 0 <= j < width)


def apart(one: Tensor, other: Tensor, tileable: bool) -> int:
    rows, columns = (int(n) for n in (one - other).abs())
    if tileable:
        rows, columns = min(rows, 12 - rows), min(columns, 15 - columns)
    return max(rows, columns)


def one_by_one(
    exemplar: Tensor, start: GrowthState, window: int, *, nearest: bool, tileable: bool
) -> Tensor:
    """Grow as the paper's listing does, pixel after pixel and place after place; its sources."""
    generator = torch.Generator()
    generator.set_state(start.generator)
    sources, limit, reach = start.sources.clone().long(), start.max_error, window // 2
    (height, width), exemplar = sources.shape[:2], exemplar.double()
    gauss = torch.tensor(
        [
            [
                math.exp(-(i * i + j * j) / (2 * (window / 6.4) ** 2))
                for j in range(-reach, reach + 1)
            ]
            for i in range(-reach, reach + 1)
        ]
    )
    while (sources < 0).any():
        known = sources[..., 0] >= 0
        pixels = frontier(known, generator, tileable=tileable).tolist()
        placed = False
        for (y, x), draw in zip(
            pixels, torch.rand(len(pixels), generator=generator).tolist(), strict=True
        ):
            seen = {}
            for i in range(window):
                for j in range(window):
                    row, column = y + i - reach, x + j - reach
                    if tileable:
                        row, column = row % height, column % width
                    inside = 0 <= row < height and 0 <= column < width
                    if inside and sources[row, column, 0] >= 0:
                        seen[i, j] = exemplar[:, *sources[row, column]]
            distances = {}
            for top in range(exemplar.shape[1] - window + 1):
                for left in range(exemplar.shape[2] - window + 1):
                    total = sum(
                        gauss[i, j] * (exemplar[:, top + i, left + j] - colour).square().mean()
                        for (i, j), colour in seen.items()
                    )
                    distances[top, left] = float(total / sum(gauss[place] for place in seen))
            least = min(distances.values())
            near = [p for p, d in distances.items() if d <= least * (1 + SLACK) + 1e-6]
            chosen = (
                min(distances, key=distances.__getitem__)
                if nearest
                else near[int(draw * len(near))]
            )
            if distances[chosen] < limit:
                sources[y, x] = torch.tensor(chosen) + reach
                placed = True
        if not placed:
            limit *= 1.1
    return sources


@pytest.mark.parametrize(("nearest", "tileable"), [(False, False), (False, True), (True, False)])
def test_many_at_once_is_the_same_as_one_by_one(nearest: bool, tileable: bool) -> None:
    exemplar = sample("gravel", 36)[:, ::4, ::4]
    start = seeded(exemplar, 8, 9, generator=draws(5))
    grown = grow(exemplar, start, window=5, nearest=nearest, tileable=tileable)
    expected = one_by_one(exemplar, start, 5, nearest=nearest, tileable=tileable)
    assert torch.equal(grown.sources.long(), expected)
    # and the choice mattered
    assert len({tuple(place) for place in expected.flatten(0, 1).tolist()}) > 12


@pytest.mark.parametrize("nearest", [False, True])
def test_every_pixel_is_the_exemplars_at_its_source(nearest: bool) -> None:
    exemplar = sample("brick", 40)
    start = seeded(exemplar, 37, 45, generator=draws())
    grown = grow(exemplar, start, window=7, nearest=nearest)
    assert grown.pixels.shape == (3, 37, 45)
    assert grown.sources.shape == (37, 45, 2)
    for y in range(37):
        for x in range(45):
            row, column = grown.sources[y, x].tolist()
            assert 0 <= row < 40
            assert 0 <= column < 40
            assert torch.equal(grown.pixels[:, y, x], exemplar[:, row, column])


class TestPeriodic:
    @pytest.mark.parametrize("nearest", [False, True])
    @pytest.mark.parametrize("window", [7, 11])
    def test_stripes_and_checkerboards_are_continued_exactly(
        self, window: int, nearest: bool
    ) -> None:
        for pattern in (stripes, checkerboard):
            # 12 is two periods of 6, so that the pattern around it keeps its phase
            exemplar, whole = pattern(24, 24), pattern(48, 48)
            start = continued(exemplar, 48, 48, generator=draws())
            grown = grow(exemplar, start, window=window, nearest=nearest)
            assert torch.equal(grown.pixels, whole)

    def test_they_are_also_grown_exactly_from_a_seed(self) -> None:
        for pattern in (stripes, checkerboard):
            exemplar, whole = pattern(24, 24), pattern(36, 36)
            for seed in range(3):
                start = seeded(exemplar, 30, 30, generator=draws(seed))
                grown = grow(exemplar, start, window=7)
                shifts = [whole[:, y : y + 30, x : x + 30] for y in range(6) for x in range(6)]
                assert any(torch.equal(grown.pixels, shifted) for shifted in shifts)

    def test_stripes_of_unequal_width_need_half_a_window_that_sees_the_wider(self) -> None:
        exemplar, whole = stripes(24, 28, light=2, dark=5), stripes(40, 56, light=2, dark=5)
        start = continued(exemplar, 40, 56, generator=draws())
        assert torch.equal(grow(exemplar, start, window=13).pixels, whole)
        assert not torch.equal(grow(exemplar, start, window=5).pixels, whole)

    def test_a_tileable_one_goes_on_at_the_other_edge(self) -> None:
        exemplar = checkerboard(24, 24)
        start = seeded(exemplar, 30, 36, generator=draws())
        pixels = grow(exemplar, start, window=7, tileable=True).pixels
        assert torch.equal(pixels.roll((3, 3), (1, 2)), pixels)
        assert not torch.equal(pixels.roll(3, 1), pixels)


class TestHole:
    def test_a_hole_in_a_pattern_is_filled_with_the_pattern(self) -> None:
        picture = checkerboard(36, 36)
        hole = torch.zeros(36, 36, dtype=torch.bool)
        hole[10:24, 8:21] = True
        spoilt = picture.masked_fill(hole, 0.5)
        grown = grow(spoilt, around(hole, generator=draws()), window=7, usable=~hole)
        assert torch.equal(grown.pixels, picture)

    def test_nothing_is_taken_from_the_hole_and_nothing_else_changed(self) -> None:
        picture = sample("gravel", 48)
        hole = torch.zeros(48, 48, dtype=torch.bool)
        hole[16:30, 20:36] = True
        grown = grow(picture, around(hole, generator=draws()), window=9, usable=~hole)
        assert torch.equal(grown.pixels[:, ~hole], picture[:, ~hole])
        assert not hole[grown.sources[..., 0].long(), grown.sources[..., 1].long()].any()

    def test_a_hole_that_leaves_no_window_is_refused(self) -> None:
        hole = torch.zeros(20, 20, dtype=torch.bool)
        hole[::4, ::4] = True
        start = around(hole, generator=draws())
        with pytest.raises(InvalidParameter, match="no window of 5 px") as refused:
            grow(torch.rand(3, 20, 20), start, window=5, usable=~hole)
        assert refused.value.pointer == "/params/window"


@dataclass(frozen=True)
class Seam:
    """How squares across the edges of a texture fit, and how others do; steps across likewise."""

    error: float
    usual_errors: Tensor
    step_ratio: float

    @staticmethod
    def of(pixels: Tensor, exemplar: Tensor) -> Seam:
        middle, side = pixels.shape[1] // 2, 4
        rolled = pixels.roll((middle, middle), (1, 2))
        found = unlikeness(rolled, exemplar, side)
        is_across = torch.zeros(found.shape, dtype=torch.bool)
        is_across[middle - side + 1 : middle] = True
        is_across[:, middle - side + 1 : middle] = True
        down, along = (rolled.mean(0).diff(dim=d).abs() for d in (0, 1))
        across = torch.cat([down[middle - 1], along[:, middle - 1]]).mean()
        usual = torch.cat([down.flatten(), along.flatten()]).mean()
        return Seam(float(found[is_across].mean()), found[~is_across], float(across / usual))


@pytest.mark.parametrize("name", ["gravel", "grass"])
def test_a_tileable_texture_has_no_seam(name: str) -> None:
    exemplar = sample(name, 40)
    start = seeded(exemplar, 44, 44, generator=draws())
    tiles, ends = (
        Seam.of(grow(exemplar, start, window=9, tileable=tileable).pixels, exemplar)
        for tileable in (True, False)
    )
    assert tiles.step_ratio < 1.25
    assert ends.step_ratio > 1.5
    # where growth closes on itself it fits as it does elsewhere where pieces meet
    assert tiles.error < tiles.usual_errors.quantile(0.95)
    assert tiles.error < ends.error


def test_grown_gravel_has_the_grain_of_gravel_and_is_no_copy() -> None:
    exemplar = sample("gravel", 56)
    grown = grow(exemplar, seeded(exemplar, 64, 64, generator=draws(1)), window=9)
    for measured, expected in zip(grain(grown.pixels), grain(exemplar), strict=True):
        assert measured == pytest.approx(expected, rel=0.15)
    # everywhere as the exemplar somewhere is: what a failed growth is not
    noise = exemplar.flatten(1)[:, torch.randperm(56 * 56, generator=draws())].view_as(exemplar)
    assert (
        unlikeness(grown.pixels, exemplar, 4).mean() < 0.1 * unlikeness(noise, exemplar, 4).mean()
    )
    offsets = grown.sources.int() - torch.stack(
        torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij"), dim=-1
    )
    counts = Counter(tuple(offset) for offset in offsets.flatten(0, 1).tolist())
    assert max(counts.values()) < 0.5 * 64 * 64


def grain(pixels: Tensor) -> tuple[float, float, float, float]:
    """Mean, deviation, and mean step to the next pixel along and down."""
    grey = pixels.mean(0)
    along, down = grey.diff(dim=1).abs(), grey.diff(dim=0).abs()
    return float(grey.mean()), float(grey.std()), float(along.mean()), float(down.mean())


class TestRuns:
    exemplar = sample("gravel", 32)

    def start(self, seed: int = 0) -> GrowthState:
        return seeded(self.exemplar, 30, 34, generator=draws(seed))

    def test_the_same_seed_makes_the_same_bytes_and_another_another_picture(self) -> None:
        first, again, other = (
            grow(self.exemplar, self.start(seed), window=7) for seed in (0, 0, 1)
        )
        assert torch.equal(first.sources, again.sources)
        assert torch.equal(first.pixels, again.pixels)
        assert (first.pixels != other.pixels).float().mean() > 0.5

    def test_a_resumed_run_ends_as_an_unbroken_one_from_wherever_it_was_broken(self) -> None:
        kept: list[bytes] = []

        def keep(done: int, total: int, state: GrowthState) -> None:
            out = io.BytesIO()
            torch.save(state.state(), out)
            kept.append(out.getvalue())

        whole = grow(self.exemplar, self.start(), window=7, progress=keep)
        assert len(kept) > 10
        for saved in kept[:: len(kept) // 5]:
            state = GrowthState.from_state(torch.load(io.BytesIO(saved), weights_only=True))
            resumed = grow(self.exemplar, state, window=7)
            assert torch.equal(resumed.sources, whole.sources)
            assert torch.equal(resumed.pixels, whole.pixels)

    def test_progress_shows_the_picture_so_far(self) -> None:
        seen: list[tuple[int, int]] = []

        def watch(done: int, total: int, state: GrowthState) -> None:
            pixels = state.pixels(self.exemplar)
            assert int(state.known.sum()) == done
            assert not pixels[:, ~state.known].any()
            assert pixels[:, state.known].all()
            seen.append((done, total))

        grow(self.exemplar, self.start(), window=7, progress=watch)
        assert seen == sorted(set(seen))
        assert seen[-1] == (30 * 34, 30 * 34)
        assert all(total == 30 * 34 for _, total in seen)

    def test_a_callback_that_raises_stops_the_growth(self) -> None:
        calls: list[int] = []

        def stop(done: int, total: int, state: GrowthState) -> None:
            calls.append(done)
            if len(calls) == 3:
                raise Cancelled

        with pytest.raises(Cancelled):
            grow(self.exemplar, self.start(), window=7, progress=stop)
        assert len(calls) == 3

    def test_the_start_and_the_global_generator_are_left_alone(self) -> None:
        before, start = torch.get_rng_state(), self.start()
        kept = start.state()
        grow(self.exemplar, start, window=7)
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(kept[name], value) for name, value in start.state().items())

    def test_the_error_threshold_rises_until_a_pixel_is_good_enough(self) -> None:
        start = self.start()
        start.max_error = 1e-3
        limits: list[tuple[int, float]] = []
        grown = grow(
            self.exemplar,
            start,
            window=7,
            progress=lambda done, total, state: limits.append((done, state.max_error)),
        )
        assert (grown.sources >= 0).all()
        before = (9, 1e-3)
        for done, limit in limits:
            raised = 1.1 if done == before[0] else 1
            assert limit == pytest.approx(before[1] * raised)
            before = (done, limit)
        assert before[1] > 2e-3


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, list | tuple) else [out]
        self.elements = max([self.elements, *(t.numel() for t in made if isinstance(t, Tensor))])
        return out


def test_memory_is_bounded_and_the_bound_does_not_change_the_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exemplar = sample("gravel", 32)
    start = continued(exemplar, 36, 36, generator=draws())
    largest = {}
    grown = {}
    for limit in (2**22, 4 * 28 * 28):
        monkeypatch.setattr(growth, "MAX_DISTANCES", limit)
        with Largest() as largest[limit]:  # type: ignore[no-untyped-call]
            grown[limit] = grow(exemplar, start, window=5).pixels
    # not one tensor of all windows of the exemplar, 3 * 25 * 28 * 28 elements
    assert largest[4 * 28 * 28].elements <= 4 * 32 * 32  # the exemplar and its squares
    assert largest[2**22].elements > 10 * 28 * 28
    assert torch.equal(*grown.values())


class TestRefusals:
    @pytest.mark.parametrize(
        ("window", "words"),
        [(17, "16x20 px.*window of 17 px"), (8, "8 px; it must be odd.*take 9"), (1, "take 3")],
    )
    def test_a_window_that_does_not_fit(self, window: int, words: str) -> None:
        exemplar = torch.rand(3, 20, 16)
        with pytest.raises(InvalidParameter, match=words) as refused:
            grow(exemplar, seeded(exemplar, 30, 30, generator=draws()), window=window)
        assert refused.value.pointer == "/params/window"

    def test_a_texture_smaller_than_what_it_continues(self) -> None:
        with pytest.raises(InvalidParameter, match=r"width of 15 px.*16 px") as refused:
            continued(torch.rand(3, 20, 16), 30, 15, generator=draws())
        assert refused.value.pointer == "/params/width"

    def test_nothing_to_grow_from(self) -> None:
        everything = torch.ones(9, 9, dtype=torch.bool)
        with pytest.raises(InvalidParameter, match="nothing is known"):
            grow(torch.rand(3, 9, 9), around(everything, generator=draws()), window=3)

    def test_a_texture_without_pixels(self) -> None:
        with pytest.raises(InvalidParameter, match="height is 0 px"):
            seeded(torch.rand(3, 20, 16), 0, 5, generator=draws())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 7), (5, 3)])
@pytest.mark.parametrize("tileable", [False, True])
def test_a_texture_may_be_smaller_than_the_window(height: int, width: int, tileable: bool) -> None:
    exemplar = sample("grass", 20)
    start = seeded(exemplar, height, width, generator=draws())
    assert grow(exemplar, start, window=9, tileable=tileable).pixels.shape == (3, height, width)
