"""A Redis goes with the files of its jobs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import redis

from services import site
from services.processes import StackError, free_ports
from services.settings import Settings
from services.stack import Stack


@pytest.fixture
def ours(client: redis.Redis, settings: Settings, tmp_path: Path) -> Settings:
    """Settings of a stack that has used an empty Redis."""
    found = dataclasses.replace(settings, run_dir=str(tmp_path / "ours"), port=free_ports(1)[0])
    site.claim(client, found)
    return found


def test_a_stack_with_the_same_files_may_share_it(client: redis.Redis, ours: Settings) -> None:
    site.claim(client, ours)
    other = dataclasses.replace(
        ours, run_dir="/elsewhere", file_store=ours.file_store_url, models=str(ours.models_path)
    )
    site.claim(client, other)


@pytest.mark.parametrize("elsewhere", ["file_store", "models"])
def test_one_with_others_may_not(client: redis.Redis, ours: Settings, elsewhere: str) -> None:
    change: Any = {elsewhere: "/elsewhere"}
    with pytest.raises(StackError, match="LANTERN_FILE_STORE and LANTERN_MODELS") as caught:
        site.claim(client, dataclasses.replace(ours, **change))
    assert "/elsewhere" in str(caught.value)
    assert ours.file_store_url in str(caught.value)
    site.claim(client, ours)


def test_a_stack_that_may_not_starts_nothing(ours: Settings, tmp_path: Path) -> None:
    stack = Stack(dataclasses.replace(ours, run_dir=str(tmp_path / "theirs")))
    try:
        with pytest.raises(StackError, match="another database"):
            stack.start()
        assert stack.children == []
    finally:
        stack.stop()
