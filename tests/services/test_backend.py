"""The way to TorchServe, against a server that has TorchServe's documented habits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import lantern.techniques  # noqa: F401  fills the registry
from lantern import registry
from lantern.call import Call
from services.backend import (
    AnswerTooLarge,
    EngineFailed,
    Refused,
    TorchServeBackend,
    Unavailable,
    archive_of,
)
from services.processes import free_ports
from tests.services.engine import Engine, Reply

HEAD = "x-lantern-call"
JSON = "application/json"
WORKER_DIED = (500, b'{"code": 500, "type": "InternalServerException", "message": "Worker died."}')
NO_WORKER = (503, b'{"code": 503, "type": "ServiceUnavailableException", "message": "no worker"}')
RESET = (507, b'{"code": 507, "type": "InternalServerException", "message": "out of memory"}')


@pytest.fixture
def backend(engine: Engine) -> TorchServeBackend:
    return TorchServeBackend(engine.url, engine.url, "", timeout_s=0.4)


class TestAnswers:
    def test_a_call_travels_whole(self, engine: Engine, backend: TorchServeBackend) -> None:
        timings = {"decode": 1.5, "model": 20.25, "encode": 0.5}
        engine.reply(
            Reply(headers={"content-type": "image/webp", "x-lantern-timings": json.dumps(timings)})
        )
        call = Call(
            "fast-style", {"image": bytes(range(256))}, {"style": "a"}, accept=["image/webp"]
        )
        answer = backend.perform(registry.find("fast-style"), call)
        assert (answer.body, answer.media_type) == (b"picture", "image/webp")
        assert answer.timings == timings
        (seen,) = engine.seen
        assert (seen.method, seen.path) == ("POST", "/predictions/stylize")
        assert Call.unpack(seen.headers[HEAD], seen.body) == call
        assert "authorization" not in seen.headers

    def test_calls_share_a_connection(self, engine: Engine, backend: TorchServeBackend) -> None:
        for _ in range(5):
            backend.send("explain", "{}", b"")
        assert len({seen.connection for seen in engine.seen}) == 1

    def test_each_family_has_its_archive(self) -> None:
        names = {t.name: archive_of(t) for t in registry.every()}
        assert names["fast-style"] == "stylize"
        assert names["classify"] == names["grad-cam"] == "explain"


class TestAnEngineThatDies:
    @pytest.mark.parametrize(
        "death", [Reply(*WORKER_DIED), Reply(*RESET), Reply(cut=True), Reply(500, b"<html>")]
    )
    def test_it_is_asked_once_more(
        self, engine: Engine, backend: TorchServeBackend, death: Reply
    ) -> None:
        engine.reply(death, Reply(body=b"after all"))
        assert backend.send("explain", "{}", b"body").body == b"after all"
        assert [seen.body for seen in engine.seen] == [b"body", b"body"]

    @pytest.mark.parametrize("death", [Reply(*WORKER_DIED), Reply(*RESET), Reply(cut=True)])
    def test_it_is_not_asked_a_third_time(
        self, engine: Engine, backend: TorchServeBackend, death: Reply
    ) -> None:
        engine.reply(death)
        with pytest.raises(Unavailable):
            backend.send("explain", "{}", b"")
        assert len(engine.seen) == 2

    def test_one_that_is_not_there_is_unavailable(self) -> None:
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        backend = TorchServeBackend(url, url, "", timeout_s=1)
        started = time.monotonic()
        with pytest.raises(Unavailable):
            backend.send("explain", "{}", b"")
        assert time.monotonic() - started < 1

    def test_a_connection_that_went_stale_is_opened_anew(
        self, engine: Engine, backend: TorchServeBackend
    ) -> None:
        backend.send("explain", "{}", b"")
        engine.reply(Reply(cut=True), Reply())
        assert backend.send("explain", "{}", b"").body == b"picture"


class TestAnEngineThatIsBusy:
    def test_a_full_queue_is_unavailable_and_not_asked_again(
        self, engine: Engine, backend: TorchServeBackend
    ) -> None:
        engine.reply(NO_WORKER)
        with pytest.raises(Unavailable):
            backend.send("explain", "{}", b"")
        assert len(engine.seen) == 1

    def test_a_slow_one_is_unavailable_and_not_asked_again(
        self, engine: Engine, backend: TorchServeBackend
    ) -> None:
        engine.reply(Reply(slow_s=1.0))
        started = time.monotonic()
        with pytest.raises(Unavailable):
            backend.send("explain", "{}", b"")
        assert time.monotonic() - started < 0.9
        assert len(engine.seen) == 1

    def test_a_caller_may_wait_for_less(self, engine: Engine) -> None:
        backend = TorchServeBackend(engine.url, engine.url, "", timeout_s=5)
        engine.reply(Reply(slow_s=2))
        started = time.monotonic()
        with pytest.raises(Unavailable):
            backend.send("explain", "{}", b"", within_s=0.3)
        assert time.monotonic() - started < 1.5
        engine.reply(Reply(*WORKER_DIED))
        with pytest.raises(Unavailable):
            backend.send("explain", "{}", b"", within_s=0.05)
        assert len(engine.seen) == 2

    @pytest.mark.parametrize("status", [400, 404, 413])
    def test_what_the_gateway_did_not_expect_is_unavailable(
        self, engine: Engine, backend: TorchServeBackend, status: int
    ) -> None:
        engine.reply((status, b'{"code": 400, "type": "InvalidKeyException"}'))
        with pytest.raises(Unavailable):
            backend.send("explain", "{}", b"")


class TestTheHandler:
    def test_a_refusal_arrives_with_its_problems(
        self, engine: Engine, backend: TorchServeBackend
    ) -> None:
        problems = [{"pointer": "/params/layer", "detail": "no such layer"}]
        body = {"code": "unknown-layer", "detail": "no such layer", "errors": problems}
        engine.reply(Reply(422, json.dumps(body).encode(), {"content-type": JSON}))
        with pytest.raises(Refused) as caught:
            backend.send("explain", "{}", b"")
        assert (caught.value.code, caught.value.detail) == ("unknown-layer", "no such layer")
        assert caught.value.problems == problems
        assert len(engine.seen) == 1

    def test_an_answer_too_large_is_told_and_not_asked_for_again(
        self, engine: Engine, backend: TorchServeBackend
    ) -> None:
        engine.reply((413, b'{"code": "answer-too-large", "detail": "too large", "errors": []}'))
        with pytest.raises(AnswerTooLarge):
            backend.send("explain", "{}", b"")
        assert len(engine.seen) == 1

    def test_its_own_failure_is_not_tried_again(
        self, engine: Engine, backend: TorchServeBackend
    ) -> None:
        engine.reply((500, b'{"code": "internal", "detail": "the technique failed"}'))
        with pytest.raises(EngineFailed):
            backend.send("explain", "{}", b"")
        assert len(engine.seen) == 1

    def test_it_may_fail_on_the_second_attempt(
        self, engine: Engine, backend: TorchServeBackend
    ) -> None:
        engine.reply(WORKER_DIED, (500, b'{"code": "internal", "detail": "failed"}'))
        with pytest.raises(EngineFailed):
            backend.send("explain", "{}", b"")


def workers(*statuses: str) -> Reply:
    body = [{"modelName": "m", "workers": [{"id": "1", "status": status} for status in statuses]}]
    return Reply(200, json.dumps(body).encode())


class TestReadiness:
    def test_only_ready_workers_count(self, engine: Engine, backend: TorchServeBackend) -> None:
        engine.reply(workers("READY", "UNLOADING", "READY"), workers("UNLOADING"))
        assert backend.ready_workers() == {"stylize": 2, "explain": 0}
        assert [seen.path for seen in engine.seen] == ["/models/stylize", "/models/explain"]

    def test_a_model_that_is_gone_has_none(
        self, engine: Engine, backend: TorchServeBackend
    ) -> None:
        engine.reply(workers(), (404, b'{"code": 404, "type": "ModelNotFoundException"}'))
        assert backend.ready_workers() == {"stylize": 0, "explain": 0}

    def test_it_is_asked_once_a_second(self, engine: Engine, backend: TorchServeBackend) -> None:
        engine.reply(workers("READY"))
        for _ in range(10):
            backend.ready_workers()
        assert len(engine.seen) == 2
        time.sleep(1.05)
        backend.ready_workers()
        assert len(engine.seen) == 4

    @pytest.mark.parametrize("reply", [Reply(cut=True)])
    def test_an_engine_that_does_not_answer_is_unavailable(
        self, engine: Engine, backend: TorchServeBackend, reply: Reply
    ) -> None:
        engine.reply(reply)
        with pytest.raises(Unavailable):
            backend.ready_workers()


class TestTokens:
    @pytest.fixture
    def keyed(self, engine: Engine, tmp_path: Path) -> Callable[[str], TorchServeBackend]:
        def make(text: str) -> TorchServeBackend:
            path = tmp_path / "key_file.json"
            if text:
                path.write_text(text)
            return TorchServeBackend(engine.url, engine.url, str(path), timeout_s=0.4)

        return make

    def test_each_address_gets_its_own_token(
        self, engine: Engine, keyed: Callable[[str], TorchServeBackend]
    ) -> None:
        keys = {"inference": {"key": "for-calls"}, "management": {"key": "for-states"}}
        backend = keyed(json.dumps(keys))
        backend.send("explain", "{}", b"")
        engine.reply(workers("READY"))
        backend.ready_workers()
        tokens = [seen.headers["authorization"] for seen in engine.seen]
        assert tokens == ["Bearer for-calls", *["Bearer for-states"] * 2]

    def test_a_restarted_engines_new_token_is_used(
        self, engine: Engine, keyed: Callable[[str], TorchServeBackend], tmp_path: Path
    ) -> None:
        backend = keyed('{"inference": {"key": "old"}}')
        backend.send("explain", "{}", b"")
        (tmp_path / "key_file.json").write_text('{"inference": {"key": "another"}}')
        backend.send("explain", "{}", b"")
        assert [s.headers["authorization"] for s in engine.seen] == ["Bearer old", "Bearer another"]

    def test_a_token_is_read_once(
        self, keyed: Callable[[str], TorchServeBackend], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend, read, reads = keyed('{"inference": {"key": "one"}}'), Path.read_text, list[Path]()

        def counted(path: Path) -> str:
            reads.append(path)
            return read(path)

        monkeypatch.setattr(Path, "read_text", counted)
        for _ in range(3):
            backend.send("explain", "{}", b"")
        assert len(reads) == 1

    @pytest.mark.parametrize("text", ["", "{", "{}"])
    def test_an_engine_that_has_not_written_it_yet_is_unavailable(
        self, keyed: Callable[[str], TorchServeBackend], text: str
    ) -> None:
        backend = keyed(text)
        with pytest.raises(Unavailable):
            backend.send("explain", "{}", b"")
        with pytest.raises(Unavailable):
            backend.ready_workers()
