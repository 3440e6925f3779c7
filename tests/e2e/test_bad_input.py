"""Whatever a client sends: the right refusal or the right picture, never a fault of ours.

After each case the next good request has to work.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import pickle
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import PIL.Image
import pytest
from urllib3.filepost import encode_multipart_formdata

from tests.e2e.pictures import Pixels, decode, encode, noise, png, with_chunks
from tests.e2e.running import Running, problem

pytestmark = pytest.mark.e2e

CANARY = "zq7canary"
"""Part of what is sent; no refusal may repeat it."""
PAINT = "/v1/techniques/fast-style"
EXPLAIN = "/v1/techniques/grad-cam"
CLASSIFY = "/v1/techniques/classify"
DREAM = "/v1/techniques/deep-dream"
MIB = 1024 * 1024

TINY = encode(noise())
JPEG = encode(noise(), "JPEG")


@dataclass(frozen=True)
class Case:
    """A request that has to be refused, and how."""

    name: str
    status: int
    code: str = ""
    path: str = PAINT
    body: bytes | Callable[[], bytes] = TINY
    kind: str | None = "application/octet-stream"
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)


@pytest.fixture(autouse=True, scope="module")
def logged_before(stack: Running) -> dict[Path, int]:
    """Return how long each log was before any of this was sent."""
    return {path: path.stat().st_size for path in (stack.run_dir / "logs").glob("*.log")}


@pytest.fixture(autouse=True)
def afterwards(stack: Running) -> Iterator[None]:
    """See that the service works after each case as it did before."""
    yield
    response = stack.raw("fast-style", JPEG)
    assert response.status == 200
    assert decode(response.data).shape == (48, 64, 3)


# --- Refusals ----------------------------------------------------------------------------------


def form(*parts: tuple[str, Any]) -> dict[str, Any]:
    body, kind = encode_multipart_formdata(list(parts))
    return {"body": body, "kind": kind}


def files(*names: str, data: bytes = TINY) -> list[tuple[str, Any]]:
    return [(name, (f"{name}.png", data)) for name in names]


def document(text: str | bytes) -> dict[str, Any]:
    return {"body": text.encode() if isinstance(text, str) else text, "kind": "application/json"}


WEBHOOK = ', "webhook": {"url": "%s"}'


def call(params: str = "{}", picture: str = "", more: str = "") -> dict[str, Any]:
    """Write a JSON call, with its parameters as they are."""
    url = picture or "data:image/png;base64," + base64.b64encode(TINY).decode()
    return document(f'{{"inputs": {{"image": "{url}"}}, "params": {params}{more}}}')


@functools.cache
def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("handler.py", CANARY)
    return out.getvalue()


def large_blank() -> bytes:
    return encode(np.zeros((4096, 4200, 3), np.uint8))


SVG = (
    f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    f'<svg xmlns="http://www.w3.org/2000/svg"><text>&x;{CANARY}</text></svg>'
).encode()

UNDECODABLE = "undecodable-image"
PICTURES = [
    Case("empty", 400, "empty-body", body=b""),
    Case("text", 422, UNDECODABLE, body=CANARY.encode()),
    Case("truncated-jpeg", 422, UNDECODABLE, body=JPEG[: len(JPEG) // 2]),
    Case("truncated-png", 422, UNDECODABLE, body=TINY[: len(TINY) // 2]),
    Case("one-byte", 422, UNDECODABLE, body=b"\xff"),
    Case("jpeg-header-only", 422, UNDECODABLE, body=JPEG[:20]),
    Case("png-header-only", 422, UNDECODABLE, body=png(64, 64)[:33]),
    Case("bomb", 422, "image-too-large", body=png(50_000, 50_000)),
    Case("bomb-of-2^31", 422, body=png(2**31 - 1, 2**31 - 1)),
    Case("17-megapixels", 422, "image-too-large", body=large_blank),
    Case("side-of-20000", 422, "image-too-large", body=png(20_000, 16)),
    Case("1x20000", 422, body=png(1, 20_000)),
    Case("1x1", 422, "image-too-small", body=png(1, 1, rows=b"\0\0\0\0")),
    Case("0x0", 422, body=png(0, 0)),
    Case("narrow", 422, "image-too-narrow", body=encode(noise(400, 20))),
    Case("text-bomb", 422, UNDECODABLE,
         body=lambda: with_chunks(TINY, (b"zTXt", b"a\0\0" + zlib.compress(bytes(80 * MIB))))),
    Case("gif-cut-short", 422, UNDECODABLE, body=encode(noise(), "GIF")[:-400]),
    Case("tiff-bytes", 422, UNDECODABLE, body=encode(noise(), "TIFF")),
    Case("zip-bytes", 422, UNDECODABLE, body=archive),
    Case("pickle-bytes", 422, UNDECODABLE, body=pickle.dumps({"a": CANARY})),
    Case("elf-bytes", 422, UNDECODABLE, body=b"\x7fELF\x02\x01\x01" + bytes(100)),
    Case("svg-bytes", 422, UNDECODABLE, body=SVG),
    Case("damaged-for-a-job", 422, UNDECODABLE, path=DREAM, body=JPEG[: len(JPEG) // 2]),
    Case("damaged-file", 422, UNDECODABLE, path="/v1/files", body=JPEG[: len(JPEG) // 2]),
    Case("large-file", 422, "image-too-large", path="/v1/files", body=png(50_000, 50_000)),
    Case("empty-file", 400, "empty-body", path="/v1/files", body=b""),
]  # fmt: skip

KINDS = [
    Case(kind.replace("/", "-"), 415, "unsupported-media-type", kind=kind, body=body)
    for kind, body in {
        "text/html": b"<script>",
        "text/plain": b"x",
        "image/svg+xml": SVG,
        "image/bmp": TINY,
        "image/heic": TINY,
        "image/tiff": TINY,
        "application/pdf": b"%PDF-1.7",
        "application/zip": archive(),
        "application/xml": SVG,
        f"x/{CANARY}": TINY,
    }.items()
]

FORMS = [
    Case("no-boundary", 400, "malformed", kind="multipart/form-data"),
    Case("another-boundary", 400, body=form(*files("image"))["body"],
         kind="multipart/form-data; boundary=other"),
    Case("never-closed", 400, body=form(*files("image"))["body"][:-300],
         kind=form(*files("image"))["kind"]),
    Case("1000-parts", 413, **form(*((f"p{n}", "x") for n in range(1000)))),
    Case("huge-field", 413, **form(*files("image"), ("style", "x" * 2 * MIB))),
    Case("two-images", 422, "repeated-input", **form(*files("image", "image"))),
    Case("no-image", 422, "missing-input", **form(("style", "starry-night"))),
    Case("empty-form", 400, "empty-body", **form()),
    Case("image-as-text", 422, **form(("image", CANARY))),
    Case("unknown-slot", 422, "unknown-input", **form(*files("image", CANARY))),
    Case("empty-image", 422, UNDECODABLE, **form(*files("image", data=b""))),
    Case("params-and-fields", 422, "mixed-parameters",
         **form(*files("image"), ("params", "{}"), ("size", "64"))),
    Case("params-not-json", 400, "malformed", **form(*files("image"), ("params", CANARY))),
    Case("raw-where-two-are-needed", 422, "missing-input", path="/v1/techniques/style-transfer"),
    Case("one-of-two", 422, "missing-input", path="/v1/techniques/style-transfer",
         **form(*files("image"))),
]  # fmt: skip


def query(name: str, text: str, code: str = "invalid-parameter", path: str = PAINT) -> Case:
    title = f"{name}={text[:24]!r}"
    return Case(title, 422, code, path=f"{path}?{name}={quote(text, safe='')}")


PARAMETERS = [
    query("style", CANARY, "unknown-style"),
    query("style", "../../etc/passwd", "unknown-style"),
    query("style", CANARY * 67),
    query("style", f"starry-night\0{CANARY}", "unknown-style"),
    query("style", f"a\r\nSet-Cookie: {CANARY}=1"),
    query("style", ""),
    *(query("strength", text) for text in
      ("NaN", "Infinity", "-Infinity", "1e309", "-0.1", "1.0001", "one", "", "1,0", "0x1")),
    *(query("size", text) for text in
      ("63", "4097", "-1", str(2**63), str(10**9), "1" * 5000, "64.5", "NaN", "٣٣٣", "1_000_000")),
    *(query("quality", text) for text in ("0", "101", CANARY)),
    query("overlay", CANARY),
    query(CANARY, "1"),
    query("model", "efficientnet-lite0"),
    *(query("seed", text) for text in ("-1", str(2**31), str(2**63), "1.5", "NaN", "٣", CANARY)),
    query("model", CANARY, "unknown-model", EXPLAIN),
    query("model", "../" + CANARY, "unknown-model", EXPLAIN),
    query("model", "vgg19\0", "unknown-model", EXPLAIN),
    query("layer", CANARY, "unknown-layer", EXPLAIN),
    query("layer", CANARY * 23, path=EXPLAIN),
    query("layer", "__class__", "unknown-layer", EXPLAIN),
    query("layer", "_fc", path=EXPLAIN),
    *(query("target", text, path=EXPLAIN) for text in ("1000", "-1", "100001", "cat", str(2**63))),
    *(query("top", text, path=CLASSIFY) for text in ("0", "1001", "-5", "5.5")),
    query("fit", CANARY, path=EXPLAIN),
    query("relu", CANARY, path=EXPLAIN),
    query("channels", "1,x", path=DREAM),
    query("channels", ",".join(["1"] * 65), path=DREAM),
    query("steps", str(10**9), path=DREAM),
    query("style", "starry-night&style=starry-night", "unknown-style"),
    Case("parameter-twice", 422, "repeated-parameter", path=f"{PAINT}?{CANARY}=64&{CANARY}=128"),
    Case("invalid-utf8", 422, "unknown-style", path=f"{PAINT}?style=%ff%fe"),
    Case("weights-that-are-not-here", 422, "weights-missing", path=f"{EXPLAIN}?model=vgg19"),
]  # fmt: skip

MALFORMED: dict[str, str | bytes] = {
    "empty": "",
    "cut": '{"inputs": {',
    "text": CANARY,
    "not-utf8": b'{"a": "\xff\xfe"}',
    "nan": '{"params": {"size": NaN}}',
    "infinity": '{"params": {"size": -Infinity}}',
    "repeated-key": '{"params": {}, "params": {}}',
    "huge-number": '{"params": {"size": %s}}' % ("1" * 10_000),
    "deep": "[" * 10_000 + "]" * 10_000,
    "a-megabyte-of-brackets": "[" * MIB,
    "trailing": "{} {}",
    "single-quotes": "{'a': 1}",
}
DOCUMENTS = [
    *(Case(f"json-{params[:40]}", 422, **call(params)) for params in (
        '{"size": "512"}', '{"strength": true}', '{"size": null}', '{"size": 512.5}',
        '{"size": -1}', f'{{"size": {2**63}}}', '{"strength": 1e309}', '{"strength": []}',
        '{"style": 5}', '{"style": ["starry-night"]}', f'{{"{CANARY}": 1}}', '{"seed": "5"}',
        '{"seed": true}', '{"seed": 1.0}', '{"seed": -1}', '{"quality": 1e9}',
        '{"model": "vgg19"}', '{"style": "\\ud800"}', '{"\\ud800": 1}', "[]", "null", '"x"',
    )),
    *(Case(f"malformed-{name}", 400, "malformed", **document(text))
      for name, text in MALFORMED.items()),
    *(Case(f"depth-{depth}", 422, "malformed", **document(
        '{"params": ' + '{"a":' * depth + "0" + "}" * depth + "}")) for depth in (20, 400, 850)),
    *(Case(f"document-{text[:20]}", 422, **document(text)) for text in (
        "[]", '"x"', "null", "5", "{}", '{"inputs": []}', '{"inputs": {"image": null}}',
        '{"inputs": {"image": 5}}', '{"inputs": {"image": {"url": "http://x"}}}',
        '{"params": []}', f'{{"{CANARY}": 1}}', f'{{"inputs": {{"{CANARY}": "x"}}}}',
    )),
    *(Case(f"picture-{picture[:24]}", 422, **call(picture=picture)) for picture in (
        f"http://127.0.0.1/{CANARY}", "https://example.org/a.png", "file:///etc/passwd",
        "redis://127.0.0.1/", f"/etc/{CANARY}", "file_" + "0" * 64, "file_../../etc/passwd",
        "data:image/png;base64,!!!!", "data:image/png;base64,", "data:image/png,abc",
        "data:image/svg+xml;base64,PHN2Zz4=", "data:text/html;base64,PHN2Zz4=", "x" * 1000,
    )),
    *(Case(f"webhook-{url}", 422, "invalid-parameter", **call(more=WEBHOOK % url)) for url in (
        "http://10.0.0.1/", "https://169.254.169.254/", "https://a@example.com/", "x",
    )),
]  # fmt: skip

HEADERS = [
    Case("gzip", 415, headers={"content-encoding": "gzip"}),
    Case("encoding", 415, headers={"content-encoding": CANARY}),
    *(Case(f"accept-{accept}", 406, "not-acceptable", headers={"accept": accept})
      for accept in ("image/tiff", "text/html", f"x/{CANARY}", "image/png;q=0", "video/*")),
    Case("table-as-picture", 406, "not-acceptable", path=CLASSIFY, headers={"accept": "image/png"}),
    Case("long-key", 400, path=DREAM, headers={"idempotency-key": CANARY * 34}),
]  # fmt: skip

PLACES = [
    *(Case(f"method-{method}", 405, method=method) for method in
      ("PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", CANARY.upper())),
    Case("post-to-list", 405, path="/v1/techniques"),
    Case("delete-built-in-model", 409, "built-in", path="/v1/models/vgg19", method="DELETE"),
    Case("delete-no-model", 404, "unknown-model", path="/v1/models/net_0", method="DELETE"),
    Case("bring-a-picture-for-a-model", 415, path="/v1/models"),
    *(Case(f"nowhere-{path}", 404, path=path, method=method) for path, method in (
        ("/v1/techniques/" + CANARY, "POST"), ("/v1/techniques/..%2f..%2fetc%2fpasswd", "POST"),
        ("/v1/techniques/%00", "POST"), ("/v1/techniques/" + "a" * 4000, "POST"),
        ("/v1/files/..%2f..%2fetc%2fpasswd", "GET"), ("/v1/files/file_" + "0" * 64, "GET"),
        ("/v1/files/%00", "DELETE"), ("/v1/styles/..%2f..%2fx/thumbnail", "GET"),
        ("/v1/models/%ff", "GET"), ("/v1/samples/..%2fcat", "GET"),
        ("/v1/jobs/job_" + "0" * 32, "GET"), (f"/v1/jobs/job_{'0' * 32}/cancel", "POST"),
        (f"/v1/jobs/job_{'0' * 32}/events", "GET"), (f"/v1/jobs/{CANARY}/result", "GET"),
        ("/static/..%2fapp.py", "GET"), ("/static/%2e%2e/%2e%2e/settings.py", "GET"),
        ("/predictions/stylize", "POST"), ("/models", "GET"), (f"/{CANARY}", "GET"),
        ("//etc/passwd", "GET"),
    )),
    *(Case(f"cursor-{cursor}", 400, "malformed", path=f"/v1/jobs?cursor={cursor}", method="GET")
      for cursor in (CANARY, "MTIz", "-1", "%00", "9" * 400)),
    *(Case(f"limit-{limit}", 422, path=f"/v1/jobs?limit={limit}", method="GET")
      for limit in ("0", "-1", "1000000", CANARY, "1" * 400)),
    Case("status", 422, path=f"/v1/jobs?status={CANARY}", method="GET"),
]  # fmt: skip

EVERY = [*PICTURES, *KINDS, *FORMS, *PARAMETERS, *DOCUMENTS, *HEADERS, *PLACES]


@pytest.mark.parametrize(
    "case", EVERY, ids=lambda case: case.name.encode("ascii", "replace").decode()
)
def test_it_is_refused(stack: Running, case: Case) -> None:
    body = case.body if isinstance(case.body, bytes) else case.body()
    started = time.monotonic()
    headers = case.headers | ({"content-type": case.kind} if case.kind else {})
    response = stack.request(case.method, case.path, body, **headers)
    if case.method == "HEAD":
        assert response.status == case.status
        return
    found = problem(response, case.status, case.code)
    text = json.dumps(found)
    assert CANARY not in text.lower()
    assert "etc/passwd" not in text
    assert "Set-Cookie" not in response.headers
    assert CANARY not in str(response.headers).lower()
    assert time.monotonic() - started < 5
    if case.status == 405:
        assert response.headers["Allow"]


# --- Right pictures ----------------------------------------------------------------------------


def back(stack: Running, data: bytes, **headers: str) -> Pixels:
    """Send a picture through the service at strength 0; return the pixels that come back."""
    headers = {"accept": "image/png", **headers}
    response = stack.raw("fast-style", data, "strength=0&size=2048", **headers)
    assert response.status == 200, response.data
    return decode(response.data)


def far(one: Pixels, other: Pixels) -> int:
    """Return the largest difference of two pictures, in levels."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


