"""Texture is quilted from blocks that fit, cut where they differ least."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from lantern.errors import InvalidParameter
from lantern.progress import Cancelled
from lantern.texture.layout import Layout
from lantern.texture.matching import BlockDistances
from lantern.texture.quilting import Guide, QuiltState, quilt, unlaid
from lantern.texture.seams import Sides, boundary_cut, from_block
from lantern.texture.sources import nowhere
from tests.textures import checkerboard, sample, stripes, unlikeness


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Pictures this small are done sooner without handing work to other threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def begin(height: int, width: int, seed: int = 0) -> QuiltState:
    return unlaid(height, width, generator=torch.Generator().manual_seed(seed))


class TestDistances:
    def test_they_are_those_of_a_plain_loop(self) -> None:
        generator = torch.Generator().manual_seed(0)
        exemplar = torch.rand(4, 11, 14, generator=generator)
        block = torch.rand(4, 5, 6, generator=generator)
        weights = torch.rand(4, 5, 6, generator=generator)
        distances = BlockDistances(exemplar)
        found = distances(block, weights, distances.squares(weights))
        assert found.shape == (7, 9)
        for y, x in itertools.product(range(7), range(9)):
            expected = sum(
                float(weights[c, i, j] * (exemplar[c, y + i, x + j] - block[c, i, j]) ** 2)
                for c, i, j in itertools.product(range(4), range(5), range(6))
            )
            assert found[y, x].item() == pytest.approx(expected, rel=1e-4)

    def test_a_block_is_found_where_it_was_cut_out(self) -> None:
        exemplar = sample("grass", 61)
        weights = torch.full((3, 20, 24), 1 / (3 * 20 * 24))
        distances = BlockDistances(exemplar)
        block = exemplar[:, 17:37, 30:54]
        found = distances(block, weights, distances.squares(weights))
        assert divmod(int(found.argmin()), found.shape[1]) == (17, 30)
        assert found.min() < 1e-7


class TestCut:
    @pytest.mark.parametrize("seed", range(5))
    def test_no_path_is_cheaper(self, seed: int) -> None:
        error = np.random.default_rng(seed).random((6, 4))
        paths = [
            path
            for path in itertools.product(range(4), repeat=6)
            if all(abs(a - b) <= 1 for a, b in itertools.pairwise(path))
        ]
        costs = {path: sum(error[row, column] for row, column in enumerate(path)) for path in paths}
        assert tuple(boundary_cut(error)) == min(costs, key=costs.__getitem__)

    def test_it_follows_the_valley(self) -> None:
        valley = [2, 3, 4, 4, 3, 2, 1, 0, 0, 1]
        error = np.ones((10, 5))
        error[range(10), valley] = 0
        assert boundary_cut(error).tolist() == valley

    def test_a_strip_one_pixel_wide_has_one_path(self) -> None:
        assert boundary_cut(np.ones((4, 1))).tolist() == [0] * 4

    def test_a_block_is_taken_inside_the_cuts_of_its_overlapping_sides(self) -> None:
        across, down = torch.tensor([5, 0, 5, 5, 5, 0, 5]), torch.tensor([5, 5, 0, 5, 0, 5])
        error = across + down[:, None]
        taken = from_block(error, 3, Sides(left=True))
        assert taken.tolist() == [[False] + [True] * 6] * 6
        taken = from_block(error, 3, Sides(top=True, right=True))
        assert taken.tolist() == [[False] * 7] * 2 + [[True] * 6 + [False]] * 4
        taken = from_block(error, 3, Sides(left=True, bottom=True))
        assert taken.tolist() == [[False] + [True] * 6] * 5 + [[False] * 7]
        assert from_block(error, 3, Sides()).all()


class TestLayout:
    @pytest.mark.parametrize("tileable", [False, True])
    def test_blocks_cover_everything_and_overlap_as_told(self, tileable: bool) -> None:
        for length, (block, overlap) in itertools.product(
            [*range(8, 60), 199], [(3, 1), (12, 2), (12, 4), (25, 4)]
        ):
            layout = Layout.of(nowhere(length, length), block, overlap, tileable)
            spans = layout.rows
            assert spans == layout.columns
            assert spans[0][0] == 0
            assert spans[-1][1] == length + (overlap if tileable else 0)
            assert all(end - begin <= block for begin, end in spans)
            assert all(one[1] - other[0] == overlap for one, other in itertools.pairwise(spans))
            # no pixel lies in the overlaps of both sides
            if len(spans) > 1:
                inner = spans if tileable else spans[1:-1]
                assert all(end - begin >= 2 * overlap for begin, end in inner)

    def test_a_whole_number_of_blocks_is_not_shrunk(self) -> None:
        layout = Layout.of(nowhere(12 + 3 * 10, 12), 12, 2, tileable=False)
        assert layout.rows == [(0, 12), (10, 22), (20, 32), (30, 42)]
        assert layout.columns == [(0, 12)]

    def test_an_overlap_is_a_sixth_unless_told(self) -> None:
        sources = nowhere(50, 50)
        assert Layout.of(sources, 36, None, tileable=False).overlap == 6
        assert Layout.of(sources, 3, None, tileable=False).overlap == 1


def test_every_pixel_is_the_exemplars_at_its_source() -> None:
    exemplar = sample("grass", 48)
    quilted = quilt(exemplar, begin(61, 70), block=15)
    assert quilted.pixels.shape == (3, 61, 70)
    for y, x in itertools.product(range(61), range(70)):
        row, column = quilted.sources[y, x].tolist()
        assert 0 <= row < 48
        assert 0 <= column < 48
        assert torch.equal(quilted.pixels[:, y, x], exemplar[:, row, column])


@pytest.mark.parametrize("tileable", [False, True])
@pytest.mark.parametrize("pattern", [stripes, checkerboard])
def test_a_pattern_is_continued_exactly(
    pattern: Callable[[int, int], Tensor], tileable: bool
) -> None:
    exemplar, whole = pattern(30, 30), pattern(66, 66)
    for seed in range(3):
        quilted = quilt(exemplar, begin(60, 60, seed), block=18, overlap=6, tileable=tileable)
        shifted = [whole[:, y : y + 60, x : x + 60] for y in range(6) for x in range(6)]
        assert any(torch.equal(quilted.pixels, one) for one in shifted)


class TestChoice:
    exemplar = sample("gravel", 40)

    @pytest.mark.parametrize("tileable", [False, True])
    def test_each_block_is_among_the_near_best_that_do_not_just_go_on(self, tileable: bool) -> None:
        layout = Layout.of(nowhere(40, 46), 14, 4, tileable)
        before = nowhere(40, 46)
        laid: list[tuple[float, list[float]]] = []

        def check(done: int, total: int, state: QuiltState) -> None:
            nonlocal before
            rows, columns, _ = layout.block(done - 1)
            laid.append(self.judge(before, state.sources, rows % 40, columns % 46))
            before = state.sources.clone()

        quilt(self.exemplar, begin(40, 46), block=14, overlap=4, tileable=tileable, progress=check)
        assert len(laid) == layout.count
        for chosen, others in laid[1:]:
            assert chosen <= 1.1 * min(others) + 2e-6
        # by more than chance: most places are much worse
        assert np.mean([chosen / np.mean(others) for chosen, others in laid[1:]]) < 0.4

    def judge(
        self, before: Tensor, after: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[float, list[float]]:
        """Overlap error of the block that was laid, and those of all that may be chosen."""
        at = (rows[:, None], columns)
        old, new = before[at].long(), after[at].long()
        is_known = old[..., 0] >= 0
        own = torch.stack(
            torch.meshgrid(torch.arange(len(rows)), torch.arange(len(columns)), indexing="ij"), -1
        )
        chosen = (new - own)[~is_known][0].tolist()
        goes_on = {tuple(begin) for begin in (old - own)[is_known].tolist()}
        errors: dict[tuple[int, int], float] = {}
        for top, left in itertools.product(range(41 - len(rows)), range(41 - len(columns))):
            block = self.exemplar[:, top : top + len(rows), left : left + len(columns)]
            was = self.exemplar[:, old[..., 0], old[..., 1]]
            errors[top, left] = float((block - was)[:, is_known].square().mean())
        allowed = [error for begin, error in errors.items() if begin not in goes_on]
        assert tuple(chosen) not in goes_on
        return errors[chosen[0], chosen[1]], allowed

    def test_an_exemplar_of_one_block_is_laid_again_and_again(self) -> None:
        exemplar = self.exemplar[:, :14, :14]
        quilted = quilt(exemplar, begin(34, 34), block=14, overlap=4)
        assert torch.equal(quilted.pixels[:, :10, :10], exemplar[:, :10, :10])
        assert (quilted.sources >= 0).all()


@pytest.mark.parametrize("name", ["gravel", "grass"])
def test_a_tileable_quilt_has_no_seam_at_its_edges(name: str) -> None:
    exemplar = sample(name, 72)

    def edges(*, tileable: bool) -> tuple[float, float]:
        quilts = [
            quilt(exemplar, begin(66, 66, seed), block=24, overlap=4, tileable=tileable)
            for seed in range(3)
        ]
        down, along = zip(*(worst_lines(quilt.pixels, exemplar) for quilt in quilts), strict=True)
        return float(np.mean(down)), float(np.mean(along))

    assert max(edges(tileable=True)) < 1.15
    assert min(edges(tileable=False)) > 1.3


def worst_lines(pixels: Tensor, exemplar: Tensor) -> tuple[float, float]:
    """How ill the worst row (column) fits where the edges meet, against the worst elsewhere."""
    found = unlikeness(pixels.roll((33, 33), (1, 2)), exemplar, 4)
    is_edge = torch.zeros(63, dtype=torch.bool)
    is_edge[30:37] = True  # squares that lie across the edge, or in the overlap that follows it
    rows, columns = (
        float(lines[is_edge].max() / lines[~is_edge].max())
        for lines in (found.mean(1), found.mean(0))
    )
    return rows, columns


class TestGuide:
    exemplar = sample("gravel", 72)
    target = torch.linspace(0, 1, 60)[:, None].expand(60, 60)

    def follows(self, guide: Guide | None) -> float:
        """Correlation of the quilt's luminance with the target's, over squares of five pixels."""
        pixels = quilt(self.exemplar, begin(60, 60), block=9, guide=guide).pixels
        grey = torch.nn.functional.avg_pool2d(torch.stack([pixels.mean(0), self.target])[None], 5)
        return float(torch.corrcoef(grey[0].flatten(1))[0, 1])

    def test_the_quilt_follows_it_the_more_the_less_alpha_is(self) -> None:
        close, loose, free = (
            self.follows(guide)
            for guide in (Guide(self.target, 0.1), Guide(self.target, 0.8), None)
        )
        assert close > 0.8
        assert close > loose + 0.1 > abs(free) + 0.2

    def test_its_brightness_and_contrast_do_not_matter(self) -> None:
        one, other = (
            quilt(self.exemplar, begin(30, 60), block=9, guide=Guide(target, 0.3)).sources
            for target in (self.target[:30], 0.4 + 0.25 * self.target[:30])
        )
        assert (one == other).all(2).float().mean() > 0.9

    def test_one_of_another_size_is_refused(self) -> None:
        with pytest.raises(InvalidParameter, match=r"guide is 60x30 px, the texture 60x60 px"):
            quilt(self.exemplar, begin(60, 60), block=9, guide=Guide(self.target[:30], 0.5))


class TestRuns:
    exemplar = sample("brick", 48)

    def test_the_same_seed_makes_the_same_bytes_and_another_another_picture(self) -> None:
        first, again, other = (
            quilt(self.exemplar, begin(50, 64, seed), block=16) for seed in (0, 0, 1)
        )
        assert torch.equal(first.sources, again.sources)
        assert torch.equal(first.pixels, again.pixels)
        assert (first.sources != other.sources).any(2).float().mean() > 0.5

    @pytest.mark.parametrize("tileable", [False, True])
    def test_a_resumed_run_ends_as_an_unbroken_one_from_wherever_it_was_broken(
        self, tileable: bool
    ) -> None:
        kept: list[bytes] = []

        def keep(done: int, total: int, state: QuiltState) -> None:
            out = io.BytesIO()
            torch.save(state.state(), out)
            kept.append(out.getvalue())

        whole = quilt(self.exemplar, begin(50, 64), block=16, tileable=tileable, progress=keep)
        assert len(kept) >= 20
        for saved in kept[::4]:
            state = QuiltState.from_state(torch.load(io.BytesIO(saved), weights_only=True))
            resumed = quilt(self.exemplar, state, block=16, tileable=tileable)
            assert torch.equal(resumed.sources, whole.sources)
            assert torch.equal(resumed.pixels, whole.pixels)

    def test_progress_shows_the_picture_so_far_and_may_stop_it(self) -> None:
        seen: list[tuple[int, int]] = []

        def watch(done: int, total: int, state: QuiltState) -> None:
            pixels = state.pixels(self.exemplar)
            assert not pixels[:, ~state.known].any()
            assert pixels[:, state.known].all()
            seen.append((done, total))
            if done == 7:
                raise Cancelled

        with pytest.raises(Cancelled):
            quilt(self.exemplar, begin(50, 64), block=16, progress=watch)
        assert seen == [(n, 20) for n in range(1, 8)]

    def test_the_start_and_the_global_generator_are_left_alone(self) -> None:
        before, start = torch.get_rng_state(), begin(50, 64)
        kept = start.state()
        quilt(self.exemplar, start, block=16)
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(kept[name], value) for name, value in start.state().items())


@pytest.mark.parametrize("tileable", [False, True])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (7, 5), (16, 16), (17, 90), (33, 8), (100, 71)]
)
def test_a_quilt_has_the_size_that_was_asked_for(height: int, width: int, tileable: bool) -> None:
    exemplar, start = sample("grass", 40), begin(height, width)
    if tileable and min(height, width) < 6:
        with pytest.raises(InvalidParameter, match="less than two overlaps of 3 px"):
            quilt(exemplar, start, block=16, tileable=True)
        return
    quilted = quilt(exemplar, start, block=16, tileable=tileable)
    assert quilted.pixels.shape == (3, height, width)
    assert (quilted.sources >= 0).all()


@pytest.mark.parametrize(
    ("block", "overlap", "words", "pointer"),
    [
        (41, None, "exemplar is 40x40 px, smaller than a block of 41x41 px", "/params/block"),
        (2, None, "block is 2 px", "/params/block"),
        (18, 7, "overlap is 7 px; for blocks of 18 px it is 1..6 px", "/params/overlap"),
        (18, 0, "overlap is 0 px", "/params/overlap"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(
    block: int, overlap: int | None, words: str, pointer: str
) -> None:
    with pytest.raises(InvalidParameter) as refused:
        quilt(torch.rand(3, 40, 40), begin(75, 75), block=block, overlap=overlap)
    assert words in refused.value.detail
    assert refused.value.pointer == pointer
