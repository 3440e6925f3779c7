"""Training a decoder: a network that turns features back into pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lantern.artifact import Grid, Outcome
from lantern.checkpoint import Checkpoints
from lantern.collections.collection import POINTER, Collection, spread
from lantern.collections.library import Collections
from lantern.decoders.decoder import Decoder, Origin
from lantern.decoders.network import (
    MOST_CHANNELS,
    MOST_SIDE,
    MOST_UNITS,
    Architecture,
    DecoderNetwork,
)
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.looks import Looks
from lantern.metrics import psnr
from lantern.optimize.ascend import Settled, ascend
from lantern.optimize.objectives import content_loss
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import technique
from lantern.vision_model import VisionModel
from lantern.work import PIXEL, WHOLE, Sizes, Work


class TrainDecoderParams(Params):
    """What is decoded, into what, and for how long."""

    collection: str = Field(
        "samples", min_length=1, max_length=64, description="pictures to train on"
    )
    layer: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="layer whose features are the code; the network's own if absent",
    )
    pooled: bool = Field(
        True, description="whether the code is the layer's mean over all positions, or its map"
    )
    size: int = Field(
        64,
        ge=16,
        le=128,
        multiple_of=16,
        description="side of the pictures it draws",
        json_schema_extra={"unit": "px"},
    )
    width: int = Field(
        32, ge=4, le=64, multiple_of=4, description="channels of its last layer but one"
    )
    steps: int = Field(1500, ge=1, le=20_000, description="most steps; fewer once it has settled")
    batch: int = Field(16, ge=1, le=64, description="pictures at each step")
    looked_at: int = Field(
        1024, ge=2, le=2048, description="most pictures of the collection, evenly spread over it"
    )
    held_out: int = Field(
        8, ge=1, le=16, description="pictures it does not train on, at most a quarter of all"
    )
    pixel_weight: float = Field(10.0, ge=0, le=1e4, description="weight of squared pixel errors")
    feature_weight: float = Field(
        0.3, ge=0, le=1e4, description="weight of relative errors of the network's features"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's rate at the first step")


# Pictures looked at together.
BATCH = 16
# How far pictures are moved at most before each look at what is drawn, px each way: a pattern that
# the network sees only where its strides fall does not pay.
SHIFT = 4
# Bytes of pictures and codes that are kept with the state of a run, and are in memory thrice while
# it is written. Where there are more, a run that goes on looks at all pictures again.
MOST_KEPT = 2**27


def _work(params: TrainDecoderParams, sizes: Sizes, model: VisionModel) -> Work:
    shown = _side_shown(params, model) ** 2
    codes = 2 * params.looked_at * model.input_size**2 / shown
    # the network looks at pictures and at drawings, and back from these; the decoder draws, and its
    # weights' gradients are a pass more
    drawn = params.steps * params.batch
    layer = params.layer or model.cam_layer
    architecture = Architecture(_code_shape(model, layer, params), params.size, params.width)
    # each is kept in 8 bits and, for a moment, as it is; codes of both sides, and of all together
    example = params.size**2 * (3 + PIXEL) + 4 * 4 * math.prod(architecture.code)
    return Work(
        codes + 3 * drawn,
        shown,
        (WHOLE,),
        at_once=params.batch * shown,
        more=3 * drawn * architecture.operations,
        beside=params.batch * architecture.tape + params.looked_at * example,
    )


@dataclass(frozen=True)
class _Examples:
    """Pictures as uint8 `[N,3,S,S]`, and the codes of each and of its mirror image."""

    pixels: Tensor
    codes: Tensor
    mirrored: Tensor

    def batch(self, places: Tensor, flipped: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixels in 0..1 and codes; `flipped` says which are mirrored."""
        pixels = self.pixels[places].float() / 255
        mask = flipped.view(-1, 1, 1, 1)
        codes = torch.where(
            flipped.view(-1, *[1] * (self.codes.dim() - 1)),
            self.mirrored[places],
            self.codes[places],
        )
        return torch.where(mask, pixels.flip(3), pixels), codes

    def chosen(self, places: Tensor) -> _Examples:
        """Return some of them."""
        return _Examples(self.pixels[places], self.codes[places], self.mirrored[places])


