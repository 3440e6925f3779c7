"""Decoders: trained, kept as a file that is checked, and used to make pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.artifact import SAFETENSORS, Grid, Result, Table, Weights
from lantern.checkpoint import Checkpoints
from lantern.collections.folder import open_folder
from lantern.collections.library import Collections
from lantern.decoders.canvas import Codes
from lantern.decoders.decoder import DamagedDecoder, Decoder, Origin, read
from lantern.decoders.library import Decoders
from lantern.decoders.network import Architecture, DecoderNetwork
from lantern.errors import InvalidParameter, LanternError, UnknownName
from lantern.image import Image
from lantern.progress import Suspended
from lantern.run import run
from lantern.vision_model import VisionModel

TINY = {"collection": "flat", "size": 16, "width": 4, "batch": 4, "steps": 6}


@pytest.fixture
def collections(tmp_path: Path) -> Collections:
    """Sixteen flat pictures, from blue to red."""
    for n in range(16):
        colour = torch.tensor([n / 15, 0.4, 1 - n / 15])
        image = Image(colour[:, None, None].expand(3, 36, 36).clone())
        (tmp_path / f"{n}.png").write_bytes(image.encode("image/png"))
    return Collections({"flat": lambda: open_folder(tmp_path, "flat")})


Train = Any


@pytest.fixture
def train(small_model: VisionModel, collections: Collections) -> Train:
    def train(checkpoints: Checkpoints | None = None, **params: Any) -> Result:
        return run(
            "train-decoder", {}, TINY | params, model=small_model, collections=collections,
            checkpoints=checkpoints,
        )  # fmt: skip

    return train


def file_of(result: Result) -> bytes:
    weights = result.artifacts[1]
    assert isinstance(weights, Weights)
    return weights.encode(SAFETENSORS)


def sheet_of(result: Result) -> Tensor:
    assert isinstance(result.principal, Grid)
    return result.principal.images


def use(model: VisionModel, data: bytes, **params: Any) -> Result:
    given = {"method": "decoder", "decoder": "own", "size": 48, "steps": 4}
    given |= {"objectives": ["class:3"]} | params
    return run(
        "activation-maximization", {}, given, model=model, decoders=Decoders({"own": lambda: data})
    )


# --- Training ----------------------------------------------------------------------------------


def test_pictures_it_was_not_trained_on_come_back(train: Train) -> None:
    result = train(steps=90, learning_rate=0.003, held_out=4)
    wanted, drawn = sheet_of(result).chunk(2)
    assert len(wanted) == 4
    error, spread = (drawn - wanted).square().mean(), (wanted - wanted.mean(0)).square().mean()
    assert error < spread / 2
    assert result.facts["psnr"] > result.facts["psnr_of_mean"] + 3
    assert result.facts["psnr"] == pytest.approx(float(-10 * error.log10()), abs=0.01)


@pytest.mark.parametrize(
    ("layer", "pooled", "code"),
    [
        ("conv2", True, (12,)),
        ("conv2", False, (12, 16, 16)),
        ("fc", True, (7,)),
        ("gap", False, (12, 1, 1)),
    ],
)
def test_any_layer_with_a_small_code_is_decoded(
    train: Train, layer: str, pooled: bool, code: tuple[int, ...], small_model: VisionModel
) -> None:
    result = train(layer=layer, pooled=pooled, steps=1)
    decoder = read(file_of(result))
    assert decoder.mean.shape == code
    assert decoder.origin == Origin("small", "0" * 64, layer, pooled)
    decoder.check(small_model)
    drawn = decoder.pictures(torch.zeros(2, *code))
    assert drawn.shape == (2, 3, 16, 16)


def test_a_code_that_is_too_large_is_refused(train: Train) -> None:
    for layer in ("conv1", "pool"):  # 32 a side where pictures have 16; and within the bounds
        if layer == "pool":
            train(layer=layer, pooled=False, steps=1)
            continue
        with pytest.raises(InvalidParameter, match="8x32x32") as caught:
            train(layer=layer, pooled=False)
        assert caught.value.pointer == "/params/layer"


def test_a_decoder_needs_pictures(small_model: VisionModel, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(Image(torch.rand(3, 40, 40)).encode("image/png"))
    alone = Collections({"flat": lambda: open_folder(tmp_path)})
    with pytest.raises(InvalidParameter) as caught:
        run("train-decoder", {}, TINY, model=small_model, collections=alone)
    assert caught.value.pointer == "/params/collection"


def test_both_are_moved_alike_before_each_look(
    small_model: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    along = torch.linspace(0, 0.5, 36)
    ramp = (along[:, None] + along).expand(3, 36, 36).clone()
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(Image(ramp).encode("image/png"))
    collections = Collections({"flat": lambda: open_folder(tmp_path)})
    looks: list[Tensor] = []
    prepared = VisionModel.prepared

    def look(model: VisionModel, pixels: Tensor) -> Tensor:
        looks.append(pixels.detach())
        return prepared(model, pixels)

    monkeypatch.setattr(VisionModel, "prepared", look)
    params = TINY | {"steps": 30, "size": 48}
    run("train-decoder", {}, params, model=small_model, collections=collections)

    def mirrored(pixels: Tensor, dim: int) -> int:
        """Return how many rows at the top (or left) are those below them, mirrored."""
        rows = pixels.unbind(dim)
        return max(
            m for m in range(5) if all(torch.equal(rows[m - n], rows[m + n]) for n in range(m + 1))
        )

    for dim in (2, 3):
        wanted, drawn = ([mirrored(seen, dim) for seen in looks[-60:][at::2]] for at in (0, 1))
        assert wanted == drawn
        assert set(wanted) == {0, 1, 2, 3, 4}


def test_training_that_is_resumed_ends_in_the_same_file(train: Train) -> None:
    saved: list[bytes] = []
    stop = iter([False, False, False, True])
    with pytest.raises(Suspended):
        train(Checkpoints(saved.append, suspend=lambda: next(stop)))
    resumed, whole = train(Checkpoints(saved=saved[-1])), train()
    assert file_of(resumed) == file_of(whole)
    assert torch.equal(sheet_of(resumed), sheet_of(whole))
    assert resumed.facts["loss"] == whole.facts["loss"]


def test_what_is_shown_is_what_the_file_draws(
    train: Train, small_model: VisionModel, collections: Collections
) -> None:
    result = train(held_out=4)
    wanted, drawn = sheet_of(result).chunk(2)
    decoder = read(file_of(result))
    found = 0
    for entry in collections.find("flat"):
        frame = small_model.frame(entry.image, "crop")
        small = Image(frame.pixels[0]).resize(16, 16).pixels
        places = [n for n in range(4) if torch.allclose(small, wanted[n], atol=2 / 255)]
        if places:
            with torch.no_grad(), small_model.capture(["conv2"]) as features:
                code = features(frame.pixels)["conv2"].mean((2, 3))
            assert torch.allclose(
                decoder.pictures(decoder.units(code))[0], drawn[places[0]], atol=1e-3
            )
            found += 1
    assert found == 4


# --- The file ----------------------------------------------------------------------------------


def made(**changes: Any) -> dict[str, Tensor]:
    network = DecoderNetwork(Architecture((12,), 16, 4))
    tensors = {f"network.{k}": v.half() for k, v in network.state_dict().items()}
    return tensors | {"mean": torch.zeros(12), "std": torch.ones(12)} | changes


FACTS = {
    "kind": "lantern-decoder-1", "code": "[12]", "size": "16", "width": "4", "network": '"small"',
    "weights_sha256": json.dumps("0" * 64), "layer": '"conv2"', "pooled": "true",
}  # fmt: skip


def packed(tensors: dict[str, Tensor] | None = None, **facts: str) -> bytes:
    return safetensors.torch.save(tensors or made(), metadata=FACTS | facts)


def test_a_decoder_is_read_as_it_was_written() -> None:
    generator = torch.Generator().manual_seed(0)
    network = DecoderNetwork(Architecture((12, 2, 2), 32, 4)).eval()
    mean, std = (torch.rand(12, 2, 2, generator=generator) + 0.1 for _ in range(2))
    written = Decoder(Origin("small", "ab", "conv2", False), network, mean, std)
    decoder = read(written.weights("decoder", {"steps": "3"}).encode(SAFETENSORS))
    assert decoder.origin == written.origin
    codes = torch.rand(3, 12, 2, 2, generator=generator)
    assert torch.allclose(decoder.units(codes), (codes - mean) / std)
    with torch.no_grad():
        assert torch.allclose(decoder.pictures(codes), network(codes), atol=2e-3), (
            "half precision loses more than it may"
        )
    assert not any(parameter.requires_grad for parameter in decoder.network.parameters())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x80\x04K\x01.", packed()[:-8], packed()[:200],
        b"\xff" * 7 + b"\x7f" + packed()[8:],
        safetensors.torch.save(made()),
        packed(kind="another"), packed(size="17"), packed(size="1048576"), packed(width="1000"),
        packed(width="8"), packed(code="[13]"), packed(code="[]"), packed(code='["12"]'),
        packed(code="[12, 1, 1]"), packed(size="true"), packed(size="{"),
        packed(made(std=torch.zeros(12))), packed(made(mean=torch.full((12,), torch.nan))),
        packed(made(std=torch.ones(13))), packed(made(extra=torch.zeros(1))),
        packed(made(**{"network.extra": torch.zeros(1)})),
    ],
)  # fmt: skip
def test_a_damaged_file_is_told_and_nothing_of_it_runs(data: bytes) -> None:
    with pytest.raises(DamagedDecoder) as caught:
        read(data)
    assert caught.value.pointer == "/params/decoder"


def test_a_tensor_that_is_missing_is_told() -> None:
    for name in made():
        tensors = made()
        del tensors[name]
        with pytest.raises(DamagedDecoder):
            read(packed(tensors))


# --- Making pictures ---------------------------------------------------------------------------


def test_pictures_are_drawn_by_the_decoder_from_codes_near_the_mean(
    small_model: VisionModel,
) -> None:
    decoder = read(packed())
    generator = torch.Generator().manual_seed(0)
    canvas = Codes(decoder, 2, 16, generator)
    (code,) = canvas.parameters
    assert torch.allclose(canvas.pixels(), decoder.network(code))
    with torch.no_grad():
        code[0, 0], code[1, 1] = 9.0, -9.0
        canvas.project()
        assert (code.max().item(), code.min().item()) == (3, -3)


def test_the_objective_is_reached_further_than_by_any_of_many_codes(
    small_model: VisionModel, train: Train
) -> None:
    data = file_of(train(steps=60, learning_rate=0.003))
    table = use(small_model, data, steps=40, l2=0, learning_rate=0.3, jitter=0, scale=0)
    codes = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    drawn = F.interpolate(read(data).pictures(codes), size=48, mode="bilinear")
    with torch.no_grad():
        best = float(small_model.logits(drawn)[:, 3].max())
    rows = table.artifacts[1]
    assert isinstance(rows, Table)
    assert rows.rows[0]["value"] > best


def test_its_pictures_have_less_grain_than_those_made_of_pixels(
    small_model: VisionModel, train: Train
) -> None:
    def grain(result: Result) -> float:
        table = result.artifacts[1]
        assert isinstance(table, Table)
        return float(table.rows[0]["high_frequency_share"])

    data = file_of(train(steps=30, learning_rate=0.003))
    given = {"method": "pixels", "size": 48, "steps": 20, "objectives": ["class:3"]}
    pixels = run("activation-maximization", {}, given, model=small_model)
    assert grain(use(small_model, data, steps=20)) < grain(pixels) / 2


def test_the_weight_of_the_code_keeps_it_near_its_mean(
    small_model: VisionModel, train: Train
) -> None:
    data = file_of(train(steps=60, learning_rate=0.003))
    average = read(data).pictures(torch.zeros(1, 12))
    near, far = (sheet_of(use(small_model, data, steps=40, l2=weight)) for weight in (100.0, 0.0))
    wanted = F.interpolate(average, size=48, mode="bilinear")
    assert (near - wanted).abs().mean() < (far - wanted).abs().mean() / 2


def test_pictures_say_which_decoder_drew_them(small_model: VisionModel) -> None:
    data = packed()
    facts = use(small_model, data).facts
    assert facts["decoder"] == {"layer": "conv2", "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize(
    "facts",
    [
        {"network": '"large"'},
        {"weights_sha256": '"11"'},
        {"layer": '"relu9"'},
        {"layer": '"fc"'},
        {"pooled": "false"},
    ],
)
def test_a_decoder_of_another_network_or_layer_is_refused(
    small_model: VisionModel, facts: dict[str, str]
) -> None:
    with pytest.raises(LanternError) as caught:
        use(small_model, packed(None, **facts))
    assert caught.value.pointer == "/params/decoder"


@pytest.mark.parametrize(
    "params", [{"decoder": None}, {"method": "pixels"}, {"decoder": "unknown"}]
)
def test_a_decoder_is_named_where_it_is_needed_and_only_there(
    small_model: VisionModel, params: dict[str, Any]
) -> None:
    with pytest.raises((InvalidParameter, UnknownName)) as caught:
        use(small_model, packed(), **params)
    assert caught.value.pointer == "/params/decoder"
