"""Telling other servers what became of a job: signed messages after Standard Webhooks."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import json
import queue
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lantern.errors import InvalidParameter

PREFIX = "whsec_"
MAX_URL = 2048
MAX_BODY_BYTES = 20_000
MAX_ANSWER_BYTES = 4096
MAX_ADDRESSES = 4
RESOLVE_S = 3.0
WAITS_S = (5.0, 5 * 60.0, 30 * 60.0, 2 * 3600.0, 5 * 3600.0, 10 * 3600.0)
MAX_RETRY_AFTER_S = 3600.0
"""What a receiver may ask for beyond the table; so all attempts are made within 24 hours."""

URL = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<authority>[^/?#\\]*)(?P<path>[/?][^#\\]*)?")
AUTHORITY = re.compile(r"(?:\[([0-9a-f]*:[0-9a-f:.]+)\]|([\w.-]+))(?::([0-9]{1,5}))?", re.I)
# The last label begins with a letter: 127.1 and 0x7f000001 are addresses to a resolver, not names.
NAME = re.compile(r"(?!.{254})(\w([\w-]{0,61}\w)?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.I)
UNICAST = ipaddress.IPv6Network("2000::/3")
# For the protocols of a network's own operator; `is_global` takes some of its addresses.
OPERATORS = ipaddress.IPv4Network("192.0.0.0/24")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Unresolved(InvalidParameter):
    """A host name has no address, or none was found in time."""


@dataclass(frozen=True)
class Delivery:
    """One attempt to hand a message over.

    `status` is None where no answer came; `error` then says what kind of thing went wrong:
    `refused target`, `unresolved`, `connection`, `tls`, `protocol` or `timeout`.
    """

    status: int | None
    error: str
    seconds: float
    retry_after_s: float | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the receiver has taken the message; a redirection has not."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more messages."""
        return self.status == 410


