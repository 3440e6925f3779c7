"""What a network says of pictures that differ from one picture in a small box, found quickly."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from lantern.errors import LanternError
from lantern.layers import followed
from lantern.vision_model import LOGITS, SHORTEST, TOGETHER, VisionModel

Box = tuple[int, int, int, int]
"""Top, bottom, left and right, px."""

# Changes that pass together from a cut on, where maps are small.
BATCH = 16
# How many of the most promising layers are tried, and how much they must promise (share).
TRIED, WORTH = 8, 0.9
# Relative difference of the class scores up to which two ways are the same.
EXACT = 1e-5


@dataclass(frozen=True)
class _Cut:
    """A layer before which only the surroundings of a box are computed.

    `half` is how far its values look, and `side` what is computed of the picture, px.
    """

    layer: str
    stride: int
    half: int
    side: int


class LocalChange:
    """Logits of one picture `[1,3,S,S]` changed in boxes of at most `most` px a side.

    What lies early in a network looks at small patches: there only a crop around the box is run,
    and laid into what the network made of the whole picture. It is done where it pays, and only at
    a layer where it was seen to give the same numbers, for noise: of a picture that is even or
    symmetric wrong ones may be the same too. `S` is the network's own size.

    Source: the idea of Nakandala et al. 2019, "Incremental and Approximate Inference for Faster
    Occlusion-based Deep CNN Explanations" (Krypton), section 4.
    """

    def __init__(self, model: VisionModel, pixels: Tensor, boxes: Sequence[Box]) -> None:
        self._model, self._pixels = model, pixels
        self._crops = _Crops(model, pixels)
        most = max(max(bottom - top, right - left) for top, bottom, left, right in boxes)
        # what was found of the network, by the largest box
        known: dict[int, _Cut | None] = model.once("cuts", dict)
        if most not in known:
            known[most] = _find(model, most)
        self._cut = known[most]

    @property
    def layer(self) -> str | None:
        """The layer before which only crops are run; None where whole pictures are."""
        return self._cut.layer if self._cut else None

    @torch.inference_mode()
    def logits(self, filling: Tensor, boxes: Sequence[Box]) -> Tensor:
        """Return the logits `[P,C]` of the picture with each box replaced by that of `filling`."""
        count = TOGETHER if self._cut is None else BATCH
        some = [boxes[at : at + count] for at in range(0, len(boxes), count)]
        if self._cut is None:
            return torch.cat([self._model.logits(covered(self._pixels, filling, b)) for b in some])
        return torch.cat([self._crops.logits(self._cut, filling, b) for b in some])


class _Crops:
    """Runs the surroundings of boxes up to a cut, and all of the picture `[1,3,S,S]` from there."""

    def __init__(self, model: VisionModel, pixels: Tensor) -> None:
        self._model, self._pixels = model, pixels
        self._whole: dict[str, Tensor] = {}

    def logits(self, cut: _Cut, filling: Tensor, boxes: Sequence[Box]) -> Tensor:
        """Return the logits `[P,C]` of the picture with each box replaced by that of `filling`."""
        pictures = covered(self._pixels, filling, boxes)
        corners = [(self._start(cut, b[0], b[1]), self._start(cut, b[2], b[3])) for b in boxes]
        crops = torch.stack(
            [
                picture[:, down : down + cut.side, right : right + cut.side]
                for picture, (down, right) in zip(pictures, corners, strict=True)
            ]
        )
        with self._model.capture([cut.layer]) as features:
            if cut.layer not in self._whole:
                self._whole[cut.layer] = features(self._pixels)[cut.layer]
            parts = features(crops)[cut.layer]
        whole = self._whole[cut.layer]
        laid = whole.repeat(len(boxes), 1, 1, 1)
        for row, (box, (down, right)) in enumerate(zip(boxes, corners, strict=True)):
            rows = _touched(cut, box[0], box[1], whole.shape[2])
            columns = _touched(cut, box[2], box[3], whole.shape[3])
            laid[row, :, rows, columns] = parts[
                row, :, _less(rows, down // cut.stride), _less(columns, right // cut.stride)
            ]
        with self._model.substitute(cut.layer) as tail:
            # nothing that comes before the cut goes on, so that the smallest pictures will do
            return tail(self._pixels.new_zeros(len(boxes), 3, SHORTEST, SHORTEST), laid)

    def _start(self, cut: _Cut, low: int, high: int) -> int:
        """Return where a crop begins, on the layer's grid, so that it has all that is needed."""
        span = _touched(cut, low, high, self._pixels.shape[-1] // cut.stride)
        first = (span.start * cut.stride - cut.half) // cut.stride * cut.stride
        return int(max(0, min(first, self._pixels.shape[-1] - cut.side)))


def _find(model: VisionModel, most: int) -> _Cut | None:
    """Choose the layer that saves most, of those where the numbers are the same."""
    costs, side = model.costs(), model.input_size
    promising: list[tuple[float, _Cut]] = []
    for layer in followed(model.network, model.prepared(model.noise(1))):
        size, stride = layer.receptive_field, layer.stride
        if size is None or stride is None or side % stride or layer.name not in costs:
            continue
        half = size // 2 + stride
        needed = -(-(most + 4 * half + 2 * stride) // stride) * stride
        if needed < side:
            before = costs[layer.name] / costs[LOGITS]
            share = before * (needed / side) ** 2 + before / BATCH + 1 - before
            promising.append((share, _Cut(layer.name, stride, half, needed)))
    promising.sort(key=lambda entry: entry[0])
    for share, cut in promising[:TRIED]:
        if share < WORTH and _is_exact(model, cut, most):
            return cut
    return None


@torch.inference_mode()
def _is_exact(model: VisionModel, cut: _Cut, most: int) -> bool:
    """Tell whether a cut gives the numbers of the whole: paths around it would not."""
    both = model.noise(2)
    pixels, filling = both[:1], both[1:]
    # in a corner the border takes part
    middle = (model.input_size - most) // 2
    boxes = [(start, start + most, start, start + most) for start in (middle, 0)]
    wanted = model.logits(covered(pixels, filling, boxes))
    with suppress(RuntimeError, LanternError):
        found = _Crops(model, pixels).logits(cut, filling, boxes)
        return bool((found - wanted).abs().max() <= EXACT * wanted.abs().max())
    return False


def covered(pixels: Tensor, filling: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Return a picture `[1,3,H,W]` with each box replaced by that of `filling`, `[P,3,H,W]`."""
    pictures = pixels.repeat(len(boxes), 1, 1, 1)
    for row, (top, bottom, left, right) in enumerate(boxes):
        pictures[row, :, top:bottom, left:right] = filling[0, :, top:bottom, left:right]
    return pictures


def _touched(cut: _Cut, low: int, high: int, count: int) -> slice:
    """Return the positions of the layer, of `count`, that may look at the pixels `low:high`."""
    first, last = (low - cut.half) // cut.stride, (high + cut.half) // cut.stride + 1
    return slice(max(0, first), min(count, last))


def _less(span: slice, by: int) -> slice:
    return slice(span.start - by, span.stop - by)
