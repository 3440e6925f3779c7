"""Load for a running stack: some paint photographs at once, some submit a job and follow it."""

from __future__ import annotations

import io
import itertools
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import skimage.data
from locust import HttpUser, between, task
from locust.clients import ResponseContextManager
from PIL import Image

PICTURES = ("astronaut.png", "coffee.png", "rocket.jpg")
SIDES = (256, 512, 1024)
"""Longest sides of the photographs, in pixels."""

PAINT = "/v1/techniques/fast-style?style=starry-night"
REPAINT = "/v1/techniques/style-transfer"
STEPS, SIZE = 10, 128

ENDS = frozenset({"succeeded", "failed", "canceled", "expired"})
PATIENCE_S = 300.0
"""How long a job may take from its submission to its end."""
TIMEOUT_S = 60.0
LONGEST_REST_S = 10.0


def photographs() -> dict[tuple[str, int], bytes]:
    """Return each picture as a JPEG of each size."""
    folder = Path(skimage.data.__file__).parent
    sizes = itertools.product(PICTURES, SIDES)
    return {(name, side): _jpeg(folder / name, side) for name, side in sizes}


def _jpeg(path: Path, side: int) -> bytes:
    with Image.open(path) as file:
        picture = file.convert("RGB")
    scale = side / max(picture.size)
    resized = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    data = io.BytesIO()
    resized.save(data, "JPEG", quality=90)
    return data.getvalue()


PHOTOGRAPHS = photographs()


class Caller(HttpUser):
    """Someone who calls the gateway, with the key in LANTERN_API_KEY where there is one."""

    abstract = True

    def on_start(self) -> None:
        """Show the key with every request."""
        key = os.environ.get("LANTERN_API_KEY")
        if key:
            self.client.headers["Authorization"] = f"Bearer {key}"


class Painter(Caller):
    """Has photographs painted by a fast style and waits for each."""

    weight = 3
    wait_time = between(0.2, 1.0)

    @task
    def paint(self) -> None:
        """Send one photograph of a random size."""
        side = random.choice(SIDES)
        with self.client.post(
            PAINT,
            data=PHOTOGRAPHS[random.choice(PICTURES), side],
            headers={"Content-Type": "image/jpeg", "Accept": "image/jpeg"},
            name=f"fast-style {side} px",
            timeout=TIMEOUT_S,
            catch_response=True,
        ) as answer:
            rest_s = judge_painted(answer)
        time.sleep(rest_s)


class Submitter(Caller):
    """Submits a job, follows it to its end and begins again."""

    weight = 1
    wait_time = between(1.0, 3.0)

    @task
    def repaint(self) -> None:
        """Repaint a photograph in the hand of another picture."""
        began = time.monotonic()
        job = self._submit()
        if job and self._follow(job, began + PATIENCE_S):
            self._record("style-transfer, submitted to succeeded", time.monotonic() - began)

    def _submit(self) -> str | None:
        with self.client.post(
            REPAINT,
            files={
                "image": ("image.jpg", PHOTOGRAPHS["astronaut.png", 512], "image/jpeg"),
                "style": ("style.jpg", PHOTOGRAPHS["coffee.png", 512], "image/jpeg"),
            },
            data={"steps": STEPS, "size": SIZE},
            name="style-transfer, submit",
            timeout=TIMEOUT_S,
            catch_response=True,
        ) as answer:
            job, rest_s = judge_submitted(answer)
        time.sleep(rest_s)
        return job

    def _follow(self, job: str, deadline: float) -> bool:
        """Poll until the job has ended; True if it succeeded."""
        status = "queued"
        while status not in ENDS and status != "lost":
            asked = time.monotonic()
            with self.client.get(
                f"{job}?wait=20", name="job, wait=20", timeout=TIMEOUT_S, catch_response=True
            ) as answer:
                status = judge_polled(answer, late=time.monotonic() > deadline)
            # a gateway that does not wait must not be asked without end
            time.sleep(max(0.0, 0.5 - (time.monotonic() - asked)))
        return status == "succeeded"

    def _record(self, name: str, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type="JOB",
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=None,
            context={},
        )


def judge_painted(answer: ResponseContextManager) -> float:
    """Accept a picture, and the legal answers to overload; return how long to rest, in seconds."""
    if answer.status_code == 200:
        if not answer.headers.get("Content-Type", "").startswith("image/"):
            fail(answer, "200 without a picture")
        return 0.0
    if answer.status_code == 202 and answer.headers.get("Location"):
        count_apart(answer, "202 became a job")
        return 0.0
    return judge_refused(answer)


def judge_submitted(answer: ResponseContextManager) -> tuple[str | None, float]:
    """Accept a new job; return its address, if there is one, and how long to rest, in seconds."""
    job = answer.headers.get("Location")
    if answer.status_code == 202 and job:
        return job, 0.0
    return None, judge_refused(answer)


def judge_polled(answer: ResponseContextManager, *, late: bool) -> str:
    """Fail a job that ended badly or takes too long; return its status, `lost` if it has none."""
    if answer.status_code != 200:
        fail(answer, said(answer))
        return "lost"
    status = str(_document(answer).get("status"))
    if status in ENDS - {"succeeded"}:
        fail(answer, f"the job {status}: {_document(answer).get('error')}")
    elif late and status not in ENDS:
        fail(answer, f"the job is still {status} after {PATIENCE_S:.0f} s")
        return "lost"
    return status


def judge_refused(answer: ResponseContextManager) -> float:
    """Accept 429 that says when to come back; return how long to rest, in seconds."""
    after = answer.headers.get("Retry-After", "")
    if answer.status_code == 429 and after.isdecimal():
        count_apart(answer, "429 come back later")
        return min(float(after), LONGEST_REST_S)
    fail(answer, said(answer))
    return 0.0


def count_apart(answer: ResponseContextManager, what: str) -> None:
    """Count a legal answer in a row of its own, outside the figures of the served ones."""
    name = f"{answer.request_meta['name']}: {what}"
    answer.request_meta = {**answer.request_meta, "name": name}
    answer.success()  # type: ignore[no-untyped-call]


def fail(answer: ResponseContextManager, why: str) -> None:
    """Count the request as failed."""
    answer.failure(why)  # type: ignore[no-untyped-call]


def said(answer: ResponseContextManager) -> str:
    """Say what came, or why nothing came."""
    if answer.error:
        return str(answer.error)
    return f"status {answer.status_code}: {answer.text[:200]!r}"


def _document(answer: ResponseContextManager) -> Mapping[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
