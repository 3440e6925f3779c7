"""Networks that callers bring: the name of an architecture, weights, and what they expect.

Nothing of theirs is run: the architecture is torchvision's or timm's, the weights are numbers.
"""

from __future__ import annotations

import functools
import importlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import safetensors.torch
import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor, nn

from lantern.errors import InvalidParameter, LanternError, one_of
from lantern.imagenet import IMAGENET_MEAN, IMAGENET_STD
from lantern.params import Params
from lantern.presets import Presets, presets_of, with_cam
from lantern.records import YOURS, Record
from lantern.scores import Scores
from lantern.weights import without_auxiliary
from lantern.work import WHOLE, LayerFacts, survey
from lantern.zoo import presented

MOST_CLASSES = 20_000
MOST_BYTES = 1024**3
# Of one picture: a ViT-L at 384 px takes 380e9.
MOST_OPERATIONS, MOST_TAPE = 400e9, 4e9
# Attention takes the square of it, times heads and layers.
MOST_TOKENS = 1600
# How much larger a picture is tried, px, to see whether any size will do.
OTHER_SIZE = 32
# How many wrong tensors one answer lists.
MOST_LISTED = 4
# A header of safetensors that is longer than this tells of no network.
MOST_HEADER = 16 * 1024 * 1024

# Architectures of torchvision with heads that are for training alone, and are left out.
TRAINED_WITH_MORE = ("googlenet", "inception_v3")

Label = Annotated[str, Field(max_length=200)]
Level = Annotated[float, Field(ge=-10, le=10)]
Spread = Annotated[float, Field(ge=1e-3, le=10)]


class Brought(Params):
    """What is said of a network beside its weights."""

    architecture: str = Field(
        max_length=100, pattern=r"^[A-Za-z0-9_.-]+$", description="its name in the library"
    )
    library: Literal["torchvision", "timm"] = Field(
        "torchvision", description="where the architecture comes from"
    )
    title: str = Field("", max_length=100, description="what you call it")
    labels: list[Label] = Field(
        [], max_length=MOST_CLASSES, description="names of the classes, in order"
    )
    classes: int | None = Field(
        None, ge=1, le=MOST_CLASSES, description="how many classes there are, where none is named"
    )
    scores: Scores = Field(
        "softmax",
        description="what makes probabilities of the classes' scores: sigmoid where there is one "
        "class alone, or where several may be in a picture",
    )
    mean: list[Level] = Field(
        list(IMAGENET_MEAN),
        min_length=1,
        max_length=3,
        description="mean of each channel of pictures in 0..1; one for networks of grey pictures",
    )
    std: list[Spread] = Field(
        list(IMAGENET_STD), min_length=1, max_length=3, description="spread of each, likewise"
    )
    input_size: int = Field(224, ge=8, le=1024, description="side of what it looks at, px")
    resize_size: int | None = Field(
        None, ge=8, le=2048, description="shorter side before the centre is cut out, px; an eighth "
        "more than input_size if absent"
    )  # fmt: skip

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Brought:
        if len(self.mean) != len(self.std) or len(self.mean) == 2:
            raise ValueError("mean and std have one entry each, or three each")
        if not self.labels and self.classes is None:
            raise ValueError("give labels, or classes as their number")
        if self.labels and self.classes not in (None, len(self.labels)):
            raise ValueError(f"there are {len(self.labels)} labels and {self.classes} classes")
        if self.resize_size is not None and self.resize_size < self.input_size:
            raise ValueError("resize_size is at least input_size")
        return self

    @property
    def class_count(self) -> int:
        """How many classes there are."""
        return self.classes or len(self.labels)


def record_of(name: str, brought: Brought, weights: Path, presets: Presets) -> Record:
    """Return the record under which a network is known from then on; the weights were checked."""
    return Record(
        name=name,
        build=functools.partial(build, brought),
        weights_path=lambda: weights,
        weights_url=None,
        licence=YOURS,
        mean=brought.mean,
        std=brought.std,
        cam_layer=presets.cam,
        dream_layer=presets.dream,
        style_layers=presets.style,
        content_layers=(presets.content,),
        input_size=brought.input_size,
        any_size=presets.any_size,
        resize_size=brought.resize_size or brought.input_size * 8 // 7,
        labels=tuple(brought.labels) or tuple(map(str, range(brought.class_count))),
        scores=brought.scores,
    )


