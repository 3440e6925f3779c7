"""Weights are found, checked and kept; nothing in them is ever run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lantern.errors import UnknownName, WeightsMissing
from lantern.imagenet import imagenet_labels
from lantern.records import DEFAULT_MODEL, RECORDS, Record, record
from lantern.torchvision_import import models
from lantern.vision_model import VisionModel
from lantern.zoo import Zoo, fetch, load, sketch

# As torchvision names them, and as people have them on their disks
FILES = {
    "squeezenet1-0": "squeezenet1_0-b66bff10.pth",
    "squeezenet1-1": "squeezenet1_1-b8a52dc0.pth",
    "alexnet": "alexnet-owt-7be5be79.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg19": "vgg19-dcbb9e9d.pth",
    "googlenet": "googlenet-1378be20.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "densenet121": "densenet121-a639ec97.pth",
    "vit-b-16": "vit_b_16-c867db91.pth",
    "swin-t": "swin_t-704ceda3.pth",
}


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights of an empty TORCH_HOME."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def randomised(network: nn.Module) -> nn.Module:
    """Give a network weights of its own under which its answer depends on the picture."""
    chance = torch.Generator().manual_seed(5)
    for value in network.state_dict().values():
        if value.dim() > 1:  # He et al. 2015, equation 10
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=chance)
        elif value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=chance)
    return network.eval()


def normalised(pixels: Tensor) -> Tensor:
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    return ((pixels.permute(0, 2, 3, 1) - mean) / std).permute(0, 3, 1, 2)


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the layers inside a dense layer as checkpoints of 2017 do."""
    pattern = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))([12])\.")
    return {pattern.sub(r"\1.\2.", name): value for name, value in state.items()}


# --- Loading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "build", "rename"),
    [
        ("squeezenet1-0", models.squeezenet1_0, dict),
        (
            "googlenet",  # the file has the auxiliary heads, the network in use has not
            functools.partial(
                models.googlenet, aux_logits=True, transform_input=True, init_weights=False
            ),
            dict,
        ),
        ("densenet121", models.densenet121, old_names),
    ],
)
def test_weights_load_as_torchvision_loads_them(
    name: str,
    build: Callable[[], nn.Module],
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    checkpoints: Path,
) -> None:
    network = randomised(build())
    path = checkpoints / FILES[name]
    torch.save(rename(network.state_dict()), path)
    loaded = Zoo(downloads=False).load(name)
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    pixels[1, 0] *= 0.3
    with torch.inference_mode():
        got, wanted = loaded.logits(pixels), network(normalised(pixels))
    spread = (wanted[0] - wanted[1]).abs().max()
    assert spread > 1e-3 * wanted.abs().max()
    assert (got - wanted).abs().max() < 1e-2 * spread
    assert loaded.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.label(285) == "Egyptian cat"


def test_the_test_renames_something(checkpoints: Path) -> None:
    with torch.device("meta"):
        state = models.densenet121().state_dict()
    assert "features.denseblock1.denselayer1.norm.1.weight" in old_names(state)
    assert "features.denseblock1.denselayer1.norm1.weight" in state


def test_the_default_network_knows_a_cat(model: Any, photo: Any) -> None:
    assert model.name == DEFAULT_MODEL
    logits = model.logits(model.frame(photo).pixels)
    assert "cat" in model.label(int(logits.argmax()))
    assert len(model.labels) == 1000
    assert re.fullmatch("[0-9a-f]{64}", model.weights_sha256)


def test_an_unknown_network_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean resnet50") as caught:
        Zoo(downloads=False).load("resnet5")
    assert "squeezenet1-0" in caught.value.detail
    assert (caught.value.code, caught.value.pointer) == ("unknown-model", "/params/model")


# --- Records -----------------------------------------------------------------------------------


