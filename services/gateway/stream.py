"""A live stream: a camera's frames come, painted ones go back, at the rate that is asked for."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import flask

from lantern import call as calls
from lantern import registry
from lantern.artifact import Rendering
from lantern.call import Answer, Call
from lantern.errors import BadImage, InvalidParameter, LanternError
from lantern.registry import Technique
from lantern.run import validate
from services.backend import EngineFailed, Unavailable
from services.gateway.context import current
from services.gateway.guard import owner
from services.gateway.problems import Problem, document, translate
from services.gateway.reading import json_object
from services.gateway.styles import check_styles
from services.gateway.websocket import PING_EVERY_S, Channel, switch

routes = flask.Blueprint("stream", __name__)
TECHNIQUE, SMOOTHING = "fast-style", "smoothing"
LEAST_FPS, MOST_FPS, USUAL_FPS = 1.0, 60.0, 12.0
# Without frames for so long the stream ends.
IDLE_S = 60.0
REPORT_EVERY_S = 2.0
MOST_TEXT = 4096


@routes.get("/v1/stream", websocket=True)
@routes.get("/v1/stream")  # without a handshake, to be told that one is needed
def stream() -> flask.Response:
    """Paint a camera's frames as they come: a WebSocket."""
    fps, call = read_settings(flask.request.args.to_dict(), text=True)
    context, who = current(), owner()
    technique = registry.find(TECHNIQUE)
    session = Session(technique, call, Rate(fps, _most_size(call)))

    def talk(channel: Channel) -> None:
        session.serve(channel, context.backend.perform)

    settings = context.settings
    response = switch(talk, most=settings.max_upload_bytes, origins=settings.web_origins)
    if not context.seats.take(who):
        raise Problem(
            429, "too-many-streams",
            f"too many streams are open, of {context.seats.bounds}; close one first",
        )  # fmt: skip
    response.call_on_close(lambda: context.seats.give_back(who))
    return response


def read_settings(
    given: Mapping[str, Any], before: Call | None = None, *, text: bool = False
) -> tuple[float, Call]:
    """Read frames per second and the call each frame is; what is not given stays as `before`.

    `text` is for bare strings.

    Raises:
        LanternError, Problem: a parameter is wrong.
    """
    technique, rest = registry.find(TECHNIQUE), dict(given)
    if SMOOTHING in rest:
        raise InvalidParameter(
            "a stream's frames are painted each by itself: smoothing is for animations; leave it "
            "out, or send the film to fast-style as a WebP or GIF",
            pointer=f"/params/{SMOOTHING}",
        )
    fps = _fps(rest.pop("fps", USUAL_FPS))
    rendering = {name: rest.pop(name) for name in Rendering.model_fields if name in rest}
    params, forms = (dict(before.params), dict(before.rendering)) if before else ({}, {})
    call = Call(
        TECHNIQUE,
        {},
        validate(technique.params_type, params | rest, text=text).model_dump(mode="json"),
        validate(Rendering, forms | rendering, text=text).model_dump(mode="json"),
        accept=("image/jpeg",),
    )
    check_styles(technique, call)
    return fps, call


@dataclass
class Rate:
    """Chooses the size of pictures so that so many frames a second are painted.

    The time of a frame goes with its pixels; sizes change by steps, so that noise changes none.
    """

    fps: float
    most: int
    size: int = 0
    least: int = 96
    step: int = 32
    _mean_s: float = 0.0
    _seen: int = 0

    def __post_init__(self) -> None:
        self.size = self.size or min(self.most, 512)

    def took(self, seconds: float) -> bool:
        """Learn how long a frame of the present size took; True where the size changes."""
        self._seen += 1
        weight = max(0.3, 1 / self._seen)
        self._mean_s += weight * (seconds - self._mean_s)
        if self._seen < 3:
            return False
        wanted = self.size * (0.9 / (self.fps * max(self._mean_s, 1e-4))) ** 0.5
        size = self.most if wanted >= self.most else int(wanted) // self.step * self.step
        size = min(max(size, self.least), self.most)
        # up only where there is room for two steps: back and forth is worse than a bit too small
        if size == self.size or (
            size > self.size and wanted < self.size + 2 * self.step < self.most
        ):
            return False
        self.size, self._seen, self._mean_s = size, 0, 0.0
        return True


