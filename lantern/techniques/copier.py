"""Copying textures: pixels or blocks of an exemplar, laid so that they fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lantern.checkpoint import Checkpoints, restoring
from lantern.image import Image
from lantern.progress import Progress, Step
from lantern.texture.growth import grow
from lantern.texture.quilting import QuiltState, quilt, unlaid
from lantern.texture.sources import Texture
from lantern.texture.starts import GrowthState, seeded

if TYPE_CHECKING:
    from lantern.techniques.texture_synthesis import TextureSynthesisParams


@dataclass(frozen=True)
class Copier:
    """All that copying textures from exemplars needs."""

    params: TextureSynthesisParams
    exemplars: Sequence[Image]
    progress: Progress
    generator: torch.Generator
    checkpoints: Checkpoints

    def copied(self) -> list[Image]:
        """Copy pixels or blocks from each exemplar in turn."""
        kept = self.checkpoints.restore_tensors() or {}
        done = [kept[name] for name in sorted(n for n in kept if n.startswith("picture-"))]
        unfinished = {n: tensor for n, tensor in kept.items() if not n.startswith("picture-")}
        for place in range(len(done), len(self.exemplars)):
            done.append(self._copy(place, unfinished, done).pixels)
            unfinished = {}
        return [Image(pixels) for pixels in done]

    def _copy(self, place: int, unfinished: dict[str, Tensor], done: Sequence[Tensor]) -> Texture:
        exemplar, params = self.exemplars[place].pixels, self.params
        watch = self._watch(exemplar, place, done)
        if params.method == "growth":
            with restoring():
                start = (
                    GrowthState.from_state(unfinished)
                    if unfinished
                    else seeded(exemplar, params.height, params.width, generator=self._own(place))
                )
            return grow(
                exemplar, start, window=params.window, nearest=params.nearest,
                tileable=params.tileable, progress=watch,
            )  # fmt: skip
        with restoring():
            laid = (
                QuiltState.from_state(unfinished)
                if unfinished
                else unlaid(params.height, params.width, generator=self._own(place))
            )
        return quilt(exemplar, laid, block=params.block, tileable=params.tileable, progress=watch)

    def _own(self, place: int) -> torch.Generator:
        """Return the generator of one texture, the same in a run that was resumed."""
        draws = torch.randint(2**31, (place + 1,), generator=self.generator.clone_state())
        return torch.Generator().manual_seed(int(draws[place]))

    def _watch(
        self, exemplar: Tensor, place: int, done: Sequence[Tensor]
    ) -> Callable[[int, int, GrowthState | QuiltState], None]:
        def watch(made: int, total: int, state: GrowthState | QuiltState) -> None:
            step = Step(
                place * total + made, len(self.exemplars) * total, 1 - made / total,
                lambda: Image(state.pixels(exemplar)),
            )  # fmt: skip
            self.progress(step)
            finished = {f"picture-{n:02d}": pixels for n, pixels in enumerate(done)}
            self.checkpoints.keep_tensors(lambda: finished | state.state())

        return watch