@technique(
    "train-decoder",
    title="Train a decoder",
    family="synthesis",
    runs="job",
    source=(
        "Dosovitskiy and Brox 2016, Generating Images with Perceptual Similarity Metrics based on "
        "Deep Networks, arXiv:1602.02644"
    ),
    outputs={
        "preview": "pictures it was not trained on, above what it draws from their features",
        "decoder": "the trained decoder, a safetensors file",
    },
    work=_work,
)
def train_decoder(
    model: VisionModel,
    params: TrainDecoderParams,
    collections: Collections,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Train a network that turns a vision network's features back into pictures.

    It learns from the collection to draw what has the same pixels and the same features. The
    adversary of the paper is left out: drawings are softer, and training cannot fail to converge.
    Activation maximisation takes the decoder as its method `decoder`.
    """
    layer = params.layer or model.cam_layer
    collection = collections.find(params.collection)
    architecture = Architecture(_code_shape(model, layer, params), params.size, params.width)
    count = min(len(collection), params.looked_at)
    is_kept = count * (3 * params.size**2 + 2 * 4 * math.prod(architecture.code)) <= MOST_KEPT
    looks = Looks(progress, checkpoints, count, BATCH, params.steps, is_kept)
    examples = _examples(model, collection, layer, params, looks)
    order = torch.randperm(len(examples.pixels), generator=generator)
    apart = max(1, min(params.held_out, len(order) // 4))
    held, training = examples.chosen(order[:apart]), examples.chosen(order[apart:])
    decoder = _new(model, layer, architecture, training, params, generator)
    trace = ascend(
        _Loss(model, decoder, training, params, generator),
        torch.optim.Adam(decoder.network.parameters()),
        steps=params.steps,
        progress=progress,
        span=looks.span,
        preview=lambda: _sheet(decoder, held).sheet(),
        rate=lambda step: params.learning_rate * _schedule(step / params.steps),
        clip_norm=1.0,
        settled=Settled(window=200, gain=1e-3),
        checkpoints=checkpoints,
        generator=generator,
    )
    _round(decoder.network)
    sheet = _sheet(decoder, held)
    wanted, drawn = sheet.images.chunk(2)
    average = (training.pixels.float().mean(0) / 255).expand_as(wanted)
    facts = {
        "steps": len(trace.losses),
        "settled": trace.settled,
        "loss": round(trace.losses[-1], 6),
        "psnr": round(psnr(drawn, wanted), 3),
        "psnr_of_mean": round(psnr(average, wanted), 3),
        "layer": layer,
        "parameters": sum(p.numel() for p in decoder.network.parameters()),
    }
    said = {name: str(fact) for name, fact in facts.items() if name != "layer"}
    weights = decoder.weights("decoder", {**said, "collection": collection.digest})
    return Outcome((sheet, weights), facts)


# --- Pictures and codes ------------------------------------------------------------------------


def _code_shape(model: VisionModel, layer: str, params: TrainDecoderParams) -> tuple[int, ...]:
    shape = model.shape(layer)
    code = shape[:1] if params.pooled else shape
    if not Architecture(code, params.size, params.width).is_legal():
        found = "x".join(map(str, code))
        raise InvalidParameter(
            f"the code would be {found}; a code is a vector of at most {MOST_CHANNELS} values, or "
            f"a map of at most {MOST_SIDE} a side, no larger than the picture, and {MOST_UNITS} "
            "values: choose a deeper layer, or pooled",
            pointer="/params/layer",
        )
    return code


def _examples(
    model: VisionModel,
    collection: Collection,
    layer: str,
    params: TrainDecoderParams,
    looks: Looks,
) -> _Examples:
    """Look at every picture once; codes come from the network's own size, as it was trained."""
    count = looks.count
    if count < 2:
        raise InvalidParameter(
            "the collection has one picture; a decoder needs at least 2", pointer=POINTER
        )
    places = spread(len(collection), count)

    def framed(place: int) -> Tensor:
        return model.frame(collection.entry(place).image, "crop").pixels

    def preview(at: int) -> Callable[[], Image]:
        return lambda: Image(framed(places[at])[0].cpu())

    def found() -> dict[str, Tensor]:
        with torch.inference_mode(), model.capture([layer]) as features:

            def codes(pixels: Tensor) -> Tensor:
                return _code(features(pixels)[layer], pooled=params.pooled)

            def look(at: int) -> dict[str, Tensor]:
                seen = torch.cat([framed(place) for place in places[at : at + BATCH]])
                pixels = torch.stack([_small(picture, params.size) for picture in seen.cpu()])
                return {"pixels": pixels, "codes": codes(seen), "mirrored": codes(seen.flip(3))}

            return looks.through(look, preview)

    if not looks.is_kept:
        return _Examples(**found())
    names = [field.name for field in dataclasses.fields(_Examples)]
    return _Examples(**looks.checkpoints.remember_all(names, found))


def _small(pixels: Tensor, size: int) -> Tensor:
    return (Image(pixels).resize(size, size).pixels * 255).round().to(torch.uint8)


def _code(activation: Tensor, *, pooled: bool) -> Tensor:
    if pooled and activation.dim() == 4:
        activation = activation.mean((2, 3))
    return activation.float().cpu().clone()


# --- Training ----------------------------------------------------------------------------------


def _new(
    model: VisionModel,
    layer: str,
    architecture: Architecture,
    training: _Examples,
    params: TrainDecoderParams,
    generator: torch.Generator,
) -> Decoder:
    """Make an untrained decoder that knows the mean and the spread of each unit of a code."""
    codes = torch.cat([training.codes, training.mirrored])
    std = codes.std(0)
    # a unit that hardly ever moves would be magnified into noise
    std = std.clamp_min(float(std.mean()) * 0.05 + 1e-6)
    # module constructors draw from the global generator; leave the caller's as it was
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        network = DecoderNetwork(architecture)
    origin = Origin(model.name, model.weights_sha256, layer, params.pooled)
    return Decoder(origin, network, codes.mean(0), std).to(model.device)


class _Loss:
    """Errors of pixels and of features of what is drawn from the codes of a batch."""

    def __init__(
        self,
        model: VisionModel,
        decoder: Decoder,
        training: _Examples,
        params: TrainDecoderParams,
        generator: torch.Generator,
    ) -> None:
        self._model, self._decoder, self._training = model, decoder, training
        self._params, self._generator = params, generator

    def __call__(self, step: int) -> Tensor:
        params, generator, device = self._params, self._generator, self._model.device
        places = torch.randint(len(self._training.pixels), (params.batch,), generator=generator)
        flipped = torch.rand(params.batch, generator=generator) < 0.5
        pixels, codes = (part.to(device) for part in self._training.batch(places, flipped))
        drawn = self._decoder.pictures(self._decoder.units(codes))
        error = params.pixel_weight * (drawn - pixels).square().mean()
        if params.feature_weight == 0:
            return error
        layers = self._model.content_layers
        down, right = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
        with self._model.quick(layers).capture(layers) as features:
            with torch.no_grad():
                wanted = features(self._shown(pixels, down, right))
            seen = features(self._shown(drawn, down, right))
            return error + params.feature_weight * content_loss(seen, wanted).mean()

    def _shown(self, pixels: Tensor, down: int, right: int) -> Tensor:
        """Return pictures as the network sees them: at a size it takes, and a little aside."""
        side = _side_shown(self._params, self._model)
        if pixels.shape[-1] != side:
            pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
        around = F.pad(pixels, (SHIFT,) * 4, mode="reflect")
        return around[:, :, down : down + side, right : right + side]


def _side_shown(params: TrainDecoderParams, model: VisionModel) -> int:
    """Return the side of pictures that the network looks at, px."""
    return params.size if model.any_size else model.input_size


def _schedule(share: float) -> float:
    """Fall along a cosine to 1 %."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))


def _round(network: DecoderNetwork) -> None:
    """Round the weights to what the file will hold, so that what is shown is what it will draw."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())


@torch.no_grad()
def _sheet(decoder: Decoder, held: _Examples) -> Grid:
    device = decoder.mean.device
    drawn = decoder.pictures(decoder.units(held.codes.to(device))).cpu()
    return Grid("preview", torch.cat([held.pixels.float() / 255, drawn]), len(drawn))