def build(brought: Brought) -> nn.Module:
    """Build a network of an architecture, with weights that mean nothing.

    Raises:
        UnknownName: the library has no classifier of that name.
        InvalidParameter: it cannot be built for so many classes, or for pictures of that size.
    """
    make = _from_timm if brought.library == "timm" else _from_torchvision
    try:
        return make(brought).eval()
    except LanternError:
        raise
    except Exception as error:  # whatever an architecture says of what it is asked for
        raise InvalidParameter(
            f"{brought.architecture} cannot be built for {brought.class_count} classes and "
            f"{len(brought.mean)}x{brought.input_size}x{brought.input_size} pictures: "
            f"{_first_line(error)}",
            pointer="/model/architecture",
        ) from error


def _from_torchvision(brought: Brought) -> nn.Module:
    from lantern.torchvision_import import models

    known = models.list_models(module=models)
    if brought.architecture not in known:
        if brought.architecture in models.list_models():
            raise _no_classifier(brought)
        raise one_of("architecture", brought.architecture, known, pointer="/model/architecture")
    extra: dict[str, Any] = {}
    if brought.architecture in TRAINED_WITH_MORE:
        extra = {"aux_logits": False, "init_weights": False}
    if brought.architecture.startswith("vit_"):
        extra = {"image_size": brought.input_size}
    network: nn.Module = models.get_model(
        brought.architecture, weights=None, num_classes=brought.class_count, **extra
    )
    if len(brought.mean) == 1:
        _take_grey(network)
    return network


def _take_grey(network: nn.Module) -> None:
    """Let the first convolution take one channel, which torchvision has no option for."""
    name, first = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, leaf = name.rpartition(".")
    grey = nn.Conv2d(
        1, first.out_channels, first.kernel_size, first.stride, first.padding,  # type: ignore[arg-type]
        first.dilation, bias=first.bias is not None, padding_mode=first.padding_mode,  # type: ignore[arg-type]
    )  # fmt: skip
    setattr(network.get_submodule(parent), leaf, grey)


def _from_timm(brought: Brought) -> nn.Module:
    import lantern.torchvision_import  # noqa: F401 - timm imports torchvision

    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise InvalidParameter(
            "timm is not installed here; install it, or choose an architecture of torchvision",
            pointer="/model/library",
        ) from error
    if not timm.is_model(brought.architecture):
        known = timm.list_models()
        raise one_of("architecture", brought.architecture, known, pointer="/model/architecture")
    given = {"num_classes": brought.class_count, "in_chans": len(brought.mean)}
    try:
        network: nn.Module = timm.create_model(
            brought.architecture, img_size=brought.input_size, **given
        )
    except TypeError:  # an architecture that takes pictures of any size
        network = timm.create_model(brought.architecture, **given)
    return network


def check_weights(brought: Brought, data: bytes) -> Presets:
    """Check that bytes of safetensors are the weights of a network, and that it answers.

    What is found of it is returned.

    Raises:
        InvalidParameter: they are damaged, of another network, or it is no classifier of pictures
            of that size.
    """
    _check_scores(brought)
    wanted, given = _outline(brought).state_dict(), _header(data)
    if brought.architecture in TRAINED_WITH_MORE:
        given = without_auxiliary(given, wanted)
    _check_tensors(wanted, given)
    try:
        # all of it has to be there before a network of its size is built
        state = safetensors.torch.load(data)
        network = build(brought)
        network.load_state_dict({name: state[name] for name in given})
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise InvalidParameter(
            f"weights is damaged: {_first_line(error)}; write the file again",
            pointer="/weights", code="bad-weights",
        ) from error  # fmt: skip
    return _checked(brought, network)


def _check_scores(brought: Brought) -> None:
    if brought.class_count == 1 and brought.scores == "softmax":
        raise InvalidParameter(
            "the softmax of one class is always 1: set scores to sigmoid, or bring a network of "
            "two classes and more",
            pointer="/model/scores",
        )