def plain(colour: tuple[int, ...], mode: str) -> PIL.Image.Image:
    return PIL.Image.new(mode, (32, 32), colour if len(colour) > 1 else colour[0])


class TestPictures:
    def test_the_bytes_say_what_they_are(self, stack: Running) -> None:
        for kind in ("image/png", "image/webp", "image/jpeg", "application/x-www-form-urlencoded"):
            assert far(back(stack, JPEG, content_type=kind), decode(JPEG)) == 0

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_it_is_turned_upright(self, stack: Running, orientation: int) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        stored = decode(JPEG)
        upright = {
            1: lambda a: a,
            2: np.fliplr,
            3: lambda a: np.rot90(a, 2),
            4: np.flipud,
            5: lambda a: np.fliplr(np.rot90(a, 3)),
            6: lambda a: np.rot90(a, 3),
            7: lambda a: np.fliplr(np.rot90(a, 1)),
            8: lambda a: np.rot90(a, 1),
        }[orientation]
        assert far(back(stack, encode(stored, "PNG", exif=exif)), upright(stored)) == 0

    @pytest.mark.parametrize(
        ("name", "data", "colour", "tolerance"),
        [
            ("cmyk", encode(plain((0, 255, 255, 0), "CMYK"), "JPEG"), (255, 0, 0), 6),
            ("cmyk-black", encode(plain((0, 0, 0, 255), "CMYK"), "JPEG"), (0, 0, 0), 6),
            ("grey", encode(plain((100,), "L")), (100, 100, 100), 0),
            ("grey-jpeg", encode(plain((100,), "L"), "JPEG"), (100, 100, 100), 2),
            ("one-bit", encode(plain((1,), "1")), (255, 255, 255), 0),
            ("palette", encode(plain((200, 30, 60), "RGB").quantize()), (200, 30, 60), 1),
            ("half-red", encode(plain((255, 0, 0, 128), "RGBA")), (255, 127, 127), 3),
            ("clear-red", encode(plain((255, 0, 0, 0), "RGBA")), (255, 255, 255), 3),
            ("half-grey", encode(plain((0, 128), "LA")), (127, 127, 127), 3),
            ("webp", encode(plain((200, 30, 60), "RGB"), "WEBP", lossless=True), (200, 30, 60), 3),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_its_colours_are_kept(
        self, stack: Running, name: str, data: bytes, colour: tuple[int, ...], tolerance: int
    ) -> None:
        # a JPEG has no transparency: it shows the picture over white
        flat = "A" in PIL.Image.open(io.BytesIO(data)).mode
        got = back(stack, data, accept="image/jpeg" if flat else "image/png")
        assert far(got, np.full((32, 32, 3), colour)) <= tolerance

    def test_sixteen_bits_are_scaled_not_cut(self, stack: Running) -> None:
        values = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
        got = back(stack, encode(PIL.Image.fromarray(values)))
        wanted = np.repeat((values / 257).round().astype(np.uint8)[..., None], 3, 2)
        assert far(got, wanted) <= 1

    def test_sixteen_bits_of_three_colours_are_scaled_not_cut(self, stack: Running) -> None:
        row = b"\0" + struct.pack(">HHH", 40_000, 300, 65_535) * 32
        got = back(stack, png(32, 32, depth=16, rows=row * 32))
        assert far(got, np.full((32, 32, 3), (156, 1, 255))) <= 1

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    @pytest.mark.parametrize("extra", [{"exif": b"Exif\0\0garbage"}, {"icc_profile": b"garbage"}])
    def test_garbage_beside_the_pixels_costs_nothing(
        self, stack: Running, kind: str, extra: dict[str, bytes]
    ) -> None:
        data = encode(noise(), kind, **extra)
        assert far(back(stack, data), decode(encode(noise(), kind))) == 0

    def test_of_an_animation_the_first_frame_is_taken(self, stack: Running) -> None:
        frames = [PIL.Image.fromarray(noise(seed=seed)) for seed in range(20)]
        data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
        answer = stack.raw("classify", data, accept="application/json")
        told = str(json.loads(answer.data)["facts"]["warnings"])
        assert "only its first frame" in told

    @pytest.mark.parametrize("kind", ["WEBP", "GIF"])
    def test_an_animation_is_painted_frame_by_frame(self, stack: Running, kind: str) -> None:
        frames = [PIL.Image.fromarray(noise(seed=seed)) for seed in range(5)]
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=70)
        answer = stack.raw("fast-style", data, prefer="wait=20", accept=f"image/{kind.lower()}")
        assert answer.status == 200, answer.data
        with PIL.Image.open(io.BytesIO(answer.data)) as painted:
            assert (painted.format, painted.n_frames) == (kind, 5)  # type: ignore[attr-defined]
        bomb = [PIL.Image.new("L", (16, 16), 255 * (number % 2)) for number in range(300)]
        data = encode(bomb[0], kind, save_all=True, append_images=bomb[1:])
        problem(stack.raw("fast-style", data), 422, "image-too-large")

    def test_a_polyglot_comes_out_clean(self, stack: Running) -> None:
        data = JPEG + b"<script>alert(1)</script>"
        for accept in ("image/jpeg", "image/png", "image/webp"):
            response = stack.raw("fast-style", data, "strength=0", accept=accept)
            assert response.status == 200
            assert b"<script>" not in response.data
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        private = encode(noise(), "JPEG", comment=CANARY.encode())
        assert CANARY.encode() not in stack.raw("fast-style", private).data

    def test_many_chunks_are_read_in_a_bounded_time(self, stack: Running) -> None:
        texts = [(b"tEXt", b"a\0" + str(number).encode()) for number in range(20_000)]
        started = time.monotonic()
        assert far(back(stack, with_chunks(TINY, *texts)), decode(TINY)) == 0
        assert time.monotonic() - started < 3

    def test_a_profile_bomb_is_refused_or_left_out(self, stack: Running) -> None:
        bomb = with_chunks(TINY, (b"iCCP", b"a\0\0" + zlib.compress(bytes(80 * MIB))))
        response = stack.raw("fast-style", bomb)
        assert response.status in (200, 422)

    def test_rows_that_are_missing_are_refused_or_black(self, stack: Running) -> None:
        row = b"\0" + b"\xff\0\0" * 32
        response = stack.raw("fast-style", png(32, 32, rows=row * 16), "strength=0")
        assert response.status in (200, 422)

    def test_noise_in_a_file_never_harms(self, stack: Running) -> None:
        random = np.random.default_rng(0)
        for whole in (JPEG, TINY, encode(noise(), "WEBP")):
            for _ in range(15):
                data = bytearray(whole)
                for place in random.integers(0, len(data), 6):
                    data[place] = random.integers(0, 256)
                response = stack.raw("fast-style", bytes(data))
                assert response.status in (200, 422), response.data
                if response.status == 422:
                    problem(response, 422)


class TestHarmless:
    """Requests that look bad and are fine."""

    def test_a_file_name_is_not_used(self, stack: Running) -> None:
        for name in ("../../x", "/etc/passwd", "a\0b", "x" * 300, 'a"; filename="b', "ü"):
            request = form(("image", (name, TINY)))
            response = stack.request("POST", PAINT, request["body"], content_type=request["kind"])
            assert response.status == 200, response.data

    def test_a_method_override_is_not_heard(self, stack: Running) -> None:
        for header in ("x_http_method_override", "x_method_override"):
            assert stack.raw("fast-style", TINY, **{header: "DELETE"}).status == 200
        assert stack.get("/v1/techniques?_method=DELETE", x_http_method="DELETE").status == 200

    def test_a_byte_order_mark_is_read_over(self, stack: Running) -> None:
        body = b"\xef\xbb\xbf" + call()["body"]
        response = stack.request("POST", PAINT, body, content_type="application/json")
        assert response.status == 200

    def test_another_sites_page_is_refused(self, stack: Running) -> None:
        for evil in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
            response = stack.request("POST", DREAM, TINY, content_type="image/png", **evil)
            problem(response, 403)
            assert b"evil" not in response.data

    def test_forwarding_headers_are_not_believed(self, stack: Running) -> None:
        evil = {"x_forwarded_host": "evil.example", "x_forwarded_proto": "https",
                "x_forwarded_prefix": "/evil", "forwarded": "host=evil.example"}  # fmt: skip
        response = stack.request(
            "POST", f"{DREAM}?steps=1&octaves=1&size=64", TINY, content_type="image/png", **evil
        )
        assert response.status == 202
        assert response.headers["Location"].startswith("/v1/jobs/job_")
        assert b"evil" not in response.data
        stack.ended(json.loads(response.data))

    def test_a_header_cannot_be_planted(self, stack: Running) -> None:
        for name in ("style", "nope", "model"):
            response = stack.raw("fast-style", TINY, f"{name}=a%0d%0aX-Planted:%20{CANARY}")
            problem(response, 422)
            assert "X-Planted" not in response.headers
        response = stack.get("/v1/jobs/a%0d%0aX-Planted:%201")
        problem(response, 404)
        assert "X-Planted" not in response.headers


# --- Below HTTP libraries ----------------------------------------------------------------------


def talk(stack: Running, sent: bytes, *, close: bool = False, seconds: float = 10) -> bytes:
    """Send bytes over a connection of its own; return what comes back."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=seconds) as connection:
        connection.sendall(sent)
        if close:
            return b""
        got = b""
        while b"\r\n\r\n" not in got and (more := connection.recv(65536)):
            got += more
        return got


def head(*lines: str, path: str = PAINT, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


class TestWire:
    def test_a_length_over_the_limit_is_refused_before_the_body(self, stack: Running) -> None:
        started = time.monotonic()
        answer = talk(stack, head("Content-Type: image/png", f"Content-Length: {20 * MIB}"))
        assert status_of(answer) == 413
        assert b"application/problem+json" in answer
        assert time.monotonic() - started < 2

    @pytest.mark.parametrize("path", [PAINT, "/v1/files"])
    @pytest.mark.parametrize(
        "start",
        [b"", JPEG, b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'],
    )
    def test_a_body_over_the_limit_without_a_length_is_refused(
        self, stack: Running, path: str, start: bytes
    ) -> None:
        kind = "multipart/form-data; boundary=b" if start.startswith(b"--b") else "image/png"
        block = b"10000\r\n" + bytes(65536) + b"\r\n"
        lines = head(f"Content-Type: {kind}", "Transfer-Encoding: chunked", path=path)
        with socket.create_connection(("127.0.0.1", stack.port), timeout=20) as connection:
            with contextlib.suppress(OSError):  # it need not read all of it
                connection.sendall(lines)
                if start:
                    connection.sendall(f"{len(start):x}\r\n".encode() + start + b"\r\n")
                for _ in range(14 * 16):
                    connection.sendall(block)
                connection.sendall(b"0\r\n\r\n")
            answer = connection.recv(65536)
        assert status_of(answer) == 413

    def test_a_chunked_body_within_the_limit_is_taken(self, stack: Running) -> None:
        chunk = f"{len(TINY):x}\r\n".encode() + TINY + b"\r\n0\r\n\r\n"
        lines = head("Content-Type: image/png", "Transfer-Encoding: chunked")
        assert status_of(talk(stack, lines + chunk)) == 200

    def test_a_large_upload_is_answered_with_413(self, stack: Running) -> None:
        problem(stack.raw("fast-style", bytes(13 * MIB)), 413, "too-large")

    @pytest.mark.parametrize(
        "sent",
        [
            head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
            head("Content-Length: -5"),
            head("Content-Length: five"),
            head("Content-Length: 5", "Content-Length: 6") + b"12345",
            head("Transfer-Encoding: chunked") + b"zz\r\n",
            head("Transfer-Encoding: rot13") + b"0\r\n\r\n",
            head("Bad Header: x"),
            head("X: " + "a" * 20_000),
            head(*(f"X-{number}: a" for number in range(500))),
            head(path="/" + "a" * 20_000, method="GET"),
            b"\0\1\2\3\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET\r\n\r\n",
        ],
        ids=lambda sent: sent[:60].decode("ascii", "replace"),
    )
    def test_broken_http_is_refused(self, stack: Running, sent: bytes) -> None:
        answer = talk(stack, sent)
        # 501 and 505 are HTTP's own words for what a server does not speak
        assert answer == b"" or status_of(answer) in {*range(400, 500), 501, 505}
        assert b"Traceback" not in answer

    def test_a_client_that_leaves_does_no_harm(self, stack: Running) -> None:
        lines = head("Content-Type: image/png", f"Content-Length: {len(TINY)}")
        talk(stack, lines + TINY[:100], close=True)
        talk(stack, lines + TINY, close=True)
        talk(stack, head(path="/v1/jobs", method="GET"), close=True)

    def test_slow_clients_do_not_hold_up_others(self, stack: Running) -> None:
        lines = head("Content-Type: image/png", "Content-Length: 1000")
        connections = [
            socket.create_connection(("127.0.0.1", stack.port), timeout=5) for _ in range(400)
        ]
        try:
            for connection in connections:
                connection.sendall(lines + b"x")
            started = time.monotonic()
            assert stack.raw("fast-style", TINY).status == 200
            assert time.monotonic() - started < 2
        finally:
            for connection in connections:
                connection.close()


def test_none_of_it_was_noted_as_a_fault_of_ours(logged_before: dict[Path, int]) -> None:
    for path, size in logged_before.items():
        text = path.read_bytes()[size:].decode(errors="replace")
        assert "Traceback" not in text, text
