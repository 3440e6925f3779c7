"""One network with its normalisation, its layer names and safe ways to look inside."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lantern.cutting import NotCut, cut, replaced
from lantern.errors import InvalidParameter, one_of
from lantern.folding import Twins
from lantern.framing import Framing, scale_box
from lantern.image import Image
from lantern.layout import MAPS, Layout, has_tokens
from lantern.scores import Scores, probabilities
from lantern.watching import NeverRan, watching
from lantern.work import WHOLE, LayerFacts, survey

T = TypeVar("T")

# Of a shorter side (px) some networks' convolutions and pools leave nothing.
SHORTEST = 32
# Pictures of a network's own size that pass together: with more, what a layer has made leaves the
# cache of a CPU before the next one reads it (half as fast with 16, measured).
TOGETHER = 4
# Shares of red, green and blue in grey (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
# The name under which class scores are captured.
LOGITS = WHOLE


class VisionModel:
    """A classifier that owns its preprocessing: pixels `[N,3,H,W]` in 0..1 in, logits `[N,C]` out.

    `scores` says what makes probabilities of these.
    The network is in evaluation mode and its parameters never receive gradients. Everything that
    hooks into it is a context manager that leaves no trace, also after an exception.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        input_size: int,
        resize_size: int,
        labels: Sequence[str],
        weights_sha256: str = "",
        style_layers: Sequence[str] = (),
        content_layers: Sequence[str] = (),
        dream_layer: str = "",
        cam_layer: str = "",
        any_size: bool = True,
        scores: Scores = "softmax",
    ) -> None:
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.input_size = input_size
        self.resize_size = resize_size
        self.labels = tuple(labels)
        self.weights_sha256 = weights_sha256
        self.style_layers = tuple(style_layers)
        self.content_layers = tuple(content_layers)
        self.dream_layer = dream_layer
        self.cam_layer = cam_layer
        self.any_size = any_size
        self.scores = scores
        self._mean = torch.tensor(mean).view(1, -1, 1, 1)
        self._std = torch.tensor(std).view(1, -1, 1, 1)
        self._modules: dict[str, nn.Module] = {n: m for n, m in network.named_modules() if n}
        self._surveyed: dict[str, LayerFacts] = {}
        # threads share a network and its twins; a survey hooks into it and lends it values
        self._surveying = threading.Lock()
        self._has_tokens = has_tokens(network)
        # what was made of this network and is to live as long as it does
        self.kept: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next(self.network.parameters()).device

    @property
    def scale(self) -> Tensor:
        """What one unit of the normalised input is in pixels 0..1, `[1,C,1,1]`, `C` 1 or 3."""
        return self._std

    @property
    def grey(self) -> Tensor:
        """The pixel 0..1 that is zero once normalised, `[1,C,1,1]`, `C` 1 or 3."""
        return self._mean

    def copy(self) -> VisionModel:
        """Return the same network with weights of its own, which may be changed."""
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> VisionModel:
        """Copy the network; what was made of it is made anew."""
        return self.around(copy.deepcopy(self.network, memo))

    def quick(self, layers: Sequence[str] = ()) -> VisionModel:
        """Return the same network with batch norms folded and channels last: nearly twice as quick.

        Of the layers only `layers` may be looked at. Values differ by rounding, which switches some
        units that are nearly zero: a single gradient by the pixels may differ by a hundredth of its
        largest value, what is optimised does not. See docs/decisions/0016.
        """
        twins = self.once("twins", lambda: Twins(self.network, self.prepared(self.noise(1))))
        return self.around(twins.twin(layers))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what was made of this network under a name; it is made when first asked for."""
        if name not in self.kept:
            self.kept[name] = make()
        made: T = self.kept[name]
        return made

    def together(self, side: int) -> int:
        """Return how many pictures of a side (px) pass through it at once at the best speed."""
        few = 16 * TOGETHER if self.device.type == "cuda" else TOGETHER
        return max(1, round(few * self.input_size**2 / side**2))

    def noise(self, count: int) -> Tensor:
        """Return always the same pixels `[N,3,S,S]`, for which no unit is dead."""
        chance, side = torch.Generator().manual_seed(0), self.input_size
        return torch.rand(count, 3, side, side, generator=chance).to(self.device)

    def around(self, network: nn.Module) -> VisionModel:
        """Return this with another network in it."""
        twin = copy.copy(self)
        twin.network = network
        twin._modules = {name: module for name, module in network.named_modules() if name}
        twin.kept = {}
        return twin

    def to(self, device: torch.device | str) -> VisionModel:
        """Move network and normalisation to `device`, in place."""
        self.network.to(device)
        self.kept, self._mean, self._std = {}, self._mean.to(device), self._std.to(device)
        return self

    def frame(self, image: Image, fit: str = "squash") -> Framing:
        """Lay a picture into the network's square field of view, pixels `[1,3,S,S]`.

        `squash` shows the whole picture at the cost of its aspect ratio; `crop` is the usual test
        protocol: short side to `resize_size`, then the central square.
        """
        size = self.input_size
        if fit == "squash":
            pixels = image.resize(size, size).pixels
            box = (0, 0, image.height, image.width)
        else:
            scaled = image.cover(self.resize_size)
            top, left = (scaled.height - size) // 2, (scaled.width - size) // 2
            pixels = scaled.crop(top, left, size, size).pixels
            box = scale_box((top, left, size, size), image, scaled)
        return Framing(pixels[None].to(self.device), box, (image.height, image.width))

    def fit(self, image: Image, longest: int, *, pointer: str = "/params/size") -> Image:
        """Shrink a picture so that its longer side is at most `longest` pixels.

        Raises:
            InvalidParameter: the shorter side would be too short for the network's layers.
        """
        fitted = image.fit(longest)
        if min(fitted.height, fitted.width) < SHORTEST:
            raise InvalidParameter(
                f"the picture would be {fitted.width}x{fitted.height} px; networks need at least "
                f"{SHORTEST} px a side: choose a larger size, or enlarge or crop the picture",
                pointer=pointer,
            )
        return fitted

    def logits(self, pixels: Tensor) -> Tensor:
        """Class scores before softmax or sigmoid, `[N,C]`, for pixels `[N,3,H,W]` in 0..1."""
        out: Tensor = self.network(self.prepared(pixels))
        return out

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability 0..1 of each class from logits `[N,C]`."""
        return probabilities(logits, self.scores)

    def prepared(self, pixels: Tensor) -> Tensor:
        """Return pixels `[N,3,H,W]` in 0..1 as the network takes them, of one channel or three.

        Raises:
            InvalidParameter: they have another size than the one the network takes.
        """
        size = (pixels.shape[2], pixels.shape[3])
        self.check_sizes([size], "choose another network", pointer="/params/model")
        if self._mean.shape[1] == 1:
            weights = pixels.new_tensor(LUMA).view(1, 3, 1, 1)
            pixels = (pixels * weights).sum(1, keepdim=True)
        return (pixels - self._mean) / self._std

    def check_sizes(self, sizes: Iterable[tuple[int, int]], remedy: str, *, pointer: str) -> None:
        """Make sure that the network takes pictures of such sizes (height, width).

        Raises:
            InvalidParameter: it has a size of its own, and one is another; tells the remedy.
        """
        own = self.input_size
        wrong = None if self.any_size else next((s for s in sizes if s != (own, own)), None)
        if wrong is not None:
            raise InvalidParameter(
                f"{self.name} takes pictures of {own}x{own} px alone, and this would show it one "
                f"of {wrong[1]}x{wrong[0]} px; {remedy}",
                pointer=pointer,
            )

    def check_side(self, side: int) -> None:
        """Make sure that the network takes squares of the parameter `size`, as `check_sizes`."""
        remedy = f"choose size={self.input_size}, or another network"
        self.check_sizes([(side, side)], remedy, pointer="/params/size")

    def layer(self, name: str, *, pointer: str = "/params/layer") -> nn.Module:
        """Find a layer by its dotted name.

        Raises:
            UnknownName: the network has no such layer.
        """
        if name not in self._modules:
            raise one_of("layer", name, self._modules, pointer=pointer)
        return self._modules[name]

    def label(self, index: int) -> str:
        """Name a class, or its number where the network has no labels."""
        return self.labels[index] if index < len(self.labels) else str(index)

    def shape(self, name: str, *, pointer: str = "/params/layer") -> tuple[int, ...]:
        """Return the shape of a layer's output for one picture of the network's own size.

        Raises:
            UnknownName: the network has no such layer.
            InvalidParameter: the layer only holds others and never runs itself.
        """
        if name != LOGITS:
            self.layer(name, pointer=pointer)
        found = self._survey().get(name)
        if found is None:
            raise _never_runs(name, pointer)
        return found.shape

    def channel_count(self, name: str, *, pointer: str = "/params/layer") -> int:
        """Return how many channels a layer has; of `LOGITS`, how many classes there are."""
        return self.shape(name, pointer=pointer)[0]

    def check_positions(self, name: str, *, pointer: str = "/params/layer") -> None:
        """Make sure that a layer has maps, not one vector for a whole picture.

        Raises:
            UnknownName: the network has no such layer.
            InvalidParameter: the layer has none, or only holds others and never runs itself.
        """
        if len(self.shape(name, pointer=pointer)) != 3:
            raise InvalidParameter(
                f"layer {name} has no positions, but one vector for the whole picture; choose one "
                "before it",
                pointer=pointer,
            )

    def stride(self, name: str, *, pointer: str = "/params/layer") -> int:
        """Return how many pixels a position of a layer stands for, a power of two.

        Convolutions without padding lose a few positions. Errors are those of `shape`.
        """
        positions = min(self.shape(name, pointer=pointer)[1:], default=1)
        return int(2 ** max(0, round(math.log2(self.input_size / positions))))

    def positions(self, name: str, pixels: float) -> float:
        """Return how many positions a layer has in so many pixels."""
        return math.prod(self.shape(name)[1:]) * pixels / self.input_size**2

    def held(self, names: Iterable[str], pixels: float) -> float:
        """Return the bytes of what layers make of so many pixels."""
        return sum(4 * self.channel_count(name) * self.positions(name, pixels) for name in names)

    def costs(self) -> dict[str, float]:
        """Return the operations of a forward pass, by the layer it ends at."""
        return {name: facts.operations for name, facts in self._survey().items()}

    def tapes(self) -> dict[str, float]:
        """Return about how many bytes a gradient needs, by the layer a forward pass ends at."""
        return {name: facts.tape for name, facts in self._survey().items()}

    def _survey(self) -> dict[str, LayerFacts]:
        with self._surveying:
            if not self._surveyed:
                self._surveyed = survey(self.network, self._mean.shape[1], self.input_size)
        return self._surveyed

    def _layout(self, name: str) -> Layout:
        """Return how a layer lays out its maps; only networks of tokens need to be asked."""
        facts = self._survey().get(name) if self._has_tokens else None
        return facts.layout if facts else MAPS

    @property
    def class_count(self) -> int:
        """How many classes the network tells apart."""
        return self.channel_count(LOGITS)

    def check_class(self, index: int, classes: int, *, pointer: str = "/params/target") -> int:
        """Return `index` if the network has that class.

        Raises:
            InvalidParameter: the network has no such class.
        """
        if not 0 <= index < classes:
            raise InvalidParameter(
                f"target is {index}; {self.name} has the classes 0 to {classes - 1}",
                pointer=pointer,
            )
        return index

    @contextmanager
    def capture(
        self, names: Sequence[str], *, pointer: str = "/params/layer"
    ) -> Iterator[Callable[[Tensor], dict[str, Tensor]]]:
        """Yield a function: pixels `[N,3,H,W]` -> the first output of each named layer.

        Tokens and maps with channels last are given as maps `[N,C,h,w]`. The forward pass ends at
        the deepest layer asked for; `LOGITS` names the class scores. An output that a later layer
        writes over in place is given as it was.

        Raises:
            UnknownName: the network has no such layer.
            InvalidParameter: (the function) a layer only holds others and never runs itself.
        """
        wanted = set(names) - {LOGITS}
        layouts = {name: self._layout(name) for name in wanted} | {LOGITS: MAPS}
        layers = {name: self.layer(name, pointer=pointer) for name in wanted}
        with watching(layers, self.logits, with_last=LOGITS if LOGITS in names else "") as look:

            def run(pixels: Tensor) -> dict[str, Tensor]:
                try:
                    seen = look(pixels)
                except NeverRan as error:
                    raise _never_runs(error.name, pointer) from None
                return {name: layouts[name].maps(made) for name, made in seen.items()}

            yield run

    @contextmanager
    def tail(self, name: str) -> Iterator[Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """Yield a function: pixels -> (maps of `name`, logits), joined by the graph.

        Gradients begin at the layer: what lies before it runs without a graph, so the backward
        pass from a logit to the activation touches only the tail of the network.

        Raises:
            UnknownName: the network has no such layer.
            InvalidParameter: (the function) the layer only holds others and never runs itself.
        """
        with cut(self.layer(name), self._layout(name), self.logits) as look:

            def run(pixels: Tensor) -> tuple[Tensor, Tensor]:
                try:
                    return look(pixels)
                except NotCut:
                    raise _never_runs(name, "/params/layer") from None

            yield run

    @contextmanager
    def substitute(
        self, name: str, end: str = LOGITS
    ) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
        """Yield a function: pixels `[N,3,H,W]`, maps `[B,...]` of `name` -> those of `end`.

        What lies before the layer runs for the pixels, what lies behind it for the activations. One
        picture serves all of these, where the network allows it.

        Raises:
            UnknownName: the network has no such layer.
        """
        with replaced(self.layer(name), self._layout(name), self.logits) as tail:
            if end == LOGITS:
                yield tail
                return
            layers, layout = {end: self.layer(end)}, self._layout(end)

            def run(pixels: Tensor, activations: Tensor) -> Tensor:
                with watching(layers, lambda given: tail(pixels, given)) as look:
                    return layout.maps(look(activations)[end])

            yield run


def _never_runs(name: str, pointer: str) -> InvalidParameter:
    return InvalidParameter(
        f"layer {name} only holds other layers; choose one of those inside it", pointer=pointer
    )
