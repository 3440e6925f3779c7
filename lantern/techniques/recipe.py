"""What keeps the pictures of each method of activation maximisation natural."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from lantern.errors import InvalidParameter
from lantern.optimize.optimizers import NormalisedAscent
from lantern.optimize.parametrize import Canvas, Pixels
from lantern.optimize.regularize import blur, keep_largest

if TYPE_CHECKING:
    from lantern.techniques.activation_maximization import ActivationMaximizationParams

Method = Literal["fourier", "pixels", "yosinski", "maco", "decoder"]


@dataclass(frozen=True)
class Recipe:
    """The regularisers of a method; names and units are those of the parameters."""

    learning_rate: float
    l2: float = 0.0
    jitter: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    blur: float = 0.0
    blur_every: int = 1
    norm_percentile: float = 0.0
    contribution_percentile: float = 0.0

    def facts(self, method: Method) -> dict[str, float]:
        """Return those that the method takes."""
        every = dataclasses.asdict(self)
        return {name: value for name, value in every.items() if method in _methods_of(name)}


RECIPES: dict[Method, Recipe] = {
    "fourier": Recipe(0.02, jitter=8, scale=0.1, rotate=10),
    # CS231n, assignment 3, in units of pixels of 0..1
    "pixels": Recipe(5.0, l2=1e-3, jitter=16, blur=0.5, blur_every=10),
    # Yosinski et al. 2015, table 1
    "yosinski": Recipe(
        8.0, jitter=4, blur=0.5, blur_every=4, norm_percentile=30, contribution_percentile=40
    ),
    "maco": Recipe(0.2),
    "decoder": Recipe(0.05, l2=5e-3, jitter=8, scale=0.05),
}
MOVED: tuple[Method, ...] = ("fourier", "pixels", "yosinski", "decoder")
CLIPPED: tuple[Method, ...] = ("pixels", "yosinski")
# The methods that take a regulariser; the others are of every method.
_METHODS: dict[str, tuple[Method, ...]] = {
    **dict.fromkeys(("jitter", "scale", "rotate"), MOVED),
    **dict.fromkeys(("blur", "blur_every", "norm_percentile", "contribution_percentile"), CLIPPED),
}


def _methods_of(name: str) -> tuple[Method, ...]:
    return _METHODS.get(name, tuple(RECIPES))


def recipe_of(params: ActivationMaximizationParams) -> Recipe:
    """Return the regularisers of the method, and what was given in place of its own.

    Raises:
        InvalidParameter: one was given that the method does not take.
    """
    own = RECIPES[params.method]
    given = {name: getattr(params, name) for name in Recipe.__dataclass_fields__}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if params.method not in _methods_of(name):
            raise InvalidParameter(
                f"the method {params.method} does not take {name}: leave it out, or choose "
                f"{' or '.join(_methods_of(name))}",
                pointer=f"/params/{name}",
            )
    return dataclasses.replace(own, **given)


def optimizer_of(canvas: Canvas, method: Method, recipe: Recipe) -> torch.optim.Optimizer:
    """Return what takes a method's steps."""
    if method == "maco":
        return torch.optim.NAdam(canvas.parameters, lr=recipe.learning_rate)
    if method in ("fourier", "decoder"):
        return torch.optim.Adam(canvas.parameters, lr=recipe.learning_rate)
    return NormalisedAscent(canvas.parameters, recipe.learning_rate, by="length")


def regulariser(canvas: Canvas, recipe: Recipe) -> Callable[[int], None]:
    """Return what is done to the pictures after each step."""

    def after(step: int) -> None:
        canvas.project()
        if not isinstance(canvas, Pixels):
            return
        (pixels,) = canvas.parameters
        gradient, grey = pixels.grad, torch.full_like(pixels[:1], 0.5)
        assert gradient is not None
        if recipe.blur and (step + 1) % recipe.blur_every == 0:
            pixels.copy_(blur(pixels, recipe.blur))
        distance = (pixels - grey).norm(dim=1)
        pixels.copy_(keep_largest(pixels, distance, recipe.norm_percentile, grey))
        benefit = ((pixels - grey) * gradient).sum(1).abs()
        pixels.copy_(keep_largest(pixels, benefit, recipe.contribution_percentile, grey))

    return after
