"""Settings from the environment."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from services.settings import ROOT, Settings, SettingsError, read
from services.stack import exported


def test_nothing_given_means_the_defaults() -> None:
    assert read({}) == Settings()
    assert Settings().is_loopback


def test_an_empty_value_means_the_default() -> None:
    assert read({"LANTERN_PORT": "", "LANTERN_HOST": ""}) == Settings()


def test_each_type_is_read() -> None:
    settings = read(
        {
            "LANTERN_HOST": "localhost",
            "LANTERN_PORT": "9123",
            "LANTERN_LEASE_S": "2.5",
            "LANTERN_DOWNLOADS": "1",
            "SOMETHING_ELSE": "x",
        }
    )
    assert settings == Settings(host="localhost", port=9123, lease_s=2.5, downloads=True)


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("TRUE", True), ("0", False), ("False", False)]
)
def test_truth_is_read(text: str, value: bool) -> None:
    assert read({"LANTERN_DOWNLOADS": text}).downloads is value


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("LANTERN_PORT", "http", "int"),
        ("LANTERN_PORT", "80.5", "int"),
        ("LANTERN_LEASE_S", "long", "float"),
        ("LANTERN_DOWNLOADS", "maybe", "0 or 1"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_may_be(name: str, text: str, wanted: str) -> None:
    with pytest.raises(SettingsError, match=wanted) as caught:
        read({name: text})
    assert name in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize("keys", ["x", 63 * "0", 64 * "0" + ":all", 64 * "0" + ":jobs:none"])
def test_keys_that_are_none_are_refused_with_what_they_may_be(keys: str) -> None:
    with pytest.raises(SettingsError, match="infer, jobs, files"):
        read({"LANTERN_API_KEYS": keys})


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "app.example", "https://", "https://app.example/", "https://App.example",
     "https://app.example/path", "https://a.example https://b.example"],
)  # fmt: skip
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match="without a path"):
        read({"LANTERN_ORIGINS": f"https://one.example,{origin}"})


def test_origins_are_read() -> None:
    text = "https://app.example, http://localhost:5173,http://[::1]:3000,"
    assert read({"LANTERN_ORIGINS": text}).web_origins == {
        "https://app.example", "http://localhost:5173", "http://[::1]:3000",
    }  # fmt: skip
    assert read({}).web_origins == set()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_an_address_that_others_reach_needs_keys(host: str) -> None:
    with pytest.raises(SettingsError, match="LANTERN_API_KEYS"):
        read({"LANTERN_HOST": host})
    assert read({"LANTERN_HOST": host, "LANTERN_API_KEYS": "0" * 64}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert read({"LANTERN_HOST": host}).is_loopback


def test_redis_url_is_read_under_both_names() -> None:
    assert read({"REDIS_URL": "redis://a"}).redis_url == "redis://a"
    both = {"REDIS_URL": "redis://a", "LANTERN_REDIS_URL": "redis://b"}
    assert read(both).redis_url == "redis://b"


def test_paths() -> None:
    assert Settings(port=9123).run_path == ROOT / ".run" / "9123"
    assert Settings(run_dir="/x/y").run_path == Path("/x/y")
    assert Settings(run_dir="y").run_path.is_absolute()
    assert Settings(model_store="/store").styles_path == Path("/store/styles")
    assert Settings().styles_path.is_dir()


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_survives_the_way_to_a_child_process() -> None:
    values: dict[type, Any] = {str: 64 * "f", int: 7, float: 0.5, bool: True}
    given = {field.name: values[type(field.default)] for field in fields(Settings)}
    other = Settings(**given | {"origins": "https://app.example,capacitor://localhost"})
    for settings in (Settings(), other):
        assert read(exported(settings)) == settings
