"""The one loop behind everything that iterates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lantern.checkpoint import Checkpoints
from lantern.errors import NotFinite
from lantern.image import Image
from lantern.progress import Progress, Step


@dataclass(frozen=True)
class Settled:
    """Stop early once the loss of the last `window` steps improved by no more than `gain` (share).

    Not before `least` steps.
    """

    window: int
    gain: float
    least: int = 0

    @staticmethod
    def behind(share: float, steps: int, *, gain: float) -> Settled:
        """Look for the end only behind a `share` of the steps, up to which the loss itself changes.

        A window is shorter where too few steps are left for two of the usual length.
        """
        window = max(2, min(32, steps // 16))
        return Settled(window, gain, least=math.ceil(share * steps) + 2 * window)


@dataclass(frozen=True)
class Trace:
    """What the loop did: the loss after each step, and whether it ended before its last step."""

    losses: tuple[float, ...]
    settled: bool


def ascend(
    loss: Callable[[int], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    progress: Progress,
    preview: Callable[[], Image],
    rate: Callable[[int], float] | None = None,
    after: Callable[[int], None] | None = None,
    each: Callable[[], Tensor] | None = None,
    clip_norm: float | None = None,
    settled: Settled | None = None,
    is_over: Callable[[], bool] | None = None,
    checkpoints: Checkpoints | None = None,
    generator: torch.Generator | None = None,
    stage: int = 0,
    stages: int = 1,
    span: tuple[int, int] | None = None,
    leaves: bool = True,
) -> Trace:
    """Ascend an objective by descending its negative, `loss`, for `steps` steps.

    `loss(step)` builds the scalar to descend; `rate(step)` sets the learning rate before a step;
    `after(step)` projects the parameters back into what is legal; `is_over()` tells before a step
    that nothing is left to strive for, from no more than checkpoints restore. Where the loss is a
    sum over samples, `each()` returns their losses `[N]` when it was last built: the run settles
    once every sample has, at that step or before, so that none ends another's. A run of several
    `stages` calls this for each; where they differ in length, `span` says how many steps come
    before this one and how many there are in all. `checkpoints` restore and keep the state, to
    which the `generator` belongs where `loss` draws from one. A resumed run passes by the stages
    that are over, and leaves their parameters as they ended; what follows a stage that `leaves`
    none must not need them.

    Raises:
        NotFinite: the loss is no longer a number.
        Cancelled: the progress callback asked to stop.
    """
    checkpoints = checkpoints or Checkpoints()
    resumed = checkpoints.restore(stage, optimizer, generator)
    if resumed.over:
        return Trace(resumed.losses, resumed.settled)
    losses, settling = list(resumed.losses), _Settling(settled, resumed.settling)
    before, total = span or (stage * steps, stages * steps)

    def has_ended() -> bool:
        return settling.is_over or (is_over is not None and is_over())

    # asked before each step, so that a run resumed where it had settled ends there as well
    while len(losses) < steps and not has_ended():
        step = len(losses)
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
        losses.append(_step(loss, optimizer, step, clip_norm))
        settling.note(
            each() if each else torch.tensor(losses[-1:], dtype=torch.double), len(losses)
        )
        if after is not None:
            with torch.no_grad():
                after(step)
        progress(Step(before + step + 1, total, losses[-1], preview))
        checkpoints.keep(losses, optimizer, generator, settling.state)
    is_settled = len(losses) < steps or settling.is_over
    checkpoints.end(losses, optimizer, generator, settled=is_settled, leaves=leaves)
    return Trace(tuple(losses), is_settled)


def _step(
    loss: Callable[[int], Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    clip_norm: float | None,
) -> float:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def closure() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss(step)
        value.backward()  # type: ignore[no-untyped-call]
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        return value.item()

    with torch.enable_grad():
        value = float(optimizer.step(closure))
    if not math.isfinite(value):
        raise NotFinite(
            f"the loss is {value} at step {step + 1}; lower the learning rate or the weights",
            pointer="/params",
        )
    return value


class _Settling:
    """Watches for the end of a run: each sample settles for itself, and once it has, for good."""

    def __init__(self, rule: Settled | None, state: Mapping[str, Tensor]) -> None:
        self._rule = rule
        self.state = dict(state)

    @property
    def is_over(self) -> bool:
        """Whether every sample has settled."""
        return "settled" in self.state and bool(self.state["settled"].all())

    def note(self, losses: Tensor, step: int) -> None:
        """Take note of the losses `[N]` after so many steps."""
        if self._rule is None:
            return
        losses, window = losses.detach().double().cpu()[None], self._rule.window
        recent = torch.cat([self.state.get("recent", losses[:0]), losses])[-2 * window :]
        self.state["recent"] = recent
        if step < max(self._rule.least, 2 * window):
            return
        before, now = recent[:window].mean(0), recent[window:].mean(0)
        # no more than: what nothing moves has settled, also at zero
        has_settled = before - now <= self._rule.gain * before.abs()
        self.state["settled"] = has_settled | self.state.get("settled", has_settled)
