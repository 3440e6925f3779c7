"""Networks that callers bring: checked without running anything of theirs, then like any other."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lantern.brought import Brought, build, check_weights
from lantern.errors import InvalidParameter, InvalidParameters, LanternError, UnknownName
from lantern.image import Image
from lantern.layers import layers
from lantern.networks import Networks
from lantern.run import run, validate
from lantern.torchvision_import import models
from lantern.zoo import Zoo

LABELS = ["ant", "bee", "cat"]
SAID: dict[str, Any] = {
    "architecture": "squeezenet1_1", "labels": LABELS, "input_size": 64,
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3],
}  # fmt: skip


def brought(**said: Any) -> Brought:
    made: Brought = validate(Brought, SAID | said)
    return made


def weights_of(network: nn.Module) -> bytes:
    state = network.state_dict()
    return safetensors.torch.save({n: t.contiguous().clone() for n, t in state.items()})


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made: nn.Module = models.squeezenet1_1(num_classes=3)
        return made.eval()


@pytest.fixture(scope="module")
def weights(network: nn.Module) -> bytes:
    return weights_of(network)


@pytest.fixture
def networks(tmp_path: Path) -> Networks:
    return Networks(tmp_path / "models")


class TestAnOwnNetwork:
    def test_it_gives_its_own_answers(
        self, networks: Networks, network: nn.Module, weights: bytes
    ) -> None:
        entry = networks.bring("me", brought(), weights)
        model = Zoo(find=networks.record).load(entry.id)
        pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        mean, std = (torch.tensor(SAID[n]).view(1, 3, 1, 1) for n in ("mean", "std"))
        with torch.inference_mode():
            torch.testing.assert_close(model.logits(pixels), network((pixels - mean) / std))
        assert model.labels == tuple(LABELS)
        assert (model.input_size, model.resize_size, model.class_count) == (64, 73, 3)

    @pytest.mark.parametrize(
        ("technique", "params"),
        [
            ("grad-cam", {}), ("saliency", {}), ("occlusion", {}), ("filters", {}),
            ("activations", {}), ("guided-backprop", {}), ("style-transfer", {"steps": 10}),
            ("deep-dream", {"steps": 2, "octaves": 1}),
            ("activation-maximization", {"steps": 16, "objectives": ["class:1"]}),
        ],
    )  # fmt: skip
    def test_techniques_work_on_it(
        self,
        technique: str,
        params: dict[str, Any],
        networks: Networks,
        weights: bytes,
        photo: Image,
    ) -> None:
        model = Zoo(find=networks.record).load(networks.bring("me", brought(), weights).id)
        slots = {"activation-maximization": [], "filters": [], "style-transfer": ["image", "style"]}
        images = dict.fromkeys(slots.get(technique, ["image"]), photo)
        result = run(technique, images, params, model=model)
        assert all(artifact.is_finite() for artifact in result.artifacts)
        assert result.facts["model"]["name"].startswith("net_")

    def test_half_precision_serves(
        self, networks: Networks, network: nn.Module, weights: bytes
    ) -> None:
        half = {name: tensor.half() for name, tensor in network.state_dict().items()}
        entry = networks.bring("me", brought(), safetensors.torch.save(half))
        model = Zoo(find=networks.record).load(entry.id)
        assert entry.size < 0.6 * len(weights)
        for name, parameter in model.network.named_parameters():
            assert parameter.dtype == torch.float32
            torch.testing.assert_close(parameter, half[name].float())

    def test_grey_and_small_pictures_are_taken(self, networks: Networks, photo: Image) -> None:
        said = {"architecture": "resnet18", "mean": [0.5], "std": [0.25], "input_size": 28}
        small = brought(**said)
        entry = networks.bring("me", small, weights_of(build(small)))
        model = Zoo(find=networks.record).load(entry.id)
        assert model.layer("conv1").in_channels == 1
        result = run("grad-cam", {"image": photo}, {"relu": False}, model=model)
        assert not result.facts["degenerate"]
        # what is grey to the eye is one picture, whatever its colours
        level = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            own = model.network((level - 0.5) / 0.25)
            torch.testing.assert_close(model.logits(level.expand(1, 3, 28, 28)), own)

    @pytest.mark.parametrize("architecture", ["efficientnet_b0", "mobilenet_v3_small"])
    def test_architectures_of_other_kinds_serve(
        self, architecture: str, networks: Networks, photo: Image
    ) -> None:
        said = brought(architecture=architecture)
        entry = networks.bring("me", said, weights_of(build(said)))
        known = Networks(networks.folder).record(entry.id)
        assert known.cam_layer == networks.record(entry.id).cam_layer
        assert any(layer.name == known.cam_layer for layer in layers(known))
        model = Zoo(find=networks.record).load(entry.id)
        assert run("occlusion", {"image": photo}, {}, model=model).artifacts

    @pytest.mark.parametrize("architecture", ["resnet10t", "vit_tiny_patch16_224"])
    def test_architectures_of_timm_serve(
        self, architecture: str, networks: Networks, photo: Image
    ) -> None:
        pytest.importorskip("timm")
        said = brought(architecture=architecture, library="timm")
        entry = networks.bring("me", said, weights_of(build(said)))
        model = Zoo(find=networks.record).load(entry.id)
        technique = "attention-map" if architecture.startswith("vit") else "grad-cam"
        result = run(technique, {"image": photo}, {}, model=model)
        assert result.facts["grid"] == ([4, 4] if architecture.startswith("vit") else [2, 2])

    @pytest.mark.parametrize(
        ("library", "architecture", "layer"),
        [
            ("timm", "vit_tiny_patch16_224", "blocks.11.norm1"),
            ("torchvision", "vit_b_16", "encoder.layers.encoder_layer_11.ln_1"),
        ],
    )
    def test_maps_of_a_vit_are_of_a_layer_that_counts(
        self, library: str, architecture: str, layer: str, networks: Networks, photo: Image
    ) -> None:
        pytest.importorskip(library)
        said = brought(architecture=architecture, library=library, input_size=32)
        network = build(said)
        head = network.get_parameter("head.weight" if library == "timm" else "heads.head.weight")
        # it begins at zero
        nn.init.normal_(head, generator=torch.Generator().manual_seed(1))
        entry = networks.bring("me", said, weights_of(network))
        model = Zoo(find=networks.record).load(entry.id)
        # behind the last attention only the class's token is looked at
        result = run("grad-cam", {"image": photo}, {"relu": False}, model=model)
        assert result.facts["layer"] == layer
        assert not result.facts["degenerate"]

    @pytest.mark.parametrize(
        ("architecture", "size", "head"),
        [("googlenet", 64, "aux2.fc2.bias"), ("inception_v3", 96, "AuxLogits.fc.bias")],
    )
    def test_heads_for_training_are_left_out(
        self, architecture: str, size: int, head: str, networks: Networks
    ) -> None:
        said = brought(architecture=architecture, input_size=size)
        whole = models.get_model(architecture, num_classes=3, aux_logits=True, init_weights=False)
        assert head in whole.state_dict()
        entry = networks.bring("me", said, weights_of(whole))
        model = Zoo(find=networks.record).load(entry.id)
        assert torch.equal(model.network.get_parameter("fc.bias"), whole.fc.bias)

    def test_it_is_known_by_all_that_it_is(self, networks: Networks, weights: bytes) -> None:
        first = networks.bring("me", brought(), weights)
        assert networks.bring("me", brought(), weights) == first
        others = [
            networks.bring("you", brought(), weights),
            networks.bring("me", brought(title="mine"), weights),
        ]
        assert len({first.id, *(entry.id for entry in others)}) == 3
        assert [entry.id for entry in networks.every("me")] == [first.id, others[1].id]

    def test_once_forgotten_it_is_gone(
        self, networks: Networks, weights: bytes, tmp_path: Path
    ) -> None:
        entry = networks.bring("me", brought(), weights)
        networks.record(entry.id)
        assert networks.forget(entry.id)
        assert not networks.forget(entry.id)
        for find in (networks.record, networks.sketch, Networks(tmp_path / "models").record):
            with pytest.raises(UnknownName) as caught:
                find(entry.id)
            assert caught.value.code == "unknown-model"
        assert list((tmp_path / "models").iterdir()) == []


def header_of(text: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + body


def with_one(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        state = safetensors.torch.load(data)
        return safetensors.torch.save(state | {name: change(state[name])})

    return changed


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("damage", "word"),
        [
            (lambda data: b"", "not a safetensors file"),
            (lambda data: b"PK\x03\x04" + data, "not a safetensors file"),
            (lambda data: data[:50], "not a safetensors file"),
            (lambda data: struct.pack("<Q", 2**60) + data[8:], "not a safetensors file"),
            (lambda data: header_of(b"[1, 2]"), "not a safetensors file"),
            (lambda data: header_of(b"[" * 100_000), "not a safetensors file"),
            (lambda data: header_of(json.dumps({"a": {}}).encode()), "not a safetensors file"),
            (lambda data: data[:-100], "damaged"),
            (with_one("classifier.1.bias", lambda t: t[:2]), "classifier.1.bias is 2 and must"),
            (with_one("classifier.1.bias", lambda t: t * float("nan")), "not finite"),
            (lambda data: safetensors.torch.save({"a": torch.zeros(1)}), "is missing and 4. more"),
            (lambda data: data.replace(b'"F32"', b'"F4" ', 1), "damaged"),
        ],
    )
    def test_other_weights(
        self, damage: Callable[[bytes], bytes], word: str, weights: bytes
    ) -> None:
        with pytest.raises(InvalidParameter, match=word) as caught:
            check_weights(brought(), damage(weights))
        assert (caught.value.code, caught.value.pointer) == ("bad-weights", "/weights")

    @pytest.mark.parametrize(
        ("said", "word"),
        [
            ({"architecture": "squeezenet1_2"}, "did you mean"),
            ({"architecture": "fasterrcnn_resnet50_fpn"}, "detectors, segmenters"),
            ({"architecture": "fcn_resnet50"}, "detectors, segmenters"),
            ({"architecture": "raft_large"}, "detectors, segmenters"),
            ({"architecture": "os.system", "library": "timm"}, "architecture"),
            ({"input_size": 8}, "cannot take pictures of 8 px"),
            ({"architecture": "vit_h_14", "input_size": 224}, "has 2.* MB of weights"),
        ],
    )
    def test_other_architectures(self, said: dict[str, Any], word: str, weights: bytes) -> None:
        with pytest.raises(LanternError, match=word) as caught:
            check_weights(brought(**said), weights)
        assert caught.value.pointer.startswith("/model/")

    def test_more_than_is_given_to_one_picture(self) -> None:
        pytest.importorskip("timm")
        large = brought(architecture="vit_tiny_patch16_224", library="timm", input_size=1024)
        with pytest.raises(InvalidParameter, match=r"4.1e\+03 tokens; at most 1.6e\+03") as caught:
            check_weights(large, weights_of(build(large)))
        assert (caught.value.code, caught.value.pointer) == ("too-much-work", "/model/input_size")

    def test_scores_that_are_not_finite(self) -> None:
        said = brought(architecture="resnet18")
        network = build(said)
        network.get_buffer("bn1.running_var").fill_(-1)
        with pytest.raises(InvalidParameter, match="not finite"):
            check_weights(said, weights_of(network))

    @pytest.mark.parametrize(
        "said",
        [
            {"architecture": "../../etc/passwd"}, {"architecture": "hf-hub:a/b"},
            {"mean": [0.5]}, {"mean": [0.5, 0.5], "std": [0.5, 0.5]}, {"std": [0, 1, 1]},
            {"labels": [], "classes": None}, {"classes": 4}, {"input_size": 4},
            {"resize_size": 32}, {"code": "import os"},
        ],
    )  # fmt: skip
    def test_what_does_not_fit_together(self, said: dict[str, Any]) -> None:
        with pytest.raises(InvalidParameters):
            brought(**said)
