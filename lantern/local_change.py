"""What a network says of pictures that differ from one picture in a small box, found quickly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lantern.errors import LanternError
from lantern.folding import joined
from lantern.layers import necks
from lantern.scores import is_close
from lantern.vision_model import LOGITS, SHORTEST, TOGETHER, VisionModel

Box = tuple[int, int, int, int]
"""Top, bottom, left and right, px."""

# Changes that pass together where only parts of maps, or small maps, are run.
BATCH = 16
# What parting a network once more costs, as a share of a whole pass.
PARTING = 0.01
# Of fewer changes the search for the layers takes longer than it saves.
FEW = 32
# How often other layers are tried, and what the best must promise (share of whole passes).
TRIED, WORTH = 8, 0.9


@dataclass(frozen=True)
class _Cut:
    """A layer of `count` x `count` values, `stride` px apart, each of which looks at `size` px.

    The first value looks at pixels from `first` on, before the picture where that is padded.
    """

    layer: str
    first: int
    size: int
    stride: int
    count: int

    def touched(self, low: int, high: int) -> slice:
        """Return the positions that look at the pixels `low:high`."""
        start = -(-(low - self.first - self.size + 1) // self.stride)
        return slice(max(0, start), min(self.count, (high - 1 - self.first) // self.stride + 1))


@dataclass(frozen=True)
class _Stage:
    """A cut that is computed from crops of `side` px of what the one before has made."""

    cut: _Cut
    before: _Cut
    side: int

    def corner(self, low: int, high: int, picture: int) -> int:
        """Return where the crop for changed pixels `low:high` begins, on the cut's grid, px."""
        stride = self.cut.stride
        first: int = self.cut.touched(low, high).start * stride
        first += self.cut.first - self.before.first
        return max(0, min(first // stride * stride, picture - self.side))


class LocalChange:
    """Logits of one picture `[1,3,S,S]` changed in boxes of at most `most` px a side.

    What lies early in a network looks at small patches: there only a crop around the box is run,
    and laid into what the network made of the whole picture; from one layer to the next crops grow
    until they are the whole. It is done where it pays, and only at layers where it was seen to give
    the same numbers, for noise: of a picture that is even or symmetric wrong ones may be the same
    too. `S` is the network's own size.

    Source: the idea of Nakandala et al. 2019, "Incremental and Approximate Inference for Faster
    Occlusion-based Deep CNN Explanations" (Krypton), section 4.
    """

    def __init__(self, model: VisionModel, pixels: Tensor, boxes: Sequence[Box]) -> None:
        is_worth_it = len(boxes) >= FEW
        if is_worth_it:
            model = model.once("joined", partial(_joined, model))
        self._model, self._pixels = model, pixels
        most = max(max(bottom - top, right - left) for top, bottom, left, right in boxes)
        # what was found of the network, by the largest box
        known: dict[int, tuple[_Stage, ...]] = model.once("stages", dict)
        if is_worth_it and most not in known:
            known[most] = _find(model, most)
        self._stages = known[most] if is_worth_it else ()
        self._crops = _Crops(model, pixels, self._stages)

    @property
    def network(self) -> nn.Module:
        """The network that is run: the model's own, or its twin with less to copy."""
        return self._model.network

    @property
    def layers(self) -> list[str]:
        """The layers before which only crops are run; none where whole pictures are."""
        return [stage.cut.layer for stage in self._stages]

    @torch.inference_mode()
    def logits(self, filling: Tensor, boxes: Sequence[Box]) -> Tensor:
        """Return the logits `[P,C]` of the picture with each box replaced by that of `filling`."""
        count = BATCH if self._stages else TOGETHER
        some = [boxes[at : at + count] for at in range(0, len(boxes), count)]
        if self._stages:
            return torch.cat([self._crops.logits(filling, few) for few in some])
        return torch.cat([self._model.logits(covered(self._pixels, filling, b)) for b in some])


class _Crops:
    """Runs the surroundings of boxes from stage to stage, and all of the picture from the last."""

    def __init__(self, model: VisionModel, pixels: Tensor, stages: Sequence[_Stage]) -> None:
        self._model, self._pixels, self._stages = model, pixels, stages
        self._side = pixels.shape[-1]
        self._whole: dict[str, Tensor] = {}

    def logits(self, filling: Tensor, boxes: Sequence[Box]) -> Tensor:
        """Return the logits `[P,C]` of the picture with each box replaced by that of `filling`."""
        if not self._whole:
            with self._model.capture([stage.cut.layer for stage in self._stages]) as features:
                self._whole = features(self._pixels)
        first, *others = self._stages
        crops = covered(self._pixels, filling, boxes)
        crops = _cropped(crops, self._windows(first, boxes, 1))
        with self._model.capture([first.cut.layer]) as features:
            parts = features(crops)[first.cut.layer]
        for before, stage in zip(self._stages, others, strict=False):
            crops = self._laid(before, parts, boxes, self._windows(stage, boxes, before.cut.stride))
            parts = _onward(self._model, before.cut.layer, crops, stage.cut.layer)
        last = self._stages[-1]
        everything = (slice(0, last.cut.count),) * 2
        laid = self._laid(last, parts, boxes, [everything] * len(boxes))
        return _onward(self._model, last.cut.layer, laid, LOGITS)

    def _windows(
        self, stage: _Stage, boxes: Sequence[Box], stride: int
    ) -> list[tuple[slice, slice]]:
        """Return the crop of a stage for each box, in positions `stride` px apart."""

        def window(low: int, high: int) -> slice:
            corner = stage.corner(low, high, self._side)
            return slice(corner // stride, (corner + stage.side) // stride)

        return [(window(*box[:2]), window(*box[2:])) for box in boxes]

    def _laid(
        self, stage: _Stage, parts: Tensor, boxes: Sequence[Box],
        windows: Sequence[tuple[slice, slice]],
    ) -> Tensor:  # fmt: skip
        """Return windows of a stage's maps of the changed pictures, `[P,C,h,w]`.

        `parts` `[P,C,h,w]` are what the stage made of its crops; of them only what changes, which
        has its surroundings, is laid into the maps of the whole picture.
        """
        whole = self._whole[stage.cut.layer]
        laid = torch.cat([whole[:, :, rows, columns] for rows, columns in windows])
        crops = self._windows(stage, boxes, stage.cut.stride)
        for row, (box, window, crop) in enumerate(zip(boxes, windows, crops, strict=True)):
            rows, columns = stage.cut.touched(*box[:2]), stage.cut.touched(*box[2:])
            laid[row, :, _less(rows, window[0].start), _less(columns, window[1].start)] = parts[
                row, :, _less(rows, crop[0].start), _less(columns, crop[1].start)
            ]
        return laid


def _joined(model: VisionModel) -> VisionModel:
    """Return the same network with less to copy, which makes the same of noise, to the bit."""
    return model.around(joined(model.network, model.prepared(model.noise(2))))


def _onward(model: VisionModel, layer: str, maps: Tensor, end: str) -> Tensor:
    """Return what a network makes of maps of one layer at another."""
    with model.substitute(layer, end) as run:
        # nothing that comes before the layer goes on, so that the smallest pictures will do; as
        # many as maps, for a network that asks for their number
        return run(maps.new_zeros(len(maps), 3, SHORTEST, SHORTEST), maps)


def _find(model: VisionModel, most: int) -> tuple[_Stage, ...]:
    """Choose the stages that save most, of those where the numbers are the same."""
    cuts = model.once("cuts", lambda: _cuts(model))
    for _ in range(TRIED):
        stages = _cheapest(cuts, _shares(model), most, model.input_size)
        if not stages or _is_exact(model, stages, most):
            return stages
        alone = {stage.cut: _stage(stage.cut, _pixels(model.input_size), most) for stage in stages}
        wrong = {cut for cut, one in alone.items() if not (one and _is_exact(model, (one,), most))}
        cuts = [cut for cut in cuts if cut not in (wrong or alone)]
    return ()


def _cuts(model: VisionModel) -> list[_Cut]:
    """Find the layers through which all passes, and what their values look at."""
    return [
        _Cut(layer.name, layer.offset, layer.receptive_field, layer.stride, layer.shape[1])
        for layer in necks(model.network, model.prepared(model.noise(1)))
        if layer.offset is not None and layer.receptive_field and layer.stride
        and layer.name in model.costs() and model.input_size % layer.stride == 0
    ]  # fmt: skip


def _shares(model: VisionModel) -> dict[str, float]:
    """Return the share of a pass that ends at a layer: of its operations and of what it writes."""
    costs, tapes = model.costs(), model.tapes()
    return {name: (costs[name] / costs[LOGITS] + tapes[name] / tapes[LOGITS]) / 2 for name in costs}


def _cheapest(
    cuts: Sequence[_Cut], shares: Mapping[str, float], most: int, side: int
) -> tuple[_Stage, ...]:
    """Return the stages by which a change of `most` px costs least; none where nothing is saved."""
    # what the maps of a cut cost, and by which stages
    best: dict[_Cut, tuple[float, tuple[_Stage, ...]]] = {_pixels(side): (0.0, ())}
    cheapest: tuple[float, tuple[_Stage, ...]] = WORTH, ()
    for cut in sorted(cuts, key=lambda cut: shares[cut.layer]):
        ways = []
        for before, (spent, stages) in best.items():
            # crops of maps lie where those of the picture do if convolutions pad what they lose
            is_grid = before.count * before.stride == side
            stage = _stage(cut, before, most) if is_grid else None
            if stage is not None and stage.side < side:
                share = shares[cut.layer] - shares.get(before.layer, 0.0)
                crops = share * (stage.side / side) ** 2
                ways.append((spent + crops + PARTING, (*stages, stage)))
        if ways:
            spent, stages = best[cut] = min(ways, key=lambda way: way[0])
            whole = spent + 1 - shares[cut.layer]
            cheapest = min(cheapest, (whole, stages), key=lambda way: way[0])
    return cheapest[1]


def _pixels(side: int) -> _Cut:
    """Return the pixels of a picture as if a layer had made them."""
    return _Cut("", 0, 1, 1, side)


def _stage(cut: _Cut, before: _Cut, most: int) -> _Stage | None:
    """Return the stage of a cut after another; None where it cannot follow."""
    if cut.stride % before.stride or cut.size <= before.size:
        return None
    values = (most + cut.size - 2) // cut.stride + 1  # that a change touches at most
    needed = values * cut.stride + cut.size - before.size
    return _Stage(cut, before, -(-needed // cut.stride) * cut.stride)


@torch.inference_mode()
def _is_exact(model: VisionModel, stages: tuple[_Stage, ...], most: int) -> bool:
    """Tell whether stages give the numbers of the whole: paths around a cut would not."""
    both = model.noise(2)
    pixels, filling = both[:1], both[1:]
    # in a corner the border takes part
    middle = (model.input_size - most) // 2
    boxes = [(start, start + most, start, start + most) for start in (middle, 0)]
    wanted = model.logits(covered(pixels, filling, boxes))
    with suppress(RuntimeError, LanternError):
        return is_close(_Crops(model, pixels, stages).logits(filling, boxes), wanted)
    return False


def _cropped(pictures: Tensor, windows: Sequence[tuple[slice, slice]]) -> Tensor:
    return torch.stack(
        [
            picture[:, rows, columns]
            for picture, (rows, columns) in zip(pictures, windows, strict=True)
        ]
    )


def covered(pixels: Tensor, filling: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Return a picture `[1,3,H,W]` with each box replaced by that of `filling`, `[P,3,H,W]`."""
    pictures = pixels.repeat(len(boxes), 1, 1, 1)
    for row, (top, bottom, left, right) in enumerate(boxes):
        pictures[row, :, top:bottom, left:right] = filling[0, :, top:bottom, left:right]
    return pictures


def _less(span: slice, by: int) -> slice:
    return slice(span.start - by, span.stop - by)
