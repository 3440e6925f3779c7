"""Texture grown pixel by pixel, each copied from where the exemplar looks alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.errors import InvalidParameter
from lantern.texture.frontier import frontier, turns
from lantern.texture.matching import near_best, window_distances
from lantern.texture.sources import Texture, resumed, unwatched
from lantern.texture.starts import SEED, GrowthState

# What the error threshold is raised by when no match was as good.
RAISE = 1.1
# The window's weights fall off with a standard deviation of its side over this.
SIGMAS = 6.4
# Pixels and operations of one pass, and distances held at once: they bound memory and the time to
# a cancel. The paper goes over all pixels beside the known ones before it looks which these are.
MAX_PASS, MAX_OPERATIONS = 512, 1e12
MAX_DISTANCES = 2**22


def grow(
    exemplar: Tensor,
    start: GrowthState,
    *,
    window: int,
    nearest: bool = False,
    tileable: bool = False,
    usable: Tensor | None = None,
    progress: Callable[[int, int, GrowthState], None] = unwatched,
) -> Texture:
    """Grow a texture outwards from what is known, each pixel copied from the `exemplar` `[3,h,w]`.

    A pixel is taken from a place drawn among those whose `window` of that many rows and columns
    looks nearly as much like the pixel's own as the best, or with `nearest` from the best. The
    windows of a `tileable` texture go on beyond an edge at the opposite one. Only windows of the
    exemplar that lie in `usable`, bool `[h,w]`, are looked at. `start` is left as it is.

    `progress` is called after each pass with the pixels known, all there will be, and the state; it
    may raise to stop. A run from that state ends in the same bytes.

    Source: Efros and Leung 1999, "Texture Synthesis by Non-parametric Sampling". Pixels that do not
    see each other are found at once; the result is that of the paper's order, one by one. Departs
    in that a pass ends after 512 pixels or fewer, and that differences are means over the colours.

    Raises:
        InvalidParameter: the window is even, or the exemplar has none of that size; nothing is
            known to grow from.
    """
    growth = _Growth(exemplar, start, window, nearest, tileable, usable)
    while not growth.known.all():
        growth.extend()
        progress(int(growth.known.sum()), growth.known.numel(), growth.state())
    return Texture(growth.picture, growth.sources)


def growth_operations(exemplar: tuple[int, int], pixels: int, window: int) -> float:
    """Count the operations of growing so many pixels from an exemplar (height, width).

    Each is compared with every window of the exemplar, in three colours and its mask.
    """
    places = math.prod(max(1, side - window + 1) for side in exemplar)
    return float(pixels * places * window**2 * 4 * 2)


class _Growth:
    """A texture while it grows."""

    def __init__(
        self,
        exemplar: Tensor,
        start: GrowthState,
        window: int,
        nearest: bool,
        tileable: bool,
        usable: Tensor | None,
    ) -> None:
        _check_window(exemplar, window)
        self.known, self.sources = start.known, start.sources.clone()
        if not self.known.any():
            raise InvalidParameter("nothing is known to grow from; begin with at least one pixel")
        self.picture = start.pixels(exemplar)
        self._max_error, self._generator = start.max_error, resumed(start.generator)
        self._exemplar, self._window, self._reach = exemplar, window, window // 2
        self._nearest, self._tileable = nearest, tileable
        self._unusable = _unusable(exemplar, window, usable)
        self._weights = _gaussian(window)

    def state(self) -> GrowthState:
        return GrowthState(self.sources, self._generator.get_state(), self._max_error)

    def extend(self) -> None:
        """Make one pass over the pixels beside the known ones."""
        _, *size = self._exemplar.shape
        cost = growth_operations((size[0], size[1]), 1, self._window)
        height, width = self.known.shape
        most = max(1, min(MAX_PASS, int(MAX_OPERATIONS / cost)))
        pixels = frontier(self.known, self._generator, tileable=self._tileable)[:most]
        draws = torch.rand(len(pixels), generator=self._generator)
        at_once = max(1, MAX_DISTANCES // self._unusable.numel())
        before = self.known.sum()
        for turn in turns(pixels, height, width, self._reach, tileable=self._tileable):
            for some in torch.split(turn, at_once):
                self._find(pixels[some], draws[some])
        if self.known.sum() == before:
            self._max_error *= RAISE

    def _find(self, pixels: Tensor, draws: Tensor) -> None:
        """Take the pixels `[N,2]` from where their windows match, if they match well enough."""
        patches, known = self._windows(pixels)
        weights = (known * self._weights)[:, None]
        distances = window_distances(self._exemplar, patches, weights)
        distances = distances.masked_fill_(self._unusable, torch.inf).flatten(1)
        best = distances.argmin(1) if self._nearest else near_best(distances, draws)
        columns = self._unusable.shape[1]
        taken_from = torch.stack([best // columns, best % columns], dim=1) + self._reach
        is_good = distances.gather(1, best[:, None])[:, 0] < self._max_error
        self._put(pixels[is_good], taken_from[is_good])

    def _put(self, pixels: Tensor, taken_from: Tensor) -> None:
        rows, columns = pixels.unbind(1)
        self.known[rows, columns] = True
        self.sources[rows, columns] = taken_from.to(self.sources.dtype)
        self.picture[:, rows, columns] = self._exemplar[:, taken_from[:, 0], taken_from[:, 1]]

    def _windows(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the windows `[N,3,w,w]` around pixels, and what of them is known `[N,w,w]`."""
        height, width = self.known.shape
        steps = torch.arange(-self._reach, self._reach + 1)
        rows, columns = pixels[:, :1] + steps, pixels[:, 1:] + steps
        if self._tileable:
            rows, columns = rows % height, columns % width
        up, along = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        is_inside = (up == rows)[:, :, None] & (along == columns)[:, None, :]
        window = (up[:, :, None], along[:, None, :])
        return self.picture[:, *window].transpose(0, 1), self.known[window] & is_inside


def _gaussian(window: int) -> Tensor:
    steps = torch.arange(window) - window // 2
    fall = torch.exp(-0.5 * (steps / (window / SIGMAS)).square())
    return fall[:, None] * fall


def _unusable(exemplar: Tensor, window: int, usable: Tensor | None) -> Tensor:
    """Return which of the exemplar's windows may not be taken from, bool `[h-w+1,w-w+1]`."""
    if usable is None:
        usable = torch.ones(exemplar.shape[1:], dtype=torch.bool)
    unusable = F.max_pool2d((~usable).float()[None], window, stride=1)[0] > 0
    if unusable.all():
        raise InvalidParameter(
            f"no window of {window} px lies in what may be used of the exemplar; take a smaller "
            "window or allow more of the exemplar",
            pointer="/params/window",
        )
    return unusable


def _check_window(exemplar: Tensor, window: int) -> None:
    if window < SEED or window % 2 == 0:
        raise InvalidParameter(
            f"the window is {window} px; it must be odd and at least {SEED} px: "
            f"take {max(SEED, window + 1)}",
            pointer="/params/window",
        )
    height, width = exemplar.shape[1:]
    if min(height, width) < window:
        raise InvalidParameter(
            f"the exemplar is {width}x{height} px, smaller than the window of {window} px; take a "
            "smaller window or a larger exemplar",
            pointer="/params/window",
        )