def test_weights_have_the_names_they_have_everywhere(checkpoints: Path) -> None:
    named = {name: RECORDS[name].weights_path() for name in RECORDS if name != DEFAULT_MODEL}
    assert named == {name: checkpoints / file for name, file in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_downloads_come_from_torchvisions_address(name: str) -> None:
    url = RECORDS[name].weights_url
    assert url is not None
    assert url() == f"https://download.pytorch.org/models/{FILES[name]}"


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_is_complete(name: str) -> None:
    rec = RECORDS[name]
    assert rec.name == name
    assert rec.licence
    assert len(rec.mean) == len(rec.std) == 3
    assert rec.style_layers
    assert rec.content_layers
    with torch.device("meta"):
        modules = dict(rec.build().named_modules())
    presets = {rec.cam_layer, rec.dream_layer, *rec.style_layers, *rec.content_layers}
    assert presets <= modules.keys()


def test_the_state_of_weights(checkpoints: Path) -> None:
    rec = record("alexnet")
    assert rec.weights_state(downloads=False) == "missing"
    assert rec.weights_state(downloads=True) == "downloadable"
    (checkpoints / FILES["alexnet"]).write_bytes(b"x")
    assert rec.weights_state(downloads=False) == "ready"
    packaged = record(DEFAULT_MODEL)
    assert packaged.weights_state(downloads=False) == "ready"
    gone = dataclasses.replace(packaged, weights_path=lambda: checkpoints / "gone")
    assert gone.weights_state(downloads=True) == "missing"


# --- Missing and damaged weights ---------------------------------------------------------------


def test_missing_weights_say_what_to_do(checkpoints: Path) -> None:
    with pytest.raises(WeightsMissing) as caught:
        Zoo(downloads=False).load("vgg16")
    assert "`lantern models --fetch vgg16`" in caught.value.detail
    assert "docs/operate.md" in caught.value.detail
    assert "vgg16-397923af.pth into $TORCH_HOME/hub/checkpoints" in caught.value.detail
    assert caught.value.pointer == "/params/model"
    assert str(checkpoints) not in caught.value.detail


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = str(proof)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.proof,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    checkpoints: Path, tmp_path: Path
) -> None:
    path, proof = checkpoints / FILES["squeezenet1-0"], tmp_path / "proof"
    pickle.loads(pickle.dumps(Evil(proof)))
    assert proof.is_dir(), "the pickle does nothing"
    proof.rmdir()
    writers: list[Callable[[], object]] = [
        lambda: torch.save({"features.0.weight": Evil(proof)}, path),
        lambda: torch.save(Evil(proof), path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps(Evil(proof))),
    ]
    for write in writers:
        write()
        with pytest.raises(WeightsMissing, match="damaged"):
            Zoo(downloads=False).load("squeezenet1-0")
        assert not proof.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_damaged_weights_are_refused(checkpoints: Path) -> None:
    path = checkpoints / FILES["squeezenet1-0"]
    with torch.device("meta"):
        other = models.squeezenet1_1().state_dict()
    torch.save({name: torch.zeros(value.shape) for name, value in other.items()}, path)
    foreign = path.read_bytes()
    damaged = [
        foreign,
        foreign[:-1000],
        foreign[: len(foreign) // 2],
        b"",
        b"<html>404</html>",
        bytes(1000),
        pickle.dumps(["not", "a", "state"]),
        pickle.dumps({1: 2}),
    ]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(WeightsMissing, match="damaged or of another network"):
            Zoo(downloads=False).load("squeezenet1-0")


# --- Fetching ----------------------------------------------------------------------------------


def fetchable(tmp_path: Path, checkpoints: Path, digest: str) -> Record:
    source = tmp_path / "server" / f"tiny-{digest}.pth"
    source.parent.mkdir()
    source.write_bytes(b"weights")
    return dataclasses.replace(
        record("squeezenet1-0"),
        name="tiny",
        weights_path=lambda: checkpoints / "deep" / source.name,
        weights_url=source.as_uri,
    )


def test_fetching_checks_the_digest_in_the_name(tmp_path: Path, checkpoints: Path) -> None:
    rec = fetchable(tmp_path, checkpoints, hashlib.sha256(b"weights").hexdigest()[:8])
    assert fetch(rec).read_bytes() == b"weights"
    rec.weights_path().write_bytes(b"kept")
    assert fetch(rec).read_bytes() == b"kept"


def test_weights_that_are_not_what_they_should_be_are_not_kept(
    tmp_path: Path, checkpoints: Path
) -> None:
    rec = fetchable(tmp_path, checkpoints, "00000000")
    with pytest.raises(WeightsMissing, match="could not be downloaded"):
        fetch(rec)
    assert list(rec.weights_path().parent.iterdir()) == []


def test_what_cannot_be_reached_is_missing(tmp_path: Path, checkpoints: Path) -> None:
    rec = fetchable(tmp_path, checkpoints, "00000000")
    gone = dataclasses.replace(rec, weights_url=(tmp_path / "gone").as_uri)
    with pytest.raises(WeightsMissing, match="lantern models --fetch tiny"):
        load(gone, downloads=True)
    with pytest.raises(WeightsMissing, match="a package that is not installed"):
        fetch(dataclasses.replace(rec, weights_url=None))


# --- Keeping -----------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the networks built, of four tiny ones that are in the zoo for the test."""
    names: list[str] = []

    def build(name: str) -> nn.Module:
        names.append(name)
        return nn.Linear(2, 2)

    path = tmp_path / "tiny.pth"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    for name in "abcd":
        rec = dataclasses.replace(
            record("alexnet"),
            name=name,
            build=functools.partial(build, name),
            weights_path=lambda: path,
        )
        monkeypatch.setitem(RECORDS, name, rec)
    return names


def test_a_network_is_loaded_once(built: list[str]) -> None:
    animals = Zoo(downloads=False)
    assert animals.load("a") is animals.load("a")
    assert built == ["a"]


def test_a_network_whose_weights_are_replaced_is_loaded_again(
    built: list[str], tmp_path: Path
) -> None:
    animals = Zoo(downloads=False)
    first = animals.load("a")
    other = nn.Linear(2, 2)
    torch.save(other.state_dict(), tmp_path / "tiny.pth")
    second = animals.load("a")
    assert second.weights_sha256 != first.weights_sha256
    assert animals.load("a") is second
    (tmp_path / "tiny.pth").unlink()
    assert animals.load("a") is second
    assert built == ["a", "a"]


def test_a_network_is_kept_while_what_replaces_it_cannot_be_read(
    built: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    animals, weights = Zoo(downloads=False), tmp_path / "tiny.pth"
    first, whole = animals.load("a"), weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert animals.load("a") is first
    assert animals.load("a") is first
    assert [entry.levelname for entry in caplog.records] == ["WARNING"], "it is tried once"
    weights.write_bytes(whole)
    assert animals.load("a") is not first
    with pytest.raises(UnknownName):
        animals.load("nowhere")


def test_the_least_recently_used_network_goes_first(built: list[str]) -> None:
    animals = Zoo(downloads=False, keep=2)
    for name in "abacabcb":
        animals.load(name)
    # c sends b away, b sends c away, c sends a away
    assert built == ["a", "b", "c", "b", "c"]
    assert len(animals._loaded) == 2


def test_one_network_at_least_is_kept_usable(built: list[str]) -> None:
    animals = Zoo(downloads=False, keep=1)
    assert [animals.load(name).name for name in "aabba"] == list("aabba")
    assert built == ["a", "b", "a"]


def test_a_sketch_knows_shapes_and_costs_without_weights(model: VisionModel) -> None:
    drawn = sketch("efficientnet-lite0")
    assert drawn.device.type == "meta"
    assert drawn.costs() == model.costs()
    assert drawn.shape("_blocks.8") == model.shape("_blocks.8")
    assert drawn.class_count == 1000
    assert drawn.style_layers == model.style_layers
    assert sketch("vgg19").costs()["logits"] == pytest.approx(39.3e9, rel=0.01)
    with pytest.raises(UnknownName):
        sketch("nowhere")


def test_the_class_names_are_torchvisions() -> None:
    assert imagenet_labels() == tuple(
        models.get_model_weights("resnet18").DEFAULT.meta["categories"]
    )


def test_the_usual_network_is_there_without_heavy_imports() -> None:
    """They would hold up every process of a stack that starts."""
    program = (
        "import sys; import lantern.techniques; from lantern.zoo import Zoo;"
        "Zoo(downloads=False).load().costs();"
        "print(*({'torchvision', 'scipy', 'sympy', 'sklearn', 'skimage'} & sys.modules.keys()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []
