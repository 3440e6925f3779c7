"""The registry: every technique declares itself once, here it is found."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch

from lantern.artifact import Outcome, Rendering
from lantern.checkpoint import Checkpoints
from lantern.collections.library import Collections
from lantern.decoders.library import Decoders
from lantern.errors import one_of
from lantern.image import Image
from lantern.params import Params
from lantern.progress import Progress
from lantern.records import DEFAULT_MODEL
from lantern.styles.library import StyleLibrary
from lantern.vision_model import VisionModel
from lantern.work import Estimator

Family = Literal["inspection", "inference", "attribution", "stylization", "synthesis"]
Runs = Literal["interactive", "job"]

# How many pictures one slot may take at most.
MOST_PICTURES = 64

# Names that mean the same for every technique and so may not be parameters of one.
RESERVED = {
    *("model", "seed", "params", "inputs", *Rendering.model_fields),
    # of a call that is run as a job
    *("priority", "deadline_s", "preview_every_s", "preview_size"),
    *("webhook", "webhook_url", "webhook_secret"),
    # of the command line
    *("help", "output"),
}

_INJECTED: dict[Any, str] = {
    VisionModel: "model",
    StyleLibrary: "styles",
    Progress: "progress",
    torch.Generator: "generator",
    Checkpoints: "checkpoints",
    Collections: "collections",
    Decoders: "decoders",
}


@dataclass(frozen=True)
class Count:
    """How many pictures a slot for several takes; `least` may be 0.

    Raises:
        TypeError: these are not the bounds of several pictures, or of too many for one form.
    """

    least: int
    most: int

    def __post_init__(self) -> None:
        if not (0 <= self.least <= self.most and 2 <= self.most <= MOST_PICTURES):
            raise TypeError(f"{self}: it must be 0 <= least <= most, most 2 to {MOST_PICTURES}")


@dataclass(frozen=True)
class Slot:
    """One image slot: what goes in, and how many pictures of it."""

    description: str
    least: int = 1
    most: int = 1

    @property
    def is_required(self) -> bool:
        """Whether it may not stay empty."""
        return self.least > 0

    @property
    def takes_several(self) -> bool:
        """Whether the technique gets a tuple of pictures."""
        return self.most > 1


@dataclass(frozen=True)
class Technique:
    """One technique as the registry knows it; `inputs` are its image slots by name."""

    name: str
    title: str
    family: Family
    runs: Runs
    source: str
    summary: str
    details: str
    function: Callable[..., Outcome]
    params_type: type[Params]
    inputs: Mapping[str, Slot]
    injected: Mapping[str, str]
    outputs: Mapping[str, str]
    keeps_shape: bool = True
    animates: bool = False
    shrinks_to: str = ""
    work: Estimator | None = None
    default_model: str = DEFAULT_MODEL

    @property
    def only_required(self) -> str | None:
        """The slot that must be filled, where there is just one such."""
        required = [name for name, slot in self.inputs.items() if slot.is_required]
        return required[0] if len(required) == 1 else None

    def engine(self, params: Mapping[str, Any]) -> str:
        """Name what does the work: the technique, with the method where it has several."""
        field = self.params_type.model_fields.get("method")
        return self.name if field is None else f"{self.name} {params.get('method', field.default)}"

    @property
    def takes_model(self) -> bool:
        """Whether the caller chooses a network."""
        return "model" in self.injected.values()

    @property
    def takes_seed(self) -> bool:
        """Whether chance plays a part."""
        return "generator" in self.injected.values()

    @property
    def takes_collection(self) -> bool:
        """Whether its parameter `collection` names pictures that it reads."""
        return "collections" in self.injected.values()

    @property
    def takes_decoder(self) -> bool:
        """Whether its parameter `decoder` may name a trained one."""
        return "decoders" in self.injected.values()

    @property
    def takes_style(self) -> bool:
        """Whether its parameter `style` names trained ones."""
        return "styles" in self.injected.values() and "style" in self.params_type.model_fields

    @property
    def takes_progress(self) -> bool:
        """Whether it iterates and can be watched and stopped."""
        return "progress" in self.injected.values()

    @property
    def keeps_state(self) -> bool:
        """Whether a run that is stopped can go on from where it was."""
        return "checkpoints" in self.injected.values()


_techniques: dict[str, Technique] = {}


def technique(
    name: str,
    *,
    family: Family,
    runs: Runs,
    source: str,
    outputs: Mapping[str, str],
    title: str = "",
    keeps_shape: bool = True,
    animates: bool = False,
    shrinks_to: str = "",
    work: Estimator | None = None,
    default_model: str = DEFAULT_MODEL,
) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Register a function as a technique; its annotations say what it takes.

    `Image` arguments are input slots, annotated with what goes in: `Image` for exactly one picture,
    `Image | None` for one or none, `tuple[Image, ...]` with a `Count` for several. The `Params`
    argument is the technique's own, and `VisionModel`, `StyleLibrary`, `Progress`,
    `torch.Generator`, `Checkpoints`, `Collections` and `Decoders` are injected; the last two go
    with a parameter `collection` or `decoder`. `outputs` names each artifact and what it is, the
    principal one first. The title is the name as a heading, unless its writers write it otherwise.
    `keeps_shape` is for techniques whose first slot takes exactly one picture: those made have its
    aspect ratio and transparency. One that `animates` uses all frames of an animation, one that
    `shrinks_to` the parameter of that name uses no more of its first slot than such a longest side.
    `work` says how much a call will take, from its parameters, the sizes of its pictures and the
    network. `default_model` is the network taken where the caller names none.

    Raises:
        TypeError: a docstring, source, description or bound is missing, or a name is taken.
    """

    def register(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        if name in _techniques:
            raise TypeError(f"two techniques are called {name}")
        if name.replace("-", "_") != function.__name__:
            raise TypeError(f"{name} must be a function called {name.replace('-', '_')}")
        summary, _, details = inspect.cleandoc(function.__doc__ or "").partition("\n")
        if not summary or not source or not outputs:
            raise TypeError(f"{name} needs a docstring, a source and named outputs")
        _techniques[name] = Technique(
            name=name,
            title=title or name.replace("-", " ").capitalize(),
            family=family,
            runs=runs,
            source=source,
            summary=summary,
            details=details.strip(),
            function=function,
            outputs=dict(outputs),
            keeps_shape=keeps_shape,
            animates=animates,
            shrinks_to=shrinks_to,
            work=work,
            default_model=default_model,
            **_arguments(name, function),
        )
        return function

    return register


def find(name: str) -> Technique:
    """Find a technique.

    Raises:
        UnknownName: there is none of that name.
    """
    techniques = _filled()
    if name not in techniques:
        raise one_of("technique", name, techniques)
    return techniques[name]


def every() -> Iterator[Technique]:
    """Go through all techniques, by name."""
    return iter(sorted(_filled().values(), key=lambda technique: technique.name))


def _filled() -> dict[str, Technique]:
    """Return the registry with every technique of the library in it."""
    importlib.import_module("lantern.techniques")
    return _techniques


def _arguments(name: str, function: Callable[..., Outcome]) -> dict[str, Any]:
    """Read from a function's annotations its inputs, its parameters and what to inject."""
    inputs: dict[str, Slot] = {}
    injected: dict[str, str] = {}
    params_type: type[Params] = Params
    for argument, hint in get_type_hints(function, include_extras=True).items():
        if argument == "return":
            continue
        if (slot := _slot(f"{name}, input {argument}", hint)) is not None:
            inputs[argument] = slot
        elif isinstance(hint, type) and issubclass(hint, Params):
            params_type = hint
        elif hint in _INJECTED:
            injected[argument] = _INJECTED[hint]
        else:
            raise TypeError(f"{name}: nothing is known to inject for the argument {argument}")
    for field_name, schema in params_type.model_json_schema().get("properties", {}).items():
        _check_field(name, field_name, schema)
    for slot_name in inputs:
        _check_slot_name(name, slot_name, params_type)
    if ("collections" in injected.values()) != ("collection" in params_type.model_fields):
        raise TypeError(f"{name}: Collections and the parameter collection go together")
    if ("decoders" in injected.values()) != ("decoder" in params_type.model_fields):
        raise TypeError(f"{name}: Decoders and the parameter decoder go together")
    return {"inputs": inputs, "injected": injected, "params_type": params_type}


def _slot(where: str, hint: Any) -> Slot | None:
    """Read an argument's annotation as an image slot, None where it is none."""
    if get_origin(hint) is not Annotated:
        return None
    kind, description, *more = get_args(hint)
    if kind not in (Image, Image | None, tuple[Image, ...]):
        return None
    if (kind == tuple[Image, ...]) != (len(more) == 1 and isinstance(more[0], Count)):
        raise TypeError(f"{where}: several pictures, and only these, need a Count(least, most)")
    if kind == tuple[Image, ...]:
        return Slot(str(description), more[0].least, more[0].most)
    return Slot(str(description), least=1 if kind is Image else 0)


def _check_slot_name(technique_name: str, slot: str, params_type: type[Params]) -> None:
    where = f"{technique_name}, input {slot}"
    if slot[-1].isdigit():  # the pictures of a slot are numbered: style, style-2
        raise TypeError(f"{where}: a name may not end with a digit")
    if slot in RESERVED or slot in params_type.model_fields:
        raise TypeError(f"{where}: the name is taken")


def _check_field(technique_name: str, name: str, schema: Mapping[str, Any]) -> None:
    where = f"{technique_name}, parameter {name}"
    if name in RESERVED:
        raise TypeError(f"{where}: the name is reserved")
    if not schema.get("description"):
        raise TypeError(f"{where}: has no description")
    if "default" not in schema:
        raise TypeError(f"{where}: has no default")
    for shape in _shapes(schema):
        _check_bounds(where, shape)


def _shapes(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield schema
    nested = [*schema.get("anyOf", ()), *schema.get("prefixItems", ())]
    if isinstance(schema.get("items"), Mapping):
        nested.append(schema["items"])
    for shape in nested:
        yield from _shapes(shape)


def _check_bounds(where: str, shape: Mapping[str, Any]) -> None:
    kind = shape.get("type")
    if kind in ("integer", "number") and not (
        {"minimum", "exclusiveMinimum"} & shape.keys()
        and {"maximum", "exclusiveMaximum"} & shape.keys()
    ):
        raise TypeError(f"{where}: a number needs a lower and an upper bound")
    if kind == "string" and not {"maxLength", "enum", "const"} & shape.keys():
        raise TypeError(f"{where}: a text needs a greatest length")
    if kind == "array" and "maxItems" not in shape:
        raise TypeError(f"{where}: a list needs a greatest length")
