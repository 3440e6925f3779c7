"""Changing pictures until a network takes them for something else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.optimize.optimizers import NormalisedAscent
from lantern.optimize.perturbation import Perturbation
from lantern.scores import Scores, probabilities
from lantern.vision_model import VisionModel


@dataclass(frozen=True)
class Aim:
    """A class for each picture, `[N]`, to be reached or to be left.

    It is attained once the network gives `confidence` at least to that class, or to any other.
    """

    classes: Tensor
    is_targeted: bool
    confidence: float = 0.0
    scores: Scores = "softmax"

    def of(self, rows: Tensor) -> Aim:
        """Return the aim of some of the pictures."""
        return Aim(self.classes[rows], self.is_targeted, self.confidence, self.scores)

    def attained(self, logits: Tensor) -> Tensor:
        """Tell of which pictures it is attained, `[N]`, from their class scores `[N,C]`."""
        best = probabilities(logits.detach(), self.scores).max(1)
        is_right = (best.indices == self.classes) == self.is_targeted
        return is_right & (best.values >= self.confidence)

    def loss(self, logits: Tensor) -> Tensor:
        """Return the logarithm of the odds against each picture's aim, `[N]`.

        Its gradient points where that of the cross-entropy does (Goodfellow et al. 2014, section
        4), but does not vanish where the network is sure of itself. Of classes that do not exclude
        each other none may be seen, which is against every aim.
        """
        own = self.classes[:, None]
        own, others = logits.gather(1, own)[:, 0], logits.scatter(1, own, -torch.inf).logsumexp(1)
        reached, left = (own, others) if self.is_targeted else (others, own)
        if self.scores == "sigmoid":  # as softmax is beside one more class, of logit zero
            left = F.softplus(left)
        return left - reached

    def score(self, logits: Tensor) -> Tensor:
        """Return the class score of each picture as a loss, `[N]`, whatever the others are."""
        own = logits.gather(1, self.classes[:, None])[:, 0]
        return -own if self.is_targeted else own


@dataclass(frozen=True)
class _Look:
    """What the network makes of the pictures still under way: are they fooling it, and the loss."""

    attained: Tensor
    losses: Tensor


class Attack:
    """Leads every picture of a batch to its aim, and leaves those alone that are there.

    The network looks at each state of the pictures once: `is_over` and `loss` share that pass. A
    picture that is done has no part in the loss, hence no gradient, and so takes no more steps;
    which these are is read from the optimiser, whose state a resumed run gets back.
    """

    def __init__(
        self,
        model: VisionModel,
        canvas: Perturbation,
        aim: Aim,
        optimizer: NormalisedAscent,
        *,
        by_score: bool = False,
    ) -> None:
        self._model, self._canvas, self._aim = model, canvas, aim
        self._optimizer, self._by_score = optimizer, by_score
        self._seen: _Look | None = None

    def is_over(self) -> bool:
        """Tell whether every picture has attained its aim."""
        return bool(self._look().attained.all())

    def loss(self, step: int) -> Tensor:
        """Return the sum of the losses of the pictures under way: none depends on the others."""
        look = self._look()
        return look.losses[~look.attained].sum()

    def after(self, step: int) -> None:
        """Bring the pictures back to what is legal, to be looked at anew."""
        self._canvas.project()
        self._seen = None

    def steps(self) -> Tensor:
        """Return how many steps each picture has taken, `[N]`."""
        return self._optimizer.taken(self._canvas.parameters[0])

    def _look(self) -> _Look:
        if self._seen is None:
            taken = self.steps()
            rows = (taken == taken.max()).nonzero()[:, 0]
            aim = self._aim.of(rows)
            with torch.enable_grad():
                logits = self._model.logits(self._canvas.pixels()[rows])
                losses = aim.score(logits) if self._by_score else aim.loss(logits)
            self._seen = _Look(aim.attained(logits), losses)
        return self._seen