@dataclass(frozen=True)
class _Place:
    """A URL in its parts; `path` is what the request line says."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_usual(self) -> bool:
        return (self.scheme, self.port) == ("https", 443)

    @property
    def header(self) -> str:
        """The `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _port(self.scheme) else f"{host}:{self.port}"


def new_secret() -> str:
    """Return a fresh secret to sign with."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> None:
    """Refuse a secret that Standard Webhooks does not allow.

    Raises:
        InvalidParameter: it is not `whsec_` and the base64 of 24 to 64 bytes.
    """
    _key(secret)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(PREFIX) or not 24 <= len(key) <= 64:
        raise InvalidParameter(
            "the secret must be whsec_ and then the base64 of 24 to 64 random bytes",
            pointer="/webhook/secret",
        )
    return key


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers by which the receiver knows who sent the message, and when.

    Args:
        secret: `whsec_...`, as the receiver has it.
        message_id: the same in all attempts, so that the receiver can drop repetitions.
        timestamp: the time of this attempt in seconds since 1970.
        body: the bytes as they are sent.

    Source: Standard Webhooks specification, "Signature scheme" (symmetric, v1).
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def message(event: str, at: float, data: Mapping[str, Any]) -> bytes:
    """Return the body of a message: what happened, when (seconds since 1970), to what.

    Raises:
        ValueError: the data is too large; send ids and links, not content.
    """
    moment = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    record = {"type": event, "timestamp": moment, "data": dict(data)}
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"a message has {len(body)} bytes; the limit is {MAX_BODY_BYTES}")
    return body


def check_target(url: str, *, loopback: bool) -> None:
    """Refuse a URL that does not lead to the public internet over https.

    With `loopback`, meant for tests, http and any port are allowed on this machine itself.

    Raises:
        InvalidParameter: it is not to be called; says why, without repeating it.
    """
    _resolve(_parse(url, loopback=loopback), loopback=loopback, limit_s=RESOLVE_S)


def _refused(why: str) -> InvalidParameter:
    return InvalidParameter(f"the webhook's URL {why}", pointer="/webhook/url")


def _parse(url: str, *, loopback: bool) -> _Place:
    """Take a URL apart once; nothing after this reads it in another way."""
    if not re.fullmatch(rf"[!-~]{{1,{MAX_URL}}}", url):
        raise _refused(
            f"must have 1 to {MAX_URL} printable ASCII characters; "
            "write a host name in its xn-- form and the rest percent-encoded"
        )
    parts = URL.fullmatch(url)
    if parts is None:
        raise _refused("must read https://host/path, without a fragment or backslashes")
    if "@" in parts["authority"]:
        raise _refused("must not carry a user name or password; check the signature instead")
    scheme, path = parts["scheme"].lower(), parts["path"] or "/"
    host, port = _host_and_port(parts["authority"], _port(scheme))
    place = _Place(scheme, host, port, path if path.startswith("/") else "/" + path)
    if not place.is_usual and not (loopback and scheme in ("http", "https")):
        raise _refused("must use https on port 443")
    return place


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _host_and_port(authority: str, usual_port: int) -> tuple[str, int]:
    found = AUTHORITY.fullmatch(authority)
    host = (found[1] or found[2]).lower() if found else ""
    if found is None or not (_is_address(host) or NAME.fullmatch(host)):
        raise _refused("must name its host by a DNS name or by an address in the usual notation")
    port = int(found[3] or usual_port)
    if not 0 < port < 65536:
        raise _refused("must use https on port 443")
    return host, port


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _resolve(place: _Place, *, loopback: bool, limit_s: float) -> list[str]:
    """Return the addresses of a place, all of which may be called.

    Raises:
        Unresolved: there are none.
        InvalidParameter: one of them must not be called.
    """
    texts = _look_up(place.host, place.port, limit_s)
    if not texts:
        raise Unresolved(
            "the webhook's host name does not resolve; check its spelling, "
            "and that its DNS record is public",
            pointer="/webhook/url",
        )
    addresses = [ipaddress.ip_address(text) for text in texts]
    if loopback and all(address.is_loopback for address in addresses):
        return texts
    if not place.is_usual:
        raise _refused("must use https on port 443, or lead to this machine itself")
    if not all(_is_public(address) for address in addresses):
        raise _refused("must lead to public addresses only; this host has a private one")
    return texts


def _look_up(host: str, port: int, limit_s: float) -> list[str]:
    """Ask the resolver, which knows no time limit of its own."""
    answers: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def ask() -> None:
        found: list[str] = []
        with contextlib.suppress(OSError, UnicodeError):
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(row[4][0]) for row in rows))
        answers.put(found)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=limit_s)
    except queue.Empty:
        return []


def _is_public(address: Address) -> bool:
    """Whether an address, and the IPv4 address it may lead on to, is of the public internet."""
    if isinstance(address, ipaddress.IPv4Address):
        is_free = address not in OPERATORS and not address.is_multicast
        return is_free and address.is_global
    inner = address.ipv4_mapped
    if address in NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return _is_public(inner)
    # tunnels that are out of use: they lead to an IPv4 address of the sender's choice
    if address.sixtofour is not None or address.teredo is not None:
        return False
    # `is_global` alone takes ::127.0.0.1 and fec0::1
    return address in UNICAST and address.is_global


def deliver(
    url: str, secret: str, message_id: str, body: bytes, *, loopback: bool, timeout_s: float = 15.0
) -> Delivery:
    """Post a message once, to an address that was checked just now, and say what came of it.

    Follows no redirection, uses no proxy and takes at most `timeout_s` in all.
    """
    began = time.monotonic()
    deadline = began + timeout_s
    headers = {
        "User-Agent": "Lantern",
        "Content-Type": "application/json",
        "Connection": "close",
        **sign(secret, message_id, int(time.time()), body),
    }
    status, retry_after_s, error = None, None, ""
    try:
        place = _parse(url, loopback=loopback)
        addresses = _resolve(place, loopback=loopback, limit_s=min(RESOLVE_S, timeout_s))
        with _connection(place, addresses, deadline) as connected:
            status, retry_after_s = _post(connected, place, body, headers, deadline)
    except (InvalidParameter, OSError, http.client.HTTPException) as failure:
        error = _kind(failure, late=time.monotonic() >= deadline)
    return Delivery(status, error, time.monotonic() - began, retry_after_s)


@contextlib.contextmanager
def _connection(place: _Place, addresses: list[str], deadline: float) -> Iterator[socket.socket]:
    """Connect to one of these addresses; at the deadline the line is cut from this side."""
    connected = _connect(addresses[:MAX_ADDRESSES], place.port, deadline)
    connected.settimeout(_left(deadline))
    if place.scheme == "https":
        context = ssl.create_default_context()
        connected = context.wrap_socket(connected, server_hostname=place.host)

    def cut() -> None:
        # past the socket's own TLS part, which another thread is reading from
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    # A socket's time limit begins anew with each byte that a slow receiver lets drip.
    timer = threading.Timer(_left(deadline), cut)
    timer.daemon = True
    timer.start()
    try:
        yield connected
    finally:
        timer.cancel()
        connected.close()


def _connect(addresses: list[str], port: int, deadline: float) -> socket.socket:
    failed = OSError("no address")
    share_s = _left(deadline) / len(addresses)
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=share_s)
        except OSError as error:
            failed = error
    raise failed


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _post(
    connected: socket.socket,
    place: _Place,
    body: bytes,
    headers: Mapping[str, str],
    deadline: float,
) -> tuple[int, float | None]:
    """Return the status of the answer and the wait it asks for."""
    with contextlib.closing(http.client.HTTPConnection(place.host, place.port)) as connection:
        connection.sock = connected
        connection.request("POST", place.path, body, {"Host": place.header, **headers})
        with connection.getresponse() as response:
            if time.monotonic() >= deadline:
                raise TimeoutError  # headers that were cut off read like headers that ended
            # the status says it all; the body is begun only so that the receiver may finish it
            with contextlib.suppress(OSError, http.client.HTTPException):
                response.read1(MAX_ANSWER_BYTES)
            return response.status, _retry_after_s(response.headers.get("Retry-After", ""))


def _retry_after_s(text: str) -> float | None:
    """Read a `Retry-After` header: seconds or a date; None where it is neither."""
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    known = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, known.timestamp() - time.time())


def _kind(failure: Exception, *, late: bool) -> str:
    if isinstance(failure, InvalidParameter):
        return "unresolved" if isinstance(failure, Unresolved) else "refused target"
    if late or isinstance(failure, TimeoutError):
        return "timeout"
    if isinstance(failure, ssl.SSLError):
        return "tls"
    return "connection" if isinstance(failure, OSError) else "protocol"


def wait_after(attempt: int, delivery: Delivery) -> float | None:
    """Return the seconds from a failed attempt to the next; None where there is none.

    The first attempt is 1. At most a tenth is added by chance, so that messages which failed
    together do not come back together.
    """
    assert attempt >= 1
    if delivery.succeeded or delivery.gone or attempt > len(WAITS_S):
        return None
    asked_s = min(delivery.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
    return max(WAITS_S[attempt - 1], asked_s) * secrets.SystemRandom().uniform(1.0, 1.1)
