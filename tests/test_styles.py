"""Style networks paint any picture, and are kept and read safely."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lantern.artifact import SAFETENSORS
from lantern.errors import InvalidParameter, UnknownName
from lantern.image import Image
from lantern.run import run
from lantern.styles.engine import Engine, Hands, engine_for, openvino_engine, torch_engine
from lantern.styles.files import DamagedStyle
from lantern.styles.joined import joined
from lantern.styles.library import SHARED, Style, StyleLibrary
from lantern.styles.network import (
    CLASSIC,
    Architecture,
    StyleNetwork,
    pad_to_multiple,
)
from lantern.styles.painting import Painter
from lantern.styles.trained import network_weights, read_network

FOLDER = Path(__file__).resolve().parent.parent / "model_store" / "styles"
SMALL = Architecture(width=4, blocks=1)
SHIPPED = sorted(json.loads((FOLDER / "styles.json").read_text()))


def network(architecture: Architecture = SMALL) -> StyleNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return StyleNetwork(architecture).eval().requires_grad_(False)


def write(made: StyleNetwork, path: Path) -> None:
    path.write_bytes(network_weights("style", made, {}).encode(SAFETENSORS))


def in_float32(made: StyleNetwork, hands: Hands = "own") -> Engine:
    return torch_engine(made, torch.float32, hands)


def levels(pixels: torch.Tensor) -> torch.Tensor:
    """Return 8-bit levels as they would be written to a file."""
    return pixels.clamp(0, 1).mul(255).round()


# --- Networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture",
    [SMALL, Architecture(), Architecture(width=8, ends=5, blocks=2), CLASSIC],
    ids=["small", "folded", "wide ends", "classic"],
)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 36), (8, 12), (20, 100)])
def test_networks_keep_sizes(architecture: Architecture, height: int, width: int) -> None:
    pixels = torch.rand(2, 3, height, width)
    painted = network(architecture)(pixels)
    assert painted.shape == pixels.shape
    assert painted.min() >= 0
    assert painted.max() <= 1


def test_the_classic_network_is_the_papers() -> None:
    convolutions = [m for m in network(CLASSIC).modules() if isinstance(m, nn.Conv2d)]
    shapes = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions]
    # Johnson et al. 2016, supplementary table 1
    assert shapes == [
        (3, 32, 9, 1), (32, 64, 3, 2), (64, 128, 3, 2),
        *[(128, 128, 3, 1)] * 10,
        (128, 64, 3, 1), (64, 32, 3, 1), (32, 3, 9, 1),
    ]  # fmt: skip


def test_a_folded_network_begins_without_a_grid() -> None:
    painted = network()(torch.rand(1, 3, 32, 32))
    blocks = painted.view(1, 3, 16, 2, 16, 2)
    assert torch.allclose(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks), atol=1e-6)


def test_samples_of_a_batch_do_not_touch_each_other() -> None:
    made, pixels = network(), torch.rand(3, 3, 24, 24)
    alone = torch.cat([made(sample[None]) for sample in pixels])
    assert torch.allclose(made(pixels), alone, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (5, 11), (10, 7)])
def test_padding_reaches_the_next_multiple_and_mirrors(height: int, width: int) -> None:
    pixels = torch.rand(1, 3, height, width)
    padded = pad_to_multiple(pixels)
    assert padded.shape[-2] - height in range(4)
    assert padded.shape[-1] - width in range(4)
    assert padded.shape[-2] % 4 == padded.shape[-1] % 4 == 0
    down, right = padded.shape[-2] - height, padded.shape[-1] - width
    mirrored = np.pad(pixels.numpy(), ((0, 0), (0, 0), (0, down), (0, right)), "reflect")
    assert np.array_equal(padded.numpy(), mirrored)


@pytest.mark.parametrize("architecture", [SMALL, Architecture(width=4, ends=5), CLASSIC])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (20, 28), (8, 40)])
def test_enlarging_and_convolving_may_be_joined(
    architecture: Architecture, height: int, width: int
) -> None:
    made = network(architecture)
    before, chance = copy.deepcopy(made.state_dict()), torch.get_rng_state()
    quick = joined(made)
    assert torch.equal(torch.get_rng_state(), chance)
    assert not any(isinstance(module, nn.Upsample) for module in quick.modules())
    pixels = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    hands = torch.stack([made.hand(), 1.5 * made.hand()])
    for given, measured in ((None, False), (hands, False), (hands, True)):
        wanted = made(pixels, given, measured=measured)
        assert torch.allclose(quick(pixels, given, measured=measured), wanted, atol=2e-6)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


# --- Engines -----------------------------------------------------------------------------------


def test_openvino_paints_what_torch_paints(styles: StyleLibrary, photo: Image) -> None:
    made = read_network(FOLDER / "starry-night.safetensors")
    engine = openvino_engine(made)
    assert engine is not None
    assert engine.name in ("openvino-float32", "openvino-bfloat16")
    reference = in_float32(made)
    for height, width in ((128, 128), (84, 128), (200, 64)):
        pixels = photo.resize(height, width).pixels[None]
        painted, wanted = engine.forward(pixels), reference.forward(pixels)
        assert painted.dtype == torch.float32
        assert painted.shape == pixels.shape
        assert (levels(painted) - levels(wanted)).abs().mean() <= 1.5
        assert wanted.std() > 0.05


def test_an_engine_does_not_write_over_what_it_painted_before() -> None:
    engine = openvino_engine(network())
    assert engine is not None
    first = engine.forward(torch.zeros(1, 3, 16, 16))
    kept = first.clone()
    engine.forward(torch.ones(1, 3, 16, 16))
    assert torch.equal(first, kept)


def test_the_fallback_without_openvino_paints_the_same(
    monkeypatch: pytest.MonkeyPatch, photo: Image
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    made = network()
    assert openvino_engine(made) is None
    engine = engine_for(made)
    assert engine.name in ("torch-cpu-float32", "torch-cpu-bfloat16")
    pixels = photo.resize(64, 96).pixels[None]
    painted = engine.forward(pixels)
    assert painted.dtype == torch.float32
    assert (levels(painted) - levels(made(pixels))).abs().mean() <= 1.5


def test_torch_engines_leave_the_network_as_it_is() -> None:
    made = network()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    torch_engine(made, torch.bfloat16).forward(torch.rand(1, 3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert {value.dtype for value in made.state_dict().values()} == {torch.float32}


# --- The library -------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, picture: Image) -> StyleLibrary:
    made = StyleLibrary(tmp_path / "styles", engine=in_float32)
    made.add("dots", network(), picture, title="Dots", facts={"seed": 2})
    return made


def test_a_network_comes_back_to_half_precision(tmp_path: Path) -> None:
    for architecture in (SMALL, CLASSIC):
        made = network(architecture)
        write(made, tmp_path / "made.safetensors")
        again = read_network(tmp_path / "made.safetensors")
        assert again.architecture == architecture
        assert not again.training
        assert not any(parameter.requires_grad for parameter in again.parameters())
        for name, value in made.state_dict().items():
            assert again.state_dict()[name].dtype == torch.float32
            assert torch.allclose(again.state_dict()[name], value, rtol=2**-10, atol=1e-7)
        pixels = torch.rand(1, 3, 32, 32)
        assert (levels(again(pixels)) - levels(made(pixels))).abs().max() <= 2


def test_reading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    write(network(), tmp_path / "made.safetensors")
    before = torch.get_rng_state()
    read_network(tmp_path / "made.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_an_added_style_is_found_again(library: StyleLibrary, picture: Image) -> None:
    again = StyleLibrary(library.folder)
    assert again.styles() == {
        "dots": Style("dots", "Dots", "dots.jpg", {"seed": 2}, file="dots.safetensors")
    }
    thumbnail = Image.decode((library.folder / again.style("dots").thumbnail).read_bytes())
    assert (thumbnail.height, thumbnail.width) == (picture.height, picture.width)
    again.add("waves", network(), picture, title="Waves", facts={})
    assert list(library.styles()) == ["dots", "waves"]
    again.add("dots", network(), picture, title="More dots", facts={})
    assert [style.title for style in library.styles().values()] == ["More dots", "Waves"]
    assert not list(library.folder.glob("*.new"))


def test_no_style_takes_the_place_of_the_shared_network(
    library: StyleLibrary, picture: Image
) -> None:
    with pytest.raises(InvalidParameter, match=r"shared\.safetensors is the network"):
        library.add("shared", network(), picture, title="Shared", facts={})
    assert not (library.folder / SHARED).exists()


def test_an_empty_folder_has_no_styles(tmp_path: Path) -> None:
    assert StyleLibrary(tmp_path / "nothing").styles() == {}


def test_an_unknown_style_is_answered_with_the_known_ones(library: StyleLibrary) -> None:
    for find in (library.style, lambda name: library.painter({name: 1.0})):
        with pytest.raises(
            UnknownName, match=r"did you mean dots\? the styles are: dots"
        ) as caught:
            find("dot")
        assert (caught.value.code, caught.value.pointer) == ("unknown-style", "/params/style")


def foreign_files(folder: Path) -> dict[str, bytes]:
    """Return files that are no weights of a style network, by what is wrong with them."""
    path, made = folder / "other", network()
    write(made, path)
    whole = path.read_bytes()
    weights = {name: value.half() for name, value in made.state_dict().items()}
    said = json.dumps(dataclasses.asdict(SMALL))
    files = {"empty": b"", "text": b"<html>404</html>", "cut": whole[:-100], "head": whole[:20]}

    def saved(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> bytes:
        save_file(tensors, path, metadata=metadata)
        return path.read_bytes()

    files["no architecture"] = saved(weights, None)
    files["architecture no json"] = saved(weights, {"architecture": "{"})
    files["architecture unknown"] = saved(weights, {"architecture": '{"depth": 3}'})
    files["architecture no record"] = saved(weights, {"architecture": "3"})
    files["architecture negative"] = saved(weights, {"architecture": '{"width": -4}'})
    files["other architecture"] = saved(weights, {"architecture": '{"width": 8}'})
    files["weights missing"] = saved(dict(list(weights.items())[1:]), {"architecture": said})
    files["weights too many"] = saved(weights | {"x": torch.zeros(1)}, {"architecture": said})
    torch.save(made.state_dict(), path)
    files["pickle"] = path.read_bytes()
    return files


def test_damaged_and_foreign_files_are_refused(library: StyleLibrary) -> None:
    path = library.folder / "dots.safetensors"
    for what, data in foreign_files(library.folder).items():
        path.write_bytes(data)
        with pytest.raises(
            DamagedStyle, match=r"dots\.safetensors is missing or damaged"
        ) as caught:
            library.painter({"dots": 1.0})
        assert caught.value.pointer == "/params/style", what
    path.unlink()
    with pytest.raises(DamagedStyle):
        library.painter({"dots": 1.0})
    # and once it is there again, it works
    write(network(), path)
    assert library.painter({"dots": 1.0}).hand is None


def test_engines_are_made_once(library: StyleLibrary) -> None:
    def painter() -> Painter:
        return library.painter({"dots": 1.0})

    assert painter().whole is painter().whole
    assert painter().tiles() is painter().tiles()


def test_a_replaced_file_is_read_again(library: StyleLibrary) -> None:
    first = library.painter({"dots": 1.0})
    write(network(), library.folder / "dots.safetensors")
    assert library.painter({"dots": 1.0}).whole is not first.whole


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 23), (31, 18), (64, 8), (5, 40)])
def test_a_picture_is_painted_at_its_own_size(
    library: StyleLibrary, height: int, width: int
) -> None:
    pixels, alpha = torch.rand(3, height, width), torch.rand(height, width)
    painted = library.painter({"dots": 1.0}).paint(Image(pixels, alpha=alpha, notes=("kept",)))
    assert painted.pixels.shape == pixels.shape
    assert painted.alpha is alpha
    assert painted.notes == ("kept",)
    assert torch.isfinite(painted.pixels).all()


@pytest.mark.parametrize(("height", "width"), [(65, 67), (127, 85)])
def test_openvino_paints_odd_sizes(height: int, width: int, styles: StyleLibrary) -> None:
    painted = styles.painter({"starry-night": 1.0}).paint(Image(torch.rand(3, height, width)))
    assert painted.pixels.shape == (3, height, width)


def test_padding_changes_nothing_far_from_the_edge() -> None:
    same = Engine("same", lambda pixels, hand: pixels)
    image = Image(torch.rand(3, 21, 30))
    painter = Painter(network(), same, lambda: same)
    assert torch.equal(painter.paint(image).pixels, image.pixels)


# --- The technique -----------------------------------------------------------------------------


def test_strength_blends_with_the_photograph(library: StyleLibrary, picture: Image) -> None:
    def painted(strength: float) -> torch.Tensor:
        params = {"style": "dots", "strength": strength}
        artifact = run("fast-style", {"image": picture}, params, styles=library).principal
        return torch.from_numpy(artifact.arrays()["picture"])

    full, none, half = painted(1.0), painted(0.0), painted(0.5)
    assert torch.allclose(none, picture.pixels, atol=1e-6)
    assert torch.allclose(half, (full + picture.pixels) / 2, atol=1e-6)
    assert not torch.allclose(full, picture.pixels, atol=1e-2)


def test_large_photographs_are_shrunk_to_the_size_asked_for(library: StyleLibrary) -> None:
    image = Image(torch.rand(3, 90, 120))
    params: dict[str, Any] = {"style": "dots", "size": 64}
    result = run("fast-style", {"image": image}, params, styles=library)
    assert result.principal.arrays()["picture"].shape == (3, 48, 64)
    assert result.facts["engine"] == "torch-cpu-float32"


# --- What is shipped ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_style_is_whole(name: str, styles: StyleLibrary, photo: Image) -> None:
    style = styles.style(name)
    if style.file:
        assert (FOLDER / style.file).stat().st_size <= 4 * 2**20
    painted = styles.painter({name: 1.0}).paint(photo).pixels
    assert torch.isfinite(painted).all()
    assert painted.std() > 0.05
    thumbnail = Image.decode((FOLDER / style.thumbnail).read_bytes())
    assert 64 <= max(thumbnail.height, thumbnail.width) <= 1024
    assert style.title
    assert {"painting", "params", "losses", "command"} <= style.facts.keys()


def test_every_file_of_the_store_belongs_to_a_style(styles: StyleLibrary) -> None:
    kept = {path.name for path in FOLDER.iterdir()} - {"styles.json"}
    named = {f for s in styles.styles().values() for f in (s.file, s.thumbnail) if f}
    assert kept - {SHARED} == named
