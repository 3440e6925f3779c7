"""Train one network that paints in many hands, and one that tells a painting's hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.optimize.ascend import Trace, ascend
from lantern.progress import Progress
from lantern.styles.loss import PaintingLoss, PaintingLossParams
from lantern.styles.network import Architecture, StyleNetwork, made
from lantern.styles.prediction import Predictor, painting_pixels, signature
from lantern.styles.shared import Shared
from lantern.styles.train import Photographs, in_fours, schedule
from lantern.vision_model import VisionModel


class TrainSharedParams(PaintingLossParams):
    """How to train a network for many paintings."""

    steps: int = Field(4000, ge=1, le=400_000, description="training steps")
    batch: int = Field(
        4, ge=1, le=64, description="photographs per step, each in a hand of its own"
    )
    crop: int = Field(256, ge=64, le=1024, multiple_of=4, description="side of a training crop, px")
    style_size: int = Field(300, ge=64, le=1024, description="short side of the paintings, px")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="Adam's highest rate")
    foreign: float = Field(
        0.5, ge=0, le=1, description="share of crops in the predicted hand of any other picture"
    )
    width: int = Field(16, ge=4, le=64, description="half the channels at half resolution")
    blocks: int = Field(4, ge=1, le=16, description="residual blocks")


# A painting is met once in many steps: its own numbers learn as much faster.
GAIN = 4.0


class SharedStyle(nn.Module):
    """Network, its usual hand `[D]`, and what each painting's differs by: learnt, or predicted."""

    def __init__(self, network: StyleNetwork, paintings: int, features: int) -> None:
        super().__init__()
        self.network = network
        self.usual = nn.Parameter(network.hand().detach().clone())
        self.changes = nn.Parameter(torch.zeros(paintings, network.hand_size))
        self.predictor = Predictor(features, network.hand_size)

    def hands(self) -> Tensor:
        """Return the hands of the paintings, `[P,D]`."""
        return self.usual + GAIN * self.changes

    def predicted(self, signatures: Tensor) -> Tensor:
        """Return hands for signatures `[N,F]`."""
        out: Tensor = self.usual + self.predictor(signatures)
        return out


def train_shared(
    paintings: Mapping[str, Image],
    others: Photographs,
    photos: Photographs,
    held_out: Image,
    loss_model: VisionModel,
    looker: VisionModel,
    params: TrainSharedParams,
    *,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints | None = None,
    start: StyleNetwork | None = None,
) -> tuple[Shared, Trace]:
    """Train a network that paints photographs in the hands of `paintings`, and predicts others.

    `others` are the pictures whose hands are predicted in training, seen by `looker`.

    Source: Dumoulin et al. 2017 for the hands, Ghiasi et al. 2017 for their prediction.
    """
    network = start or made(Architecture(params.width, blocks=params.blocks))
    network.train().requires_grad_(True)
    chance = torch.Generator().manual_seed(0)
    usual = torch.cat([signature(looker, others.batch(8, chance)).detach() for _ in range(32)])
    shared = SharedStyle(network, len(paintings), usual.shape[1])
    shared.predictor.mean.copy_(usual.mean(0))
    shared.predictor.spread.copy_(usual.std(0).clamp_min(1e-4))
    with PaintingLoss.by(loss_model) as judge:
        targets = _targets(judge, paintings.values(), params.style_size)

        def loss(step: int) -> Tensor:
            batch = photos.batch(params.batch, generator)
            chosen = torch.randint(len(paintings), (params.batch,), generator=generator)
            foreign = torch.rand(params.batch, generator=generator) < params.foreign
            hands, wanted = shared.hands()[chosen], {n: t[chosen] for n, t in targets.items()}
            if foreign.any():
                looked_at = others.batch(int(foreign.sum()), generator)
                for name, found in judge.hand(looked_at).items():
                    wanted[name][foreign] = found
                with torch.no_grad():
                    signatures = signature(looker, looked_at)
                hands = hands.index_put((foreign,), shared.predicted(signatures))
            return judge(network(batch, hands), batch, wanted).total(params)

        trace = ascend(
            loss,
            torch.optim.Adam(shared.parameters()),
            steps=params.steps,
            progress=progress,
            preview=lambda: preview(shared, looker, held_out, list(paintings.values())),
            rate=lambda step: params.learning_rate * schedule(step, params.steps),
            clip_norm=1.0,
            checkpoints=checkpoints,
            generator=generator,
        )
    hands = dict(zip(paintings, shared.hands().detach(), strict=True))
    ready, predictor = network.eval().requires_grad_(False), shared.predictor.eval()
    usual_hand = shared.usual.detach()
    return Shared(ready, hands, usual_hand, predictor.requires_grad_(False)), trace


def preview(
    shared: SharedStyle, looker: VisionModel, photo: Image, paintings: Sequence[Image]
) -> Image:
    """Paint a photograph in every hand: above as they were learnt, below as they are predicted."""
    pixels = in_fours(photo.cover(192)).pixels[None]
    with torch.inference_mode():
        looks = [painting_pixels(painting) for painting in paintings]
        predicted = [shared.predicted(signature(looker, look)) for look in looks]
        rows = [
            torch.cat([shared.network(pixels, hand)[0] for hand in hands], 2)
            for hands in (shared.hands()[:, None], predicted)
        ]
    return Image(torch.cat(rows, 1))


def _targets(judge: PaintingLoss, paintings: Iterable[Image], size: int) -> dict[str, Tensor]:
    found = [judge.hand(painting.cover(size).pixels[None]) for painting in paintings]
    return {name: torch.cat([one[name] for one in found]) for name in judge.style}
