"""The demonstration: start the real stack, use it on a photograph, stop it."""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3

from lantern import samples
from services.cli import bar
from services.processes import StackError, free_ports
from services.settings import Settings
from services.stack import Stack

JOB_OPTIONS = {"steps": "60", "size": "256"}
PATIENCE = "wait=30"


def run_demo(settings: Settings, out: Path) -> int:
    """Run the demonstration; return the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    stack = Stack(apart(settings))
    try:
        stack.start()
        tour(Client(stack.url), out)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        stack.stop()
    print(f"everything is stopped; the pictures are in {out}/")
    return 0


def apart(settings: Settings) -> Settings:
    """Return settings of a stack that shares nothing with others, and needs no key."""
    (port,) = free_ports(1)
    return dataclasses.replace(
        settings,
        host="127.0.0.1",
        port=port,
        run_dir=str(settings.run_path / "demo"),
        api_keys="",
        # the courier would take the files of others for orphans, a worker their jobs for its own
        redis_url="",
        blob_redis_url="",
        file_store="",
        models="",
    )


class Client:
    """The little that is needed to call the service."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = urllib3.PoolManager(retries=False, timeout=120.0)

    def post(
        self, path: str, fields: dict[str, Any], accept: str, *, status: int = 200
    ) -> urllib3.BaseHTTPResponse:
        """Send a form; fail on any answer but the one that is to be shown."""
        headers = {"Accept": accept, "Cache-Control": "no-cache"}
        if status == 200:  # on a busy machine a late answer would be a job
            headers["Prefer"] = PATIENCE
        response = self._http.request("POST", self._url + path, fields=fields, headers=headers)
        if response.status != status:
            told = response.data[:500].decode(errors="replace")
            raise StackError(f"{path} answered {response.status}, not {status}: {told}")
        return response

    def get(self, path: str, accept: str) -> bytes:
        """Fetch a picture."""
        response = self._http.request("GET", self._url + path, headers={"Accept": accept})
        if response.status != 200:
            raise StackError(f"{path} answered {response.status}: {response.data.decode()}")
        return response.data

    def events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Follow a stream of server-sent events."""
        response = self._http.request("GET", self._url + path, preload_content=False)
        name = ""
        for line in _lines(response):
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))
                if name == "done":
                    break
        response.release_conn()


def tour(client: Client, out: Path) -> None:
    """Stylise, explain and repaint; leave every picture in `out`."""
    photos = samples.pictures()
    _stylise(client, photos["coffee"], out)
    _explain(client, photos["cat"], out)
    _repaint(client, photos["coffee"], photos["tissue"], out)


def _stylise(client: Client, photo: Path, out: Path) -> None:
    print("\nfast-style: gateway -> TorchServe -> a style network")
    for size in (512, 256):
        form = {"image": _file(photo), "style": "starry-night", "size": str(size)}
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            response = client.post("/v1/techniques/fast-style", form, "image/jpeg")
            seconds.append(time.perf_counter() - started)
        print(f"  {size} px: {min(seconds) * 1e3:.0f} ms  ({response.headers['Server-Timing']})")
        _save(out / f"coffee-starry-night-{size}.jpg", response.data)


def _explain(client: Client, photo: Path, out: Path) -> None:
    print("\nclassify and grad-cam: why a cat?")
    answer = client.post(
        "/v1/techniques/classify", {"image": _file(photo), "top": "3"}, "application/json"
    )
    rows = json.loads(answer.data)["artifacts"][0]["data"]
    for row in rows:
        print(f"  {row['probability']:6.1%}  {row['label']}")
    form = {"image": _file(photo), "target": str(rows[0]["class"])}
    answer = client.post("/v1/techniques/grad-cam", form, "application/json")
    document = json.loads(answer.data)
    print(f"  explained: {document['facts']['class']['label']}")
    _, _, data = document["artifacts"][0]["data"].partition(",")
    _save(out / "cat-grad-cam.jpg", base64.b64decode(data))


def _repaint(client: Client, photo: Path, painting: Path, out: Path) -> None:
    print("\nstyle-transfer: a job on a Celery worker")
    form = {"image": _file(photo), "style": _file(painting), **JOB_OPTIONS}
    answer = client.post("/v1/techniques/style-transfer", form, "application/json", status=202)
    job = json.loads(answer.data)
    final: dict[str, Any] = {}
    for name, data in client.events(job["links"]["events"]):
        if name == "progress":
            line = (
                f"  {bar(data['fraction'])} {data['done']}/{data['total']} loss {data['loss']:.4f}"
            )
            left = "" if data["eta_s"] is None else f"{data['eta_s']:5.1f} s left"
            print(f"\r{line} {left:12}", end="", flush=True)
        final = data
    print()
    if final.get("status") != "succeeded":
        raise StackError(f"the job ended as {final.get('status')}: {final.get('error')}")
    _save(out / "coffee-repainted.png", client.get(job["links"]["result"], "image/png"))


def _file(path: Path) -> tuple[str, bytes]:
    return path.name, path.read_bytes()


def _save(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    print(f"  -> {path}")


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[str]:
    left = b""
    for chunk in response.stream(1024):
        *whole, left = (left + chunk).split(b"\n")
        yield from (line.decode() for line in whole)