def _outline(brought: Brought) -> nn.Module:
    """Build a network without values.

    Raises:
        InvalidParameter: it cannot be built so, or is too large.
    """
    with torch.device("meta"):
        network = build(brought)
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    if size > MOST_BYTES:
        raise InvalidParameter(
            f"{brought.architecture} has {size // 10**6} MB of weights; at most "
            f"{MOST_BYTES // 10**6} are taken: choose a smaller one",
            pointer="/model/architecture", code="too-large",
        )  # fmt: skip
    return network


def _header(data: bytes) -> Mapping[str, tuple[int, ...]]:
    """Read the names and shapes of a file's tensors, nothing else."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        if length > min(MOST_HEADER, len(data)):
            raise ValueError
        entries = json.loads(data[8 : 8 + length])
        return {n: tuple(e["shape"]) for n, e in entries.items() if n != "__metadata__"}
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise InvalidParameter(
            "weights is not a safetensors file; write one with "
            "safetensors.torch.save_file(network.state_dict(), path)",
            pointer="/weights", code="bad-weights",
        ) from None  # fmt: skip


def _check_tensors(wanted: Mapping[str, Tensor], given: Mapping[str, tuple[int, ...]]) -> None:
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = wanted.keys() - given.keys() - counters
    unknown = given.keys() - wanted.keys()
    shapes = [
        f"{name} is {_shape(given[name])} and must be {_shape(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name] != tuple(tensor.shape)
    ]
    wrong = [
        *(f"{name} is missing" for name in sorted(missing)),
        *(f"{name} is unknown" for name in sorted(unknown)),
        *shapes,
    ]
    if wrong:
        more = f" and {len(wrong) - MOST_LISTED} more" if len(wrong) > MOST_LISTED else ""
        raise InvalidParameter(
            f"the weights are not of this architecture: {'; '.join(wrong[:MOST_LISTED])}{more}; "
            "check architecture, classes, channels and input size",
            pointer="/weights", code="bad-weights",
        )  # fmt: skip


def _checked(brought: Brought, network: nn.Module) -> Presets:
    """Pass pictures; return what is found if scores of the classes come of them.

    Raises:
        InvalidParameter: they do not, or take more work or memory than is given to one picture.
    """
    try:
        facts = survey(network, len(brought.mean), brought.input_size)
    except Exception as error:  # whatever a layer says of a picture too small for it
        raise InvalidParameter(
            f"{brought.architecture} cannot take pictures of {brought.input_size} px: "
            f"{_first_line(error)}",
            pointer="/model/input_size",
        ) from error
    if WHOLE not in facts or facts[WHOLE].shape != (brought.class_count,):
        raise _no_classifier(brought)
    _check_work(facts)
    try:
        survey(network, len(brought.mean), brought.input_size + OTHER_SIZE)
        any_size = True
    except Exception:  # in the words of whatever layer cannot
        any_size = False
    presets = presets_of(facts, any_size=any_size)
    model = presented(record_of("", brought, Path(), presets), network, "")
    with torch.inference_mode():
        is_finite = bool(model.logits(model.noise(1)).isfinite().all())
    if not is_finite:
        raise InvalidParameter(
            "the network's scores of a picture are not finite; check the weights, mean and std",
            pointer="/weights", code="bad-weights",
        )  # fmt: skip
    return with_cam(presets, facts, model)


def _check_work(facts: Mapping[str, LayerFacts]) -> None:
    whole, tokens = facts[WHOLE], max(fact.layout.side**2 for fact in facts.values())
    for found, most, what in (
        (whole.operations, MOST_OPERATIONS, "operations"),
        (whole.tape, MOST_TAPE, "bytes for a gradient"),
        (tokens, MOST_TOKENS, "tokens"),
    ):
        if found > most:
            raise InvalidParameter(
                f"one picture takes {found:.3g} {what}; at most {most:.3g} are given: choose a "
                "smaller input_size or architecture",
                pointer="/model/input_size", code="too-much-work",
            )  # fmt: skip


def _no_classifier(brought: Brought) -> InvalidParameter:
    return InvalidParameter(
        f"{brought.architecture} does not give one score for each class: detectors, segmenters and "
        "networks of several outputs are not taken; bring a classifier",
        pointer="/model/architecture", code="no-classifier",
    )  # fmt: skip


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
