"""Signed messages to other servers: what is signed, where they may go, what became of them."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from lantern.errors import InvalidParameter
from services import webhooks
from services.processes import free_ports
from services.webhooks import Delivery

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
BODY = b'{"type":"job.finished"}'
PUBLIC = "93.184.216.34"


class Incoming(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers["content-length"]))
        path = self.requestline.split()[1]  # `self.path` is tidied up
        self.server.seen.append((path, headers, body))
        self.server.answer(self)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def wait(self, head: bytes = b"") -> None:
        """Begin an answer and never go on."""
        self.wfile.write(head)
        self.server.over.wait(10)

    def drip(self, head: bytes) -> None:
        """Begin an answer and never end it, one byte after the other."""
        self.close_connection = True
        self.wfile.write(head)
        while not self.server.over.wait(0.02):
            self.wfile.write(b"x")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Receiver(ThreadingHTTPServer):
    """Somebody's server: `answer` is how it answers, `seen` what came in."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Incoming)
        self.answer: Callable[[Incoming], None] = lambda call: call.reply(204)
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.over = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def replies(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.answer = lambda call: call.reply(status, body, **headers)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: callers that hang up are what is tested."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


class Names:
    """A resolver: each name gives its lists of addresses in turn, the last one for good."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: int, *rest: Any, **options: Any) -> Any:
        if ":" in host or host[-1].isdigit():
            return self._real(host, port, *rest, **options)
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        turns = self.answers[host]
        addresses = turns.pop(0) if len(turns) > 1 else turns[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)) for text in addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    resolver = Names()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    return resolver


def send(url: str, *, timeout_s: float = 5.0, loopback: bool = True) -> Delivery:
    return webhooks.deliver(url, SECRET, "msg_1", BODY, loopback=loopback, timeout_s=timeout_s)


class TestSecrets:
    def test_a_new_secret_is_good_and_new(self) -> None:
        one, other = webhooks.new_secret(), webhooks.new_secret()
        assert one != other
        for secret in (one, other):
            webhooks.check_secret(secret)

    @pytest.mark.parametrize("size", [24, 25, 32, 64])
    def test_keys_of_24_to_64_bytes_are_good(self, size: int) -> None:
        webhooks.check_secret("whsec_" + base64.b64encode(bytes(size)).decode())

    @pytest.mark.parametrize(
        "secret",
        [
            "",
            "whsec_",
            "whsec_" + base64.b64encode(bytes(23)).decode(),
            "whsec_" + base64.b64encode(bytes(65)).decode(),
            base64.b64encode(bytes(32)).decode(),
            "WHSEC_" + base64.b64encode(bytes(32)).decode(),
            "whsec_whsec_" + base64.b64encode(bytes(32)).decode(),
            SECRET.rstrip("="),
            SECRET + "\n",
            SECRET.replace("A", "!", 1),
            "whsec_" + "é" * 40,
        ],
    )
    def test_other_secrets_are_refused_and_not_repeated(self, secret: str) -> None:
        with pytest.raises(InvalidParameter) as caught:
            webhooks.check_secret(secret)
        assert caught.value.pointer == "/webhook/secret"
        assert len(secret) < 7 or secret not in caught.value.detail


class TestSignature:
    def test_it_is_that_of_the_published_example(self) -> None:
        headers = webhooks.sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330, b'{"test": 2432232314}',
        )  # fmt: skip
        assert headers == {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        }

    @pytest.mark.parametrize("age_s", [-240, 0, 240])
    def test_the_reference_implementation_takes_it(self, age_s: int) -> None:
        secret = webhooks.new_secret()
        headers = webhooks.sign(secret, "msg_1", int(time.time()) - age_s, BODY)
        assert Webhook(secret).verify(BODY, headers) == json.loads(BODY)

    @pytest.mark.parametrize("age_s", [-360, 360])
    def test_the_reference_implementation_refuses_other_times(self, age_s: int) -> None:
        headers = webhooks.sign(SECRET, "msg_1", int(time.time()) - age_s, BODY)
        with pytest.raises(WebhookVerificationError, match="timestamp too"):
            Webhook(SECRET).verify(BODY, headers)

    def test_it_covers_all_that_is_sent(self) -> None:
        headers = webhooks.sign(SECRET, "msg_1", int(time.time()), BODY)
        other_time = str(int(headers["webhook-timestamp"]) + 1)
        for secret, body, changed in [
            (webhooks.new_secret(), BODY, headers),
            (SECRET, BODY + b" ", headers),
            (SECRET, BODY, {**headers, "webhook-id": "msg_2"}),
            (SECRET, BODY, {**headers, "webhook-timestamp": other_time}),
        ]:
            with pytest.raises(WebhookVerificationError, match="No matching signature"):
                Webhook(secret).verify(body, changed)

    def test_a_bad_secret_signs_nothing(self) -> None:
        with pytest.raises(InvalidParameter):
            webhooks.sign("whsec_short", "msg_1", 0, BODY)


class TestMessage:
    def test_it_says_what_happened_when_to_what(self) -> None:
        body = webhooks.message("job.succeeded", 1700000000.25, {"id": "job_1", "name": "é"})
        assert json.loads(body) == {
            "type": "job.succeeded",
            "timestamp": "2023-11-14T22:13:20.250000Z",
            "data": {"id": "job_1", "name": "é"},
        }

    def test_it_stays_thin(self) -> None:
        assert len(webhooks.message("job.succeeded", 0.0, {"x": "y" * 19_000})) < 20_000
        with pytest.raises(ValueError, match="the limit is 20000"):
            webhooks.message("job.succeeded", 0.0, {"x": "y" * 20_000})


NOT_PUBLIC = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.0.192", "192.0.2.1",
    "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250",
    "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%1", "fc00::1",
    "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1",
    # those that carry an IPv4 address: mapped, compatible, translated, NAT64, 6to4, Teredo
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:224.0.0.1",
    "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1", "2002:7f00:1::1", "2002:5db8:d822::1", "2002:a00:1::", "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe", "2001:0:4136:e378:8000:63bf:a247:28dd",
]  # fmt: skip

NOT_WRITTEN_SO = [
    "", " ", "hooks.example", "//hooks.example/", "https:hooks.example", "https:///hook", "https://",
    "http://hooks.example/", "HTTP://hooks.example/", "http://hooks.example:443/",
    "ftp://hooks.example/", "file:///etc/passwd", "gopher://hooks.example/", "redis://hooks.example/",
    "https://hooks.example:444/", "https://hooks.example:80/", "https://hooks.example:0/",
    "https://hooks.example:65979/", "https://hooks.example:/", "https://hooks.example:x/",
    "https://hooks.example:443:443/", "https://hooks.example:+443/",
    "https://user@hooks.example/", "https://user:pass@hooks.example/", "https://@hooks.example/",
    "https://hooks.example:443@evil.example/", "https://hooks.example#@evil.example/",
    "https://hooks.example\\@evil.example/", "https://hooks.example/\\evil", "https://a b.example/",
    "https://hooks.example/#part", "https://hooks.example/a b", "https://hooks.example/\r\nX: y",
    " https://hooks.example/", "https://hooks.example/\n", "https://hooks.example/\x00",
    "https://hooks.example/é", "https://hööks.example/", "https://hooks。example/",
    "https://hooks%2eexample/", "https://①②⑦.example/",
    "https://hooks..example/", "https://.hooks.example/", "https://hooks.example./",
    "https://-hooks.example/", "https://hooks.example-/", "https://*.example/",
    "https://" + "a" * 64 + ".example/", "https://" + "a." * 125 + "example/",
    "https://hooks.example/" + "a" * 2030,
    # numbers that a resolver takes for addresses
    "https://127.1/", "https://127.0.1/", "https://0/", "https://2130706433/", "https://0x7f000001/",
    "https://0x7f.1/", "https://0x7f.0x0.0x0.0x1/", "https://017700000001/", "https://0177.0.0.1/",
    "https://127.0.0.01/", "https://127.0.0.1./", "https://hooks.example.0x1/", "https://8.8/",
    "https://0x08080808/", "https://134744072/", "https://256.1.1.1/",
    "https://[127.0.0.1]/", "https://[::1/", "https://::1/", "https://[::1]x/", "https://[fe80::1%251]/",
    "https://[v1.x]/", "https://[]/", "https://[:]/", "https://[hooks.example]/",
]  # fmt: skip


def refusal(url: str, *, loopback: bool = False) -> str:
    with pytest.raises(InvalidParameter) as caught:
        webhooks.check_target(url, loopback=loopback)
    assert caught.value.pointer == "/webhook/url"
    assert caught.value.code == "invalid-parameter"
    assert "hooks.example" not in caught.value.detail
    return caught.value.detail


class TestTargets:
    @pytest.mark.parametrize(
        "url",
        [
            "https://hooks.example", "https://hooks.example/", "https://hooks.example:443/a?b=c&d",
            "https://hooks.example?b=@c", "HTTPS://HOOKS.example/", "https://a_b.xn--bcher-kva.example/",
            "https://93.184.216.34/", "https://[2606:2800:220:1::1]/", "https://[2606:2800:220:1::1]:443/x",
            "https://[::ffff:93.184.216.34]/", "https://[64:ff9b::5db8:d822]/",
            "https://hooks.example/" + "a" * 2026,
        ],
    )  # fmt: skip
    def test_public_ones_are_taken(self, names: Names, url: str) -> None:
        for name in ("hooks.example", "a_b.xn--bcher-kva.example"):
            names.answers[name] = [[PUBLIC, "2606:2800:220:1::1"]]
        webhooks.check_target(url, loopback=False)

    @pytest.mark.parametrize("address", NOT_PUBLIC)
    def test_addresses_of_inner_networks_are_refused(self, names: Names, address: str) -> None:
        names.answers["hooks.example"] = [[PUBLIC, address]]
        assert "public addresses" in refusal("https://hooks.example/")
        assert names.asked == ["hooks.example"]
        if "%" not in address:
            refusal(f"https://[{address}]/" if ":" in address else f"https://{address}/")

    @pytest.mark.parametrize("url", NOT_WRITTEN_SO)
    def test_what_is_not_a_plain_https_url_is_refused_unasked(self, names: Names, url: str) -> None:
        names.answers["hooks.example"] = [[PUBLIC]]
        refusal(url)
        assert names.asked == []

    @pytest.mark.parametrize("name", ["localhost", "redis", "metadata.google.internal"])
    def test_names_of_inner_machines_are_refused(self, names: Names, name: str) -> None:
        names.answers[name] = [["169.254.169.254"]]
        refusal(f"https://{name}/")

    def test_each_refusal_says_what_to_do(self, names: Names) -> None:
        names.answers["hooks.example"] = [["10.0.0.1"]]
        assert "https on port 443" in refusal("http://hooks.example/")
        assert "user name" in refusal("https://me@hooks.example/")
        assert "2048" in refusal("https://hooks.example/" + "a" * 2048)
        assert "usual notation" in refusal("https://127.1/")
        assert "public addresses" in refusal("https://hooks.example/")
        assert "does not resolve" in refusal("https://nowhere.example/")

    def test_a_resolver_that_does_not_answer_holds_nobody_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(10) and [])
        monkeypatch.setattr(webhooks, "RESOLVE_S", 0.05)
        try:
            assert "does not resolve" in refusal("https://hooks.example/")
            assert send("https://hooks.example/").error == "unresolved"
        finally:
            over.set()

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:8/x", "http://[::1]/", "http://inside.example", "https://[::1]:8443"]
    )  # fmt: skip
    def test_a_setting_allows_this_machine_itself(self, names: Names, url: str) -> None:
        names.answers["inside.example"] = [["127.0.0.1", "::1"]]
        refusal(url)
        webhooks.check_target(url, loopback=True)

    @pytest.mark.parametrize(
        "url",
        [
            f"http://{PUBLIC}/", f"https://{PUBLIC}:8443/", "http://hooks.example/", "https://10.0.0.1/",
            "http://10.0.0.1/", "http://169.254.169.254/", "http://0.0.0.0/", "http://127.1/",
            "http://me@127.0.0.1/", "ftp://127.0.0.1/", "http://both.example/", "https://both.example/",
            "http://127.0.0.1:70000/", "http://127.0.0.1:0/",
        ],
    )  # fmt: skip
    def test_the_setting_allows_nothing_else(self, names: Names, url: str) -> None:
        names.answers["hooks.example"] = [[PUBLIC]]
        names.answers["both.example"] = [["127.0.0.1", "10.0.0.1"]]
        refusal(url, loopback=True)

    def test_public_targets_stay_allowed_with_the_setting(self, names: Names) -> None:
        names.answers["hooks.example"] = [[PUBLIC]]
        webhooks.check_target("https://hooks.example/", loopback=True)


class TestDelivery:
    def test_the_message_arrives_whole_and_signed(self, receiver: Receiver) -> None:
        body = webhooks.message("job.succeeded", time.time(), {"id": "job_1"})
        delivery = webhooks.deliver(
            receiver.url + "?a=b%20c", SECRET, "msg_7", body, loopback=True, timeout_s=5.0
        )
        assert delivery == Delivery(204, "", delivery.seconds)
        assert delivery.succeeded
        assert 0 < delivery.seconds < 5
        ((path, headers, received),) = receiver.seen
        assert (path, received) == ("/hook?a=b%20c", body)
        assert headers["host"] == f"127.0.0.1:{receiver.port}"
        assert headers["content-type"] == "application/json"
        assert headers["webhook-id"] == "msg_7"
        assert Webhook(SECRET).verify(received, headers)["data"] == {"id": "job_1"}

    def test_a_url_without_a_path_has_one(self, receiver: Receiver) -> None:
        send(f"http://127.0.0.1:{receiver.port}")
        send(f"http://127.0.0.1:{receiver.port}?a")
        send(f"http://127.0.0.1:{receiver.port}//evil.example/")
        assert [path for path, *_ in receiver.seen] == ["/", "/?a", "//evil.example/"]

    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    def test_every_2xx_is_success(self, receiver: Receiver, status: int) -> None:
        receiver.replies(status, b"" if status == 204 else b"thanks")
        assert send(receiver.url).succeeded

    @pytest.mark.parametrize("status", [300, 304, 400, 404, 429, 500, 503])
    def test_other_answers_are_not(self, receiver: Receiver, status: int) -> None:
        receiver.replies(status, b"" if status == 304 else b"no")
        delivery = send(receiver.url)
        assert (delivery.status, delivery.error) == (status, "")
        assert not delivery.succeeded
        assert not delivery.gone

    def test_410_is_gone(self, receiver: Receiver) -> None:
        receiver.replies(410)
        assert send(receiver.url).gone

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirection_is_a_failure_and_is_not_followed(
        self, receiver: Receiver, status: int
    ) -> None:
        receiver.replies(status, location=f"http://127.0.0.1:{receiver.port}/other")
        delivery = send(receiver.url)
        assert (delivery.status, delivery.succeeded) == (status, False)
        assert [path for path, *_ in receiver.seen] == ["/hook"]

    def test_proxies_of_the_environment_are_not_used(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (closed,) = free_ports(1)
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert send(receiver.url).succeeded

    def test_a_huge_answer_is_not_read(self, receiver: Receiver) -> None:
        sent: list[int] = []

        def pour(call: Incoming) -> None:
            call.close_connection = True
            call.send_response(200)
            call.send_header("content-length", str(10**12))
            call.end_headers()
            while not receiver.over.is_set():
                sent.append(call.wfile.write(bytes(65536)))

        receiver.answer = pour
        assert send(receiver.url).succeeded
        assert sum(sent) < 64 * 2**20  # what the buffers of two sockets hold, and no more

    def test_a_receiver_that_does_not_answer_is_a_timeout(self, receiver: Receiver) -> None:
        receiver.answer = Incoming.wait
        delivery = send(receiver.url, timeout_s=0.2)
        assert (delivery.status, delivery.error) == (None, "timeout")
        assert 0.15 < delivery.seconds < 3

    @pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nx-slow: "])
    def test_an_answer_that_drips_is_a_timeout(self, receiver: Receiver, head: bytes) -> None:
        receiver.answer = lambda call: call.drip(head)
        delivery = send(receiver.url, timeout_s=0.2)
        assert (delivery.status, delivery.error) == (None, "timeout")
        assert delivery.seconds < 3

    def test_the_status_counts_whatever_becomes_of_the_rest(self, receiver: Receiver) -> None:
        receiver.answer = lambda call: call.wait(
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n"
        )
        delivery = send(receiver.url, timeout_s=0.2)
        assert delivery.succeeded
        assert delivery.seconds < 3

    def test_a_port_that_nobody_listens_on_is_a_connection_error(self) -> None:
        (closed,) = free_ports(1)
        delivery = send(f"http://127.0.0.1:{closed}/")
        assert (delivery.status, delivery.error) == (None, "connection")

    def test_a_receiver_that_hangs_up_is_a_connection_error(self, receiver: Receiver) -> None:
        def hang_up(call: Incoming) -> None:
            call.close_connection = True

        receiver.answer = hang_up
        assert send(receiver.url).error == "connection"

    @pytest.mark.parametrize(
        "answer",
        [b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200],
    )
    def test_what_is_not_http_is_a_protocol_error(self, receiver: Receiver, answer: bytes) -> None:
        def talk(call: Incoming) -> None:
            call.close_connection = True
            call.wfile.write(answer)

        receiver.answer = talk
        assert send(receiver.url).error == "protocol"

    def test_a_bad_secret_is_not_a_failed_delivery(self, receiver: Receiver) -> None:
        with pytest.raises(InvalidParameter):
            webhooks.deliver(receiver.url, "whsec_short", "msg_1", BODY, loopback=True)
        assert receiver.seen == []


class TestPinning:
    def test_a_name_is_asked_once_and_stays_in_the_host_header(
        self, receiver: Receiver, names: Names
    ) -> None:
        names.answers["hooks.example"] = [["127.0.0.1"], ["10.0.0.1"]]
        assert send(f"http://Hooks.example:{receiver.port}/hook").succeeded
        assert names.asked == ["hooks.example"]
        ((_, headers, _),) = receiver.seen
        assert headers["host"] == f"hooks.example:{receiver.port}"

    def test_a_name_that_turns_inward_after_its_check_is_refused(
        self, receiver: Receiver, names: Names
    ) -> None:
        names.answers["hooks.example"] = [[PUBLIC], ["127.0.0.1"]]
        webhooks.check_target("https://hooks.example/", loopback=False)
        delivery = send("https://hooks.example/", loopback=False)
        assert (delivery.status, delivery.error) == (None, "refused target")
        assert receiver.seen == []

    @pytest.mark.parametrize("url", ["http://127.0.0.1:{}/", "https://127.1/", "https://10.0.0.1/"])
    def test_what_was_never_checked_is_refused(self, receiver: Receiver, url: str) -> None:
        assert send(url.format(receiver.port), loopback=False).error == "refused target"
        assert receiver.seen == []

    def test_a_name_that_is_gone_is_unresolved(self, names: Names) -> None:
        assert send("https://nowhere.example/", loopback=False).error == "unresolved"

    def test_the_next_address_is_tried(self, receiver: Receiver, names: Names) -> None:
        names.answers["hooks.example"] = [["127.0.0.2", "127.0.0.1"]]
        assert send(f"http://hooks.example:{receiver.port}/").succeeded

    def test_only_checked_addresses_are_connected_to(
        self, names: Names, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        many = [f"93.184.216.{last}" for last in range(20)]
        names.answers["hooks.example"] = [many, ["10.0.0.1"]]
        called: list[Any] = []

        def refuse(address: Any, timeout: float) -> socket.socket:
            called.append(address)
            raise ConnectionRefusedError

        monkeypatch.setattr(socket, "create_connection", refuse)
        assert send("https://hooks.example/", loopback=False).error == "connection"
        assert called == [(address, 443) for address in many[:4]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the key and the certificate of hooks.example, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    command = [
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=hooks.example", "-keyout", "key.pem",
        "-out", "certificate.pem", "-addext", "subjectAltName=DNS:hooks.example",
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return both


class TestTls:
    @pytest.fixture
    def asked_for(self, receiver: Receiver, certificate: Path, names: Names) -> list[str | None]:
        """Let the receiver speak TLS; return the names it was asked for."""
        served: list[str | None] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.sni_callback = lambda _, name, __: served.append(name)
        receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
        names.answers["hooks.example"] = names.answers["other.example"] = [["127.0.0.1"]]
        return served

    @pytest.fixture
    def trusted(self, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    @pytest.mark.usefixtures("trusted")
    def test_the_certificate_is_that_of_the_name(
        self, receiver: Receiver, asked_for: list[str | None]
    ) -> None:
        delivery = send(f"https://hooks.example:{receiver.port}/hook")
        assert (delivery.status, delivery.error) == (204, "")
        assert asked_for == ["hooks.example"]
        ((_, headers, body),) = receiver.seen
        assert headers["host"] == f"hooks.example:{receiver.port}"
        assert Webhook(SECRET).verify(body, headers)

    @pytest.mark.usefixtures("trusted", "asked_for")
    def test_a_public_target_is_reached_at_the_address_that_was_checked(
        self, receiver: Receiver, names: Names, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names.answers["hooks.example"] = [[PUBLIC], ["10.0.0.1"]]
        called: list[Any] = []
        connect = socket.create_connection

        def instead(address: Any, timeout: float) -> socket.socket:
            called.append(address)
            return connect(("127.0.0.1", receiver.port), timeout)

        monkeypatch.setattr(socket, "create_connection", instead)
        assert send("https://hooks.example/hook", loopback=False).succeeded
        assert called == [(PUBLIC, 443)]
        assert receiver.seen[0][1]["host"] == "hooks.example"

    @pytest.mark.usefixtures("trusted")
    @pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
    def test_that_of_another_name_is_refused(
        self, receiver: Receiver, asked_for: list[str | None], host: str
    ) -> None:
        delivery = send(f"https://{host}:{receiver.port}/hook")
        assert (delivery.status, delivery.error) == (None, "tls")
        assert receiver.seen == []

    @pytest.mark.usefixtures("asked_for")
    def test_one_that_nobody_vouches_for_is_refused(self, receiver: Receiver) -> None:
        assert send(f"https://hooks.example:{receiver.port}/hook").error == "tls"
        assert receiver.seen == []

    @pytest.mark.usefixtures("trusted", "asked_for")
    def test_an_answer_that_drips_is_a_timeout(self, receiver: Receiver) -> None:
        receiver.answer = lambda call: call.drip(b"HTTP/1.1 200 OK\r\nx-slow: ")
        delivery = send(f"https://hooks.example:{receiver.port}/hook", timeout_s=0.5)
        assert (delivery.status, delivery.error) == (None, "timeout")
        assert delivery.seconds < 3

    def test_a_receiver_without_tls_is_a_tls_error(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def talk() -> None:
                caller, _ = server.accept()
                with caller:
                    caller.recv(65536)
                    caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            thread = threading.Thread(target=talk)
            thread.start()
            delivery = send(f"https://127.0.0.1:{server.getsockname()[1]}/")
            thread.join()
        assert (delivery.status, delivery.error) == (None, "tls")


def failed(status: int | None = 500, retry_after_s: float | None = None) -> Delivery:
    return Delivery(status, "" if status else "connection", 0.1, retry_after_s)


def waits(delivery: Delivery) -> list[float]:
    """Return all waits from the first failed attempt on."""
    each = (webhooks.wait_after(attempt, delivery) for attempt in itertools.count(1))
    return [wait for wait in itertools.takewhile(lambda wait: wait is not None, each) if wait]


class TestRetries:
    @pytest.mark.parametrize("status", [None, 302, 404, 429, 503])
    def test_the_waits_grow(self, status: int | None) -> None:
        for wait, least in zip(
            waits(failed(status)), [5, 300, 1800, 7200, 18000, 36000], strict=True
        ):
            assert least <= wait <= 1.1 * least

    def test_messages_that_failed_together_come_back_apart(self) -> None:
        assert len({webhooks.wait_after(2, failed()) for _ in range(20)}) > 10

    def test_a_receiver_that_is_gone_or_content_gets_no_more(self) -> None:
        assert waits(failed(410)) == []
        assert waits(failed(204)) == []

    def test_a_receiver_may_ask_for_a_longer_wait(self) -> None:
        first, second, third, *_ = waits(failed(429, 600.0))
        assert 600 <= first <= 660
        assert 600 <= second <= 660
        assert 1800 <= third <= 1980

    @pytest.mark.parametrize("asked_s", [None, 0.0, 3600.0, 1e9])
    def test_all_attempts_are_within_a_day(self, asked_s: float | None) -> None:
        assert sum(waits(failed(503, asked_s))) < 24 * 3600 - 7 * 15

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("120", 120.0), ("0", 0.0), ("soon", None), ("-5", None), ("1.5", None), ("", None),
            ("9" * 30, None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
            ("Wed, 21 Oct 2015 07:28:00 +" + "9" * 30, None),
            ("1 Jan " + "9" * 30 + " 00:00:00 GMT", None),
        ],
    )  # fmt: skip
    def test_retry_after_is_read(
        self, receiver: Receiver, text: str, seconds: float | None
    ) -> None:
        receiver.replies(503, retry_after=text)
        assert send(receiver.url).retry_after_s == seconds

    def test_retry_after_may_be_a_date(self, receiver: Receiver) -> None:
        later = datetime.now(UTC) + timedelta(seconds=100)
        receiver.replies(429, retry_after=format_datetime(later, usegmt=True))
        asked_s = send(receiver.url).retry_after_s
        assert asked_s is not None
        assert 90 < asked_s < 101