@dataclass
class Session:
    """One caller's stream."""

    technique: Technique
    call: Call
    rate: Rate
    dropped: int = 0
    painted: int = 0
    idle_s: float = IDLE_S
    _since: float = field(default_factory=time.monotonic)

    def serve(self, channel: Channel, engine: Callable[[Technique, Call], Answer]) -> None:
        """Paint the newest frame there is, again and again, until none comes or the caller leaves.

        Raises:
            Gone: the caller has left.
        """
        quiet_since = time.monotonic()
        while (left_s := quiet_since + self.idle_s - time.monotonic()) > 0:
            messages = channel.receive(min(PING_EVERY_S, left_s))
            if not messages:
                channel.ping()
                continue
            for text in messages:
                if isinstance(text, str):
                    self._change(channel, text)
            frames = [frame for frame in messages if isinstance(frame, bytes)]
            if not frames:
                continue
            self.dropped += len(frames) - 1
            self._paint(channel, frames[-1], engine)
            quiet_since = time.monotonic()
        channel.close(reason=f"no frames for {self.idle_s:g} s")

    def _paint(
        self, channel: Channel, frame: bytes, engine: Callable[[Technique, Call], Answer]
    ) -> None:
        started = time.monotonic()
        params = dict(self.call.params) | {"size": self.rate.size}
        call = dataclasses.replace(self.call, inputs={"image": frame}, params=params)
        try:
            if calls.check(self.technique, call.inputs, thoroughly=False):
                raise BadImage(
                    "a frame is a still: send an animation to /v1/techniques, or its frames one "
                    "by one",
                    code="not-a-still", pointer="/inputs/image",
                )  # fmt: skip
            answer = engine(self.technique, call)
        except (LanternError, EngineFailed) as error:
            self._say_problem(channel, translate(error))
            return
        except Unavailable as error:
            self._say_problem(channel, Problem(503, "unavailable", f"{error}; frames are dropped"))
            return
        self.painted += 1
        channel.send(answer.body)
        if self.rate.took(time.monotonic() - started) or self._is_time_to_report():
            self._report(channel)

    def _change(self, channel: Channel, text: str) -> None:
        """Take new parameters; wrong ones leave those there are."""
        try:
            if len(text) > MOST_TEXT:
                raise InvalidParameter(
                    f"a message of parameters has at most {MOST_TEXT} characters"
                )
            given = json_object(text, "the text")
            fps, call = read_settings({"fps": self.rate.fps} | given, self.call)
        except (LanternError, Problem) as error:
            self._say_problem(channel, translate(error))
        else:
            self.call, most = call, _most_size(call)
            self.rate = Rate(fps, most, min(self.rate.size, most))
            self._report(channel)

    def _is_time_to_report(self) -> bool:
        return time.monotonic() - self._since >= REPORT_EVERY_S

    def _report(self, channel: Channel) -> None:
        seconds = max(time.monotonic() - self._since, 1e-3)
        told = {
            "type": "rate",
            "size": self.rate.size,
            "fps": round(self.painted / seconds, 1),
            "painted": self.painted,
            "dropped": self.dropped,
        }
        channel.send(json.dumps(told))
        self.painted = self.dropped = 0
        self._since = time.monotonic()

    @staticmethod
    def _say_problem(channel: Channel, problem: Problem) -> None:
        channel.send(json.dumps({"type": "problem", "problem": document(problem, "")}))


def _fps(given: Any) -> float:
    try:
        fps = float(given)
    except (TypeError, ValueError, OverflowError):
        fps = 0.0
    if not LEAST_FPS <= fps <= MOST_FPS:
        raise InvalidParameter(
            f"fps must be a number from {LEAST_FPS:g} to {MOST_FPS:g}; the default is "
            f"{USUAL_FPS:g}",
            pointer="/params/fps",
        )
    return fps


def _most_size(call: Call) -> int:
    return int(call.params["size"])
