"""One request as it comes in over a connection: where its head and its body end.

Only the framing is read here, and leniently: gunicorn's parser judges every byte afterwards. What
it would refuse counts as complete, so that it sees it and says what is wrong.
"""

from __future__ import annotations

import io
import re
import socket
import time
from typing import Any, NamedTuple

from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import LimitRequestHeaders, NoMoreData
from gunicorn.http.unreader import IterUnreader

from services.gateway.problems import Problem, too_large

MOST_HEAD = 64 * 1024
MOST_CHUNKS = 65_536
MOST_CHUNK_LINE = 8200
BLOCK = 64 * 1024
LARGE_BLOCK = 1024 * 1024
PIECE = 8 * 1024
# a bare LF ends the head too: it is an error that gunicorn names
HEAD_END = re.compile(rb"\r\n\r\n|(?<!\r)\n")
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n")
EXPECT = re.compile(rb"\r\nexpect:[ \t]*([^\r\n]*?)[ \t]*\r\n")
# a body that may be larger than others
UPLOAD = re.compile(rb"POST /v1/(?:collections/[^/? ]+/images|models)[? ]")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Pace(NamedTuple):
    """How slowly a request may come in."""

    head_s: float
    """From the first byte of the head to its last."""
    stall_s: float
    """Longest time without a byte of the body, and how much longer than by its rate it may take."""
    least_rate: float
    """Bytes per second of the body."""


class Arrival:
    """What has come of a request."""

    def __init__(self, data: bytes, *, most_body: int, most_upload: int = 0) -> None:
        self.data = bytearray(data)
        self._most_body, self._most_upload = most_body, most_upload
        self._head_end = self._searched = 0
        self._chunk_at = self._chunks = self._announced = 0
        self._end: int | None = None  # of the request, once that is known
        self._awaits_continue = False
        self._began = self._body_began = self._last = time.monotonic()

    def receive(self, sock: socket.socket) -> bool:
        """Take in what a non-blocking socket has; tell whether the request is complete.

        Raises:
            Problem, ParseException, NoMoreData: it is refused before it is complete.
            OSError: the caller left.
        """
        while not self._is_complete():
            if self._awaits_continue:
                self._awaits_continue = False
                sock.send(CONTINUE)
            missing = 0 if self._end is None else self._end - len(self.data)
            try:
                block = sock.recv(max(BLOCK, min(missing, LARGE_BLOCK)))
            except BlockingIOError:
                return False
            if not block:
                raise NoMoreData if self._head_end else ConnectionResetError
            self._last = time.monotonic()
            if not self.data:
                self._began = self._last
            self.data += block
        return True

    @property
    def head(self) -> bytes:
        """The request line and the headers of a complete request."""
        return bytes(self.data[: self._head_end])

    def deadline(self, pace: Pace) -> float:
        """Return until when to wait for the next byte."""
        if not self._head_end:
            return self._began + pace.head_s
        expected_s = (len(self.data) - self._head_end) / pace.least_rate
        return pace.stall_s + min(self._last, self._body_began + expected_s)

    def hand_over(self, req: Any) -> bytes:
        """Give a parsed request its body in memory; return what came after it.

        Raises:
            ParseException: the chunks are broken.
        """
        is_chunked = not isinstance(req.body.reader, LengthReader)
        stop = (self._end or 0) if is_chunked else self._head_end + req.body.reader.length
        if stop > len(self.data):  # above the limit: the application refuses it by its length
            req.force_close()
            del self.data[self._head_end :]
        view, self.data = memoryview(self.data), bytearray()
        body, rest = bytes(view[self._head_end : stop]), bytes(view[stop:])
        if is_chunked:
            # in pieces, because its reader copies all it has for every chunk
            pieces = (body[at : at + PIECE] for at in range(0, len(body), PIECE))
            body = Body(ChunkedReader(req, IterUnreader(pieces))).read()
        req.body = io.BytesIO(body)
        req._expected_100_continue = False  # answered already
        return rest

    def _is_complete(self) -> bool:
        if not self._head_end:
            self._find_head()
        if self._head_end and self._end is None:
            self._follow_chunks()
        return self._end is not None and len(self.data) >= self._end

    def _find_head(self) -> None:
        found = HEAD_END.search(self.data, max(0, self._searched - 3))
        self._searched = len(self.data)
        if found is None:
            if len(self.data) > MOST_HEAD:
                raise LimitRequestHeaders(f"more than {MOST_HEAD} bytes")
            return
        self._head_end = self._chunk_at = found.end()
        self._body_began = time.monotonic()
        if UPLOAD.match(self.data):
            self._most_body = max(self._most_body, self._most_upload)
        head = bytes(self.data[: self._head_end]).lower()
        expected = EXPECT.search(head)
        if not head.endswith(b"\r\n\r\n") or (expected and expected[1] != b"100-continue"):
            self._end = self._head_end
        elif b"\r\ntransfer-encoding:" not in head:
            length = LENGTH.search(head)
            body = int(length[1]) if length else 0
            self._end = self._head_end + (body if body <= self._most_body else 0)
        self._awaits_continue = expected is not None and b" http/1.1\r\n" in head

    def _follow_chunks(self) -> None:
        """Step from chunk to chunk until the last one is there, or one is broken."""
        while (line_end := self.data.find(b"\r\n", self._chunk_at)) >= 0:
            try:
                size = int(self.data[self._chunk_at : line_end].partition(b";")[0], 16)
            except ValueError:
                size = -1
            if size == 0:
                self._find_trailers(line_end)
                return
            if size < 0:
                break
            self._chunk_at = line_end + 2 + size + 2
            self._count_chunk(size)
            if self._chunk_at > len(self.data):
                return
        if line_end >= 0 or len(self.data) - self._chunk_at > MOST_CHUNK_LINE:
            self._end = len(self.data)

    def _find_trailers(self, line_end: int) -> None:
        last = self.data.find(b"\r\n\r\n", line_end)
        if last >= 0:
            self._end = last + 4
        elif len(self.data) - line_end > MOST_HEAD:
            raise LimitRequestHeaders(f"more than {MOST_HEAD} bytes of trailers")

    def _count_chunk(self, size: int) -> None:
        self._chunks += 1
        self._announced += size
        raw = self._chunk_at - self._head_end
        if max(self._announced, raw // 2) > self._most_body:
            raise too_large(self._most_body)
        if self._chunks > MOST_CHUNKS:
            raise Problem(413, "too-many-chunks", f"send at most {MOST_CHUNKS} chunks")
