"""What fast styles cost in quality: against optimisation, and against the classic network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Row
from lantern import samples
from lantern.image import SUFFIXES, Image
from lantern.progress import silent
from lantern.styles.library import Style, StyleLibrary
from lantern.styles.loss import PaintingLoss, PaintingLossParams
from lantern.styles.network import CLASSIC, Architecture, StyleNetwork, made
from lantern.styles.painting import Painter
from lantern.styles.train import Lesson, Photographs, in_fours, learn, small
from lantern.techniques.train_style import USUAL
from lantern.vision_model import VisionModel
from lantern.zoo import Zoo
from services.settings import Settings

# Photographs of this side, and steps of the optimisation they are held against.
SIDE, ITERATIONS = 256, 100
Move = tuple[int, int]
# px up and left: a picture should look like the painting wherever the judge's grid lies.
MOVES: tuple[Move, ...] = ((1, 2), (2, 5), (3, 3), (5, 6))
# Who judges in training; crops at each step, their side and that of the photographs, px.
JUDGE, BATCH, CROP, PRACTICE = "squeezenet1-0", 4, 192, 320


def against_optimisation(
    paintings: Path, photographs: Path | None, styles: Sequence[Style]
) -> Iterator[Row]:
    """Judge what each style paints, and what L-BFGS makes from the photograph, by the same loss.

    `paintings` is the folder of those the styles were trained on; `photographs` are ones they were
    not trained on, the samples if there is no folder.
    """
    library, zoo = StyleLibrary(Settings().styles_path), Zoo(downloads=False)
    photos, other = _photos(photographs), zoo.load()
    for style in styles:
        judge = zoo.load(str(style.facts.get("judge") or style.facts["loss_model"]))
        painting = _painting(paintings / str(style.facts["painting"]), style)
        with PaintingLoss.by(judge) as loss, PaintingLoss.by(other) as strange:
            gallery, foreign = (
                _Gallery(each, each.hand(painting.pixels[None])) for each in (loss, strange)
            )
            optimised = [_optimised(gallery, photo) for photo in photos]
            others = [one.picture for one in optimised]
            for kind, painter in _painters(library, style):
                painted = [painter.paint(photo) for photo in photos]
                ours, theirs = (gallery.mean(some, photos) for some in (painted, others))
                reached = _reached(optimised, ours)
                yield _row(f"loss of {style.name}, {kind}", ours, theirs, reached)
                ours, theirs = (gallery.mean(some, photos, MOVES) for some in (painted, others))
                yield _row("  of the same pictures moved by a few pixels", ours, theirs)
                ours, theirs = (foreign.mean(some, photos) for some in (painted, others))
                yield _row(f"  of the same pictures by {other.name}", ours, theirs)


def against_classic(
    paintings: Path, photographs: Path | None, styles: Sequence[Style], training: Path
) -> Iterator[Row]:
    """Train our network and the classic one alike from random weights, and judge what they paint.

    `training` is a folder of photographs to train on; the others are as above.
    """
    photos, judge = _photos(photographs), Zoo(downloads=False).load(JUDGE)
    practice = Photographs([small(image, PRACTICE) for image in _pictures(training)], CROP)
    for style in styles:
        painting = _painting(paintings / str(style.facts["painting"]), style)
        means = []
        for architecture in (Architecture(), CLASSIC):
            network = _trained(architecture, painting, practice, judge)
            with PaintingLoss.by(judge) as loss, torch.inference_mode():
                gallery = _Gallery(loss, loss.hand(painting.pixels[None]))
                painted = [Image(network(photo.pixels[None])[0]) for photo in photos]
                means.append(gallery.mean(painted, photos))
        ours, classic = means
        figures = f"{ours:.3f}, the classic network {classic:.3f}: {ours / classic:.2f} times"
        what = f"loss of {style.name} after {USUAL['thorough'][0]} steps from random weights"
        yield Row(what, figures, "<= 1.1 times", ours <= 1.1 * classic)


@dataclass(frozen=True)
class _Gallery:
    """Judges paintings of photographs."""

    loss: PaintingLoss
    wanted: dict[str, Tensor]
    params: PaintingLossParams = field(default_factory=PaintingLossParams)

    def total(self, painted: Tensor, photo: Tensor) -> Tensor:
        """Return the loss of one picture `[1,3,H,W]`."""
        return self.loss(painted, photo, self.wanted).total(self.params)

    def mean(
        self, painted: Sequence[Image], photos: Sequence[Image], moves: Sequence[Move] = ((0, 0),)
    ) -> float:
        """Return the mean of some, each moved up and left by all of `moves`, px."""
        with torch.inference_mode():
            found = [
                float(self.total(one.pixels[None, :, y:, x:], photo.pixels[None, :, y:, x:]))
                for one, photo in zip(painted, photos, strict=True)
                for y, x in moves
            ]
        return float(np.mean(found))


@dataclass(frozen=True)
class _Optimised:
    """A picture, and the losses on the way to it."""

    picture: Image
    losses: list[float]


def _optimised(gallery: _Gallery, photo: Image) -> _Optimised:
    """Optimise a picture by L-BFGS from the photograph on."""
    pixels, losses = photo.pixels[None].clone().requires_grad_(), list[float]()
    optimizer = torch.optim.LBFGS([pixels], max_iter=ITERATIONS, history_size=20)

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = gallery.total(pixels.clamp(0, 1), photo.pixels[None])
        total.backward()  # type: ignore[no-untyped-call]
        losses.append(float(total.detach()))
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return _Optimised(Image(pixels.detach().clamp(0, 1)[0]), losses)


def _reached(optimised: Sequence[_Optimised], loss: float) -> str:
    after = np.mean(list(zip(*(one.losses for one in optimised), strict=False)), 1)
    lower = np.flatnonzero(after <= loss)
    return f", so low after {lower[0]}" if len(lower) else ""


def _row(what: str, ours: float, theirs: float, reached: str = "") -> Row:
    figures = f"{ours:.3f}, {ITERATIONS} iterations of L-BFGS {theirs:.3f}{reached}"
    return Row(what, figures, "no worse", ours <= theirs)


def _trained(
    architecture: Architecture, painting: Image, practice: Photographs, judge: VisionModel
) -> StyleNetwork:
    """Train a network from random weights, by the steps and the rate of `train-style`.

    It runs in bfloat16 on processors that compute in it.
    """
    generator = torch.Generator().manual_seed(0)
    network = made(architecture).train().requires_grad_(True)
    steps, rate = USUAL["thorough"]

    def paint(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            painted: Tensor = network(batch)
        return painted.float()

    learn(
        Lesson(
            painting, practice, judge, PaintingLossParams(), steps=steps, batch=BATCH, rate=rate
        ),
        paint,
        network.parameters(),
        progress=silent,
        preview=lambda: painting,
        generator=generator,
    )
    return network.eval().requires_grad_(False)


def _photos(folder: Path | None) -> list[Image]:
    return [in_fours(image.cover(SIDE)) for image in photographs(folder)]


def _painting(path: Path, style: Style) -> Image:
    return Image.decode(path.read_bytes()).cover(int(style.facts["params"]["style_size"]))


def _painters(library: StyleLibrary, style: Style) -> Iterator[tuple[str, Painter]]:
    if style.file:
        yield "a network of its own", library.painter({style.name: 1.0})
    if style.blends:
        yield "a hand", library.painter_of(library.shared().hands[style.name])


def photographs(folder: Path | None) -> list[Image]:
    """Return the pictures of a folder, the samples if there is none, of at most 512 px."""
    if folder is not None:
        return [image.fit(512) for image in _pictures(folder)]
    paths = [path for name, path in samples.photographs().items() if name != "retina"]
    return [Image.decode(path.read_bytes()).fit(512) for path in paths]


def _pictures(folder: Path) -> list[Image]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return [Image.decode(path.read_bytes()) for path in paths]
