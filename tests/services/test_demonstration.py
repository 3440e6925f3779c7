"""What the demonstration does when it is not answered as it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.demo import Client, apart
from services.processes import StackError
from services.settings import Settings
from tests.services.engine import Engine, Reply

PATH = "/v1/techniques/fast-style"


def test_a_job_in_the_place_of_a_picture_is_an_error(engine: Engine) -> None:
    engine.reply(Reply(202, b'{"id": "job_1"}'))
    client = Client(engine.url)
    with pytest.raises(StackError, match=r"fast-style answered 202, not 200: .*job_1"):
        client.post(PATH, {"size": "64"}, "image/jpeg")
    assert client.post(PATH, {"size": "64"}, "image/jpeg", status=202).status == 202


def test_a_picture_in_the_place_of_a_job_is_one_too(engine: Engine) -> None:
    engine.reply(Reply(200, b"\xff\xd8"))
    with pytest.raises(StackError, match="answered 200, not 202"):
        Client(engine.url).post(PATH, {"size": "64"}, "image/jpeg", status=202)


def test_only_an_answer_that_is_to_come_at_once_is_waited_for(engine: Engine) -> None:
    engine.reply(Reply(200), Reply(202, b"{}"))
    client = Client(engine.url)
    client.post(PATH, {"size": "64"}, "image/jpeg")
    client.post(PATH, {"size": "64"}, "image/jpeg", status=202)
    assert [seen.headers.get("prefer") for seen in engine.seen] == ["wait=30", None]


def test_it_shares_nothing_with_a_stack_that_runs_and_asks_for_no_key(tmp_path: Path) -> None:
    run_dir = tmp_path / "data"
    given = Settings(
        host="0.0.0.0", run_dir=str(run_dir), api_keys="0" * 64, redis_url="redis://there",
        blob_redis_url="redis://there/1", file_store="s3://bucket", models="/models",
    )  # fmt: skip
    own = apart(given)
    assert own.is_loopback
    assert own.port != given.port
    assert own.keys == ()
    assert (own.redis_url, own.blob_redis_url) == ("", "")
    assert own.run_path == run_dir / "demo"
    assert own.file_store_url == f"file://{run_dir}/demo/files"
    assert own.models_path == run_dir / "demo" / "models"
