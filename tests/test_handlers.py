"""The handler answers row by row; archives and configuration are what TorchServe needs."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from handlers import archive, serve, technique_handler
from handlers.serve import Ports, Serving
from handlers.technique_handler import HEAD, MOST_ANSWER, TechniqueHandler, problem
from lantern.call import Call
from lantern.errors import BadImage, InvalidParameter, InvalidParameters
from lantern.image import Image

STORE = Path(__file__).resolve().parent.parent / "model_store"

MakeContext = Callable[..., Any]


@pytest.fixture(scope="module")
def make_context() -> MakeContext:
    """TorchServe's own context, for calls that have come in."""
    with warnings.catch_warnings():
        # it reads its version file without closing it
        warnings.simplefilter("ignore", ResourceWarning)
        torchserve = importlib.import_module("ts.context")

    def make(heads: list[Mapping[str, str]], options: Mapping[str, Any] | None = None) -> Any:
        context = torchserve.Context(
            "explain", "", {}, len(heads), None, "1.0", model_yaml_config=options
        )
        context.request_processor = [torchserve.RequestProcessor(dict(head)) for head in heads]
        return context

    return make


@pytest.fixture(scope="module")
def handler(make_context: MakeContext) -> Iterator[TechniqueHandler]:
    made, threads = TechniqueHandler(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANTERN_MODEL_STORE", str(STORE))
        patch.setenv("LANTERN_TORCH_THREADS", "1")
        made.initialize(make_context([], {"handler": {"warm_up": [{"technique": "classify"}]}}))
        assert torch.get_num_threads() == 1
    yield made
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def answer(handler: TechniqueHandler, make_context: MakeContext) -> Callable[..., Any]:
    """Have a batch of calls answered; gives the bodies and the context they were answered in."""

    def answer(*calls: Call) -> tuple[list[bytes], Any]:
        packed = [call.pack() for call in calls]
        context = make_context([{HEAD: head} for head, _ in packed])
        rows = [{"body": bytearray(body)} for _, body in packed]
        return handler.handle(rows, context), context

    return answer


# --- Rows --------------------------------------------------------------------------------------


def test_one_bad_picture_leaves_the_others_of_its_batch_alone(
    answer: Callable[..., Any], photo: Image
) -> None:
    good = photo.encode("image/jpeg")
    bodies, context = answer(
        Call("classify", {"image": good}, {"top": 1}),
        Call("classify", {"image": good[: len(good) // 2]}),
        Call("saliency", {"image": good}, accept=["image/png"]),
        Call("classify", {"image": b"no picture"}),
        Call("fast-style", {"image": good}, {"size": 64}, accept=["image/webp"]),
    )
    codes = [context.get_response_status(index)[0] for index in range(5)]
    assert codes == [200, 422, 200, 422, 200]
    assert "cat" in json.loads(bodies[0])["artifacts"][0]["data"][0]["label"]
    assert Image.probe(bodies[2]).media_type == "image/png"
    assert Image.probe(bodies[4]).width == 64
    for index in (1, 3):
        assert context.get_response_content_type(index) == "application/json"
        said = json.loads(bodies[index])
        assert said["code"] == "undecodable-image"
        assert [entry["pointer"] for entry in said["errors"]] == ["/inputs/image"]


@pytest.mark.parametrize("accept", ["application/x-npz", "image/png", "application/json"])
def test_an_answer_that_would_kill_its_worker_is_not_given(
    answer: Callable[..., Any], photo: Image, accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Call("saliency", {"image": photo.encode()}, accept=[accept])
    small = Call("classify", {"image": photo.encode()}, {"top": 1})
    (given, _), _ = answer(large, small)
    # the digits of the seconds it took are more or fewer
    monkeypatch.setattr(technique_handler, "MOST_ANSWER", len(given) - 16)
    (refused, other), context = answer(large, small)
    assert [context.get_response_status(at)[0] for at in (0, 1)] == [413, 200]
    assert json.loads(refused)["code"] == "answer-too-large"
    assert len(other) < MOST_ANSWER


EXPLANATIONS: dict[str, dict[str, Any]] = {
    "saliency": {},
    "grad-cam": {},
    "integrated-gradients": {"steps": 4, "gap": 1.0},
    "occlusion": {"patch": 64, "stride": 80},
}


def test_explanations_of_a_batch_are_those_of_each_alone(
    answer: Callable[..., Any], photo: Image
) -> None:
    pictures = [image.encode("image/png") for image in (photo, Image(photo.pixels.flip(2)))]
    calls = [
        Call(name, {"image": picture}, params, accept=["application/x-npz"])
        for name, params in EXPLANATIONS.items()
        for picture in pictures
    ]
    together, context = answer(*calls)
    assert [context.get_response_status(at)[0] for at in range(len(calls))] == [200] * len(calls)
    assert len(set(together)) == len(calls)
    assert together == [answer(call)[0][0] for call in calls]


def test_an_answer_says_its_type_and_where_its_time_went(
    answer: Callable[..., Any], photo: Image
) -> None:
    (body,), context = answer(Call("saliency", {"image": photo.encode()}, accept=["image/*"]))
    assert context.get_response_content_type(0) == Image.probe(body).media_type == "image/jpeg"
    timings = json.loads(context.get_response_headers(0)["x-lantern-timings"])
    assert timings.keys() == {"decode", "model", "encode"}
    assert timings["model"] > 0


@pytest.mark.parametrize(
    ("wrong", "code", "pointer"),
    [
        ({"technique": "nonsense"}, "unknown-technique", ""),
        ({"params": {"top": 0}}, "invalid-parameter", "/params/top"),
        ({"params": {"top": "3"}}, "invalid-parameter", "/params/top"),
        ({"model": "resnet"}, "unknown-model", "/params/model"),
        ({"model": "vgg16"}, "weights-missing", "/params/model"),
        ({"inputs": {}}, "missing-input", "/inputs/image"),
        ({"accept": ["image/png"]}, "not-acceptable", ""),
    ],
)
def test_a_wrong_call_is_answered_with_what_is_wrong(
    wrong: dict[str, Any], code: str, pointer: str, answer: Callable[..., Any], photo: Image,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    given: dict[str, Any] = {"technique": "classify", "inputs": {"image": photo.encode()}} | wrong
    (body,), context = answer(Call(**given))
    assert context.get_response_status(0)[0] == 422
    said = json.loads(body)
    assert said["code"] == code
    assert said["detail"]
    assert said["errors"][0]["pointer"] == pointer


def test_a_row_that_is_no_call_is_answered_without_its_cause(
    handler: TechniqueHandler, make_context: MakeContext, photo: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    head, body = Call("classify", {"image": photo.encode()}).pack()
    context = make_context([{HEAD: "{no json"}, {}, {HEAD: head}, {HEAD: '{"inputs":[]}'}])
    bodies = handler.handle([{"body": body}] * 4, context)
    codes = [context.get_response_status(index)[0] for index in range(4)]
    assert codes == [500, 500, 200, 500]
    assert json.loads(bodies[0]) == {"code": "internal", "detail": "the technique failed"}
    assert len(caplog.records) == 3  # the cause is in the log


@pytest.mark.usefixtures("invented")
@pytest.mark.parametrize("row", [{"body": b""}, {"body": bytearray()}, {}])
def test_a_call_may_come_without_a_picture(
    row: dict[str, Any], handler: TechniqueHandler, make_context: MakeContext
) -> None:
    head, _ = Call("noise", {}, {"size": 20}, accept=["image/png"]).pack()
    context = make_context([{HEAD: head}])
    (body,) = handler.handle([row], context)
    assert context.get_response_status(0)[0] == 200
    assert Image.probe(body).width == 20


def test_several_problems_are_listed() -> None:
    parts = [InvalidParameter("one", pointer="/params/a"), InvalidParameter("two")]
    assert problem(InvalidParameters(parts)) == {
        "code": "invalid-parameter",
        "detail": "one; two",
        "errors": [
            {"pointer": "/params/a", "detail": "one"},
            {"pointer": "", "detail": "two"},
        ],
    }
    assert problem(BadImage("cut", pointer="/inputs/image"))["errors"] == [
        {"pointer": "/inputs/image", "detail": "cut"}
    ]


def test_a_store_without_styles_still_starts(
    make_context: MakeContext, handler: TechniqueHandler, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("LANTERN_MODEL_STORE", str(tmp_path))
    monkeypatch.setenv("LANTERN_TORCH_THREADS", "1")
    bare = TechniqueHandler()
    assert not bare.initialized
    bare.initialize(make_context([], {"handler": {"warm_up": [{"technique": "fast-style"}]}}))
    assert bare.initialized
    assert "no warm-up of fast-style" in caplog.text
    TechniqueHandler().initialize(make_context([], None))


@pytest.mark.parametrize("name", archive.archives())
@pytest.mark.usefixtures("handler")  # which puts back what starting changes
def test_every_warm_up_is_a_call_that_works(
    name: str, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("LANTERN_MODEL_STORE", str(STORE))
    monkeypatch.setenv("LANTERN_TORCH_THREADS", "1")
    options = yaml.safe_load(archive.archives()[name].read_text())
    assert options["handler"]["warm_up"]
    warm = TechniqueHandler()
    warm.initialize(make_context([], options))
    assert "no warm-up" not in caplog.text
    if name == "stylize":
        assert warm.studio.styles._many is not None, "the network that many styles share"
        assert warm.studio.styles._painters


# --- Archives ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store") / "deep"
    made = archive.build(store)
    assert made == [store / "explain.mar", store / "stylize.mar"]
    return store


def test_both_archives_are_built(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == ["explain.mar", "stylize.mar"]
    for name, config in archive.archives().items():
        with zipfile.ZipFile(built / f"{name}.mar") as mar:
            files = set(mar.namelist())
            said = json.loads(mar.read("MAR-INF/MANIFEST.json"))["model"]
            assert mar.read(config.name) == config.read_bytes()
        assert "technique_handler.py" in files
        assert said["modelName"] == name
        assert said["handler"] == "technique_handler.py"
        assert said["configFile"] == config.name


def test_archives_are_built_again_only_when_they_are_old(built: Path) -> None:
    def changed() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in built.iterdir()}

    before = changed()
    archive.build(built)
    assert changed() == before
    os.utime(built / "explain.mar", (0, 0))  # as if its sources had changed since
    archive.build(built)
    after = changed()
    assert after["explain.mar"] > before["explain.mar"]
    assert after["stylize.mar"] == before["stylize.mar"]
    (built / "stylize.mar").unlink()
    archive.build(built)
    assert changed().keys() == before.keys()


# --- Configuration -----------------------------------------------------------------------------

PORTS = Ports(18080, 18081, 18082, 17070, 17071, 19000)


@pytest.fixture
def serving(built: Path, tmp_path: Path) -> Serving:
    return Serving(tmp_path / "run", tmp_path / "tmp", built, PORTS)


def properties(serving: Serving) -> dict[str, str]:
    text = (serving.run_dir / "config.properties").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [line.split("=", 1) for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs)
    return {name: value for name, value in pairs}  # noqa: C416


def test_the_configuration_has_every_port_on_loopback(serving: Serving) -> None:
    serving.prepare()
    said = properties(serving)
    assert said["inference_address"] == "http://127.0.0.1:18080"
    assert said["management_address"] == "http://127.0.0.1:18081"
    assert said["metrics_address"] == "http://127.0.0.1:18082"
    assert said["grpc_inference_port"] == "17070"
    assert said["grpc_management_port"] == "17071"
    assert said["initial_worker_port"] == "19000"
    addresses = [value for name, value in said.items() if name.endswith("_address")]
    assert len(addresses) == 5
    assert all("127.0.0.1" in address for address in addresses)
    text = (serving.run_dir / "config.properties").read_text()
    assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", text)) == {"127.0.0.1"}
    assert not re.search(r"\{\w*\}", text.split("\n", 2)[2])


def test_the_largest_answer_is_one_that_torchserve_takes(serving: Serving) -> None:
    serving.prepare()
    said = properties(serving)
    assert int(said["max_response_size"]) > MOST_ANSWER
    heap = re.search(r"-Xmx(\d+)m", said["vmargs"])
    assert heap is not None
    copies = 3 * len(archive.archives())
    assert int(heap[1]) * 2**20 > 1.2 * copies * MOST_ANSWER


def test_the_configuration_loads_what_was_built(serving: Serving) -> None:
    serving.prepare()
    said = properties(serving)
    assert said["load_models"] == "explain=explain.mar,stylize=stylize.mar"
    assert said["model_store"] == str(serving.model_store)
    assert said["disable_token_authorization"] == "false"
    assert all((serving.model_store / f"{n}.mar").is_file() for n in archive.archives())


@pytest.mark.parametrize("gpu", [True, False])
def test_calls_are_gathered_where_a_gpu_gains_by_it(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr(serve, "has_gpu", lambda: gpu)
    serving.prepare()
    said = json.loads(properties(serving)["models"])["stylize"]["1.0"]
    assert (said["batchSize"] > 1) == gpu
    # an archive that says how many are a batch has the last word
    assert "batchSize" not in yaml.safe_load(archive.archives()["stylize"].read_text())


def test_a_machine_without_a_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not serve.has_gpu()


def test_a_closed_network_may_do_without_tokens(serving: Serving) -> None:
    closed = Serving(
        serving.run_dir, serving.temporary, serving.model_store, PORTS, "10.0.0.5", token=False
    )
    closed.prepare()
    said = properties(closed)
    assert said["disable_token_authorization"] == "true"
    assert said["inference_address"] == "http://10.0.0.5:18080"
    # these cannot be switched off and are not for others
    assert said["grpc_inference_address"] == said["grpc_management_address"] == "127.0.0.1"


def test_preparing_removes_the_token_of_the_last_run(serving: Serving) -> None:
    serving.run_dir.mkdir()
    serving.key_file.write_text("old")
    command = serving.prepare()
    assert not serving.key_file.exists()
    assert serving.temporary.is_dir()
    assert command[0] == sys.executable
    assert command[command.index("--ts-config") + 1] == str(serving.run_dir / "config.properties")
    assert Path(command[command.index("--log-config") + 1]).is_file()


def test_the_environment_names_what_the_worker_needs(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    said = serving.environment()
    assert (Path(said["JAVA_HOME"]) / "bin" / "java").is_file()
    assert said["LANTERN_MODEL_STORE"] == str(serving.model_store)
    assert said["PYTHONPATH"].split(os.pathsep)[1:] == ["elsewhere"]
    first = Path(said["PYTHONPATH"].split(os.pathsep)[0])
    assert (first / "lantern" / "run.py").is_file()
    assert said["TMPDIR"] == str(serving.temporary)


def test_ports_do_not_clash() -> None:
    ports = vars(Ports())
    assert len(ports) == 6
    assert len(set(ports.values())) == 6
