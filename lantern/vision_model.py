"""One network with its normalisation, its layer names and safe ways to look inside."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lantern.errors import InvalidParameter, one_of
from lantern.image import Image
from lantern.work import WHOLE, LayerFacts, survey

# Of a shorter side (px) some networks' convolutions and pools leave nothing.
SHORTEST = 32
# Pictures of a network's own size that pass together: with more, what a layer has made leaves the
# cache of a CPU before the next one reads it (half as fast with 16, measured).
TOGETHER = 4
# The name under which class scores are captured.
LOGITS = WHOLE


class _Deepest(Exception):
    """Leaves the forward pass once every wanted layer has been seen."""


@dataclass(frozen=True)
class Framing:
    """How a picture was laid into the network's field of view.

    `box` is `(top, left, height, width)` in pixels of the picture: the part the network saw.
    """

    pixels: Tensor
    box: tuple[int, int, int, int]
    picture: tuple[int, int]

    def to_picture(self, field: Tensor) -> Tensor:
        """Lay a map `[H,W]` over the network's view back over the picture; zero where unseen."""
        top, left, height, width = self.box
        out = field.new_zeros(self.picture)
        seen = nn.functional.interpolate(
            field[None, None],
            size=(height, width),
            mode="bilinear",
            align_corners=False,
            antialias=True,  # a small picture must not lose single pixels of the map
        )
        out[top : top + height, left : left + width] = seen[0, 0]
        return out


class VisionModel:
    """A classifier that owns its preprocessing: pixels `[N,3,H,W]` in 0..1 in, logits `[N,C]` out.

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
        self._mean = torch.tensor(mean).view(1, -1, 1, 1)
        self._std = torch.tensor(std).view(1, -1, 1, 1)
        self._modules: dict[str, nn.Module] = {n: m for n, m in network.named_modules() if n}
        self._surveyed: dict[str, LayerFacts] = {}

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next(self.network.parameters()).device

    @property
    def scale(self) -> Tensor:
        """What one unit of the normalised input is in pixels 0..1, `[1,3,1,1]`."""
        return self._std

    @property
    def grey(self) -> Tensor:
        """The pixel 0..1 that is zero once normalised, `[1,3,1,1]`."""
        return self._mean

    def copy(self) -> VisionModel:
        """Return the same network with weights of its own, which may be changed."""
        twin = copy.copy(self)
        twin.network = copy.deepcopy(self.network)
        twin._modules = {name: module for name, module in twin.network.named_modules() if name}
        return twin

    def to(self, device: torch.device | str) -> VisionModel:
        """Move network and normalisation to `device`, in place."""
        self.network.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
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
            box = _scale_box((top, left, size, size), image, scaled)
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
        """Class scores before softmax, `[N,C]`, for pixels `[N,3,H,W]` in 0..1."""
        out: Tensor = self.network((pixels - self._mean) / self._std)
        return out

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

    def costs(self) -> dict[str, float]:
        """Return the operations of a forward pass, by the layer it ends at."""
        return {name: facts.operations for name, facts in self._survey().items()}

    def tapes(self) -> dict[str, float]:
        """Return about how many bytes a gradient needs, by the layer a forward pass ends at."""
        return {name: facts.tape for name, facts in self._survey().items()}

    def _survey(self) -> dict[str, LayerFacts]:
        if not self._surveyed:
            self._surveyed = survey(self.network, self._mean.shape[1], self.input_size)
        return self._surveyed

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

        The forward pass ends at the deepest layer asked for; `LOGITS` names the class scores. An
        output that a later layer writes over in place is given as it was.

        Raises:
            UnknownName: the network has no such layer.
            InvalidParameter: (the function) a layer only holds others and never runs itself.
        """
        seen: dict[str, Tensor] = {}
        versions: dict[str, int] = {}
        overwritten: set[str] = set()
        wanted = set(names) - {LOGITS}
        stops = len(wanted) == len(set(names))
        is_running = False

        def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                if not is_running:
                    return  # a pass of another capture
                if name not in seen:
                    is_inference = output.is_inference()  # such tensors tell of no writing
                    seen[name] = output.clone() if is_inference or name in overwritten else output
                    versions[name] = 0 if is_inference else seen[name]._version
                if stops and len(seen) == len(wanted):
                    raise _Deepest

            return hook

        def run(pixels: Tensor) -> dict[str, Tensor]:
            nonlocal is_running
            seen.clear()
            versions.clear()
            is_running = True
            try:
                with suppress(_Deepest):
                    logits = self.logits(pixels)
                    if not stops:
                        seen[LOGITS] = logits
            finally:
                is_running = False
            if missing := wanted - seen.keys():
                raise _never_runs(min(missing), pointer)
            changed = {
                name
                for name, version in versions.items()
                if not seen[name].is_inference() and seen[name]._version != version
            }
            if changed:  # known from then on
                overwritten.update(changed)
                return run(pixels)
            return dict(seen)

        with ExitStack() as hooks:
            for name in wanted:
                layer = self.layer(name, pointer=pointer)
                hooks.callback(layer.register_forward_hook(keep(name)).remove)
            yield run

    @contextmanager
    def tail(self, name: str) -> Iterator[Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """Yield a function: pixels -> (activation of `name`, logits), joined by the graph.

        Gradients begin at the layer: what lies before it runs without a graph, so the backward
        pass from a logit to the activation touches only the tail of the network.

        Raises:
            UnknownName: the network has no such layer.
            InvalidParameter: (the function) the layer only holds others and never runs itself.
        """
        cut: list[Tensor] = []

        def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            if cut:
                return output  # a layer used twice is cut where it is used first
            cut.append(output.detach().requires_grad_())
            # in-place layers further on must not write over the leaf we return
            return cut[0].clone()

        def run(pixels: Tensor) -> tuple[Tensor, Tensor]:
            cut.clear()
            with torch.enable_grad():
                logits = self.logits(pixels.detach())
            if not cut:
                raise _never_runs(name, "/params/layer")
            return cut[0], logits

        handle = self.layer(name).register_forward_hook(hook)
        try:
            yield run
        finally:
            handle.remove()

    @contextmanager
    def substitute(self, name: str) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
        """Yield a function: pixels `[N,3,H,W]`, activations `[B,...]` of `name` -> logits `[B,C]`.

        What lies before the layer runs for the pixels, what lies behind it for the activations. One
        picture serves all of these, where the network allows it.

        Raises:
            UnknownName: the network has no such layer.
        """
        given: list[Tensor] = []

        def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
            # a layer used twice is replaced where it is used first
            return given.pop().clone() if given else None

        def run(pixels: Tensor, activations: Tensor) -> Tensor:
            given[:] = [activations]
            try:
                return self.logits(pixels)
            except RuntimeError:  # where the one picture's earlier layers are joined to many
                given[:] = [activations]
                return self.logits(pixels.expand(len(activations), -1, -1, -1))
            finally:
                given.clear()

        handle = self.layer(name).register_forward_hook(hook)
        try:
            yield run
        finally:
            handle.remove()


def _never_runs(name: str, pointer: str) -> InvalidParameter:
    return InvalidParameter(
        f"layer {name} only holds other layers; choose one of those inside it", pointer=pointer
    )


def _scale_box(
    box: tuple[int, int, int, int], image: Image, scaled: Image
) -> tuple[int, int, int, int]:
    tall, wide = image.height / scaled.height, image.width / scaled.width
    top, left = round(box[0] * tall), round(box[1] * wide)
    height = min(image.height - top, round(box[2] * tall))
    width = min(image.width - left, round(box[3] * wide))
    return top, left, height, width
