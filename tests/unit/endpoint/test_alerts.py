"""Alerts: rules that are checked, posts that are signed, retried, and sent once per picture."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backend.errors import UsageError
from serverless.endpoint.alerts import sign
from serverless.endpoint.rules import EXAMPLE, Rule, read_rules
from tests.harness import png
from tests.unit.endpoint.conftest import Caller, calling
from tests.unit.endpoint.test_capturing import finish

SECRET = "greenhouse secret"


class Hook(BaseHTTPRequestHandler):
    """Takes posts; fails as often as it is told to."""

    got: ClassVar[list[tuple[dict[str, str], bytes]]] = []
    failures: ClassVar[list[int]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.failures.pop() if self.failures else 204
        self.got.append((dict(self.headers), body))
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.got.clear()
    Hook.failures.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    server.server_close()


def rule_file(home: Path, hook: str, **more: Any) -> None:
    row = {"function": "1", "label": "red", "confidence": 0.8, "url": hook, "secret": SECRET}
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**row, **more}.items()]
    (home / "alerts.toml").write_text("[[alert]]\n" + "\n".join(lines))


def quickly(call: Caller) -> None:
    call.app.state.parts.desk._alerts._pauses = (0.05, 0.05, 0.05)


def test_an_alert_is_posted_signed_and_once_per_picture(home: Path, hook: str) -> None:
    rule_file(home, hook, name="ripe")
    with calling(home) as call:
        answer = call.invoke("1", png("red", 1), externalId="bed-7").json()
        call.invoke("1", png("red", 2), externalId="bed-7")
        call.invoke("1", png("blue", 3), externalId="bed-8")
        finish(call)
        call.wait(lambda: Hook.got)
    with calling(home) as call:  # after a restart still once
        call.invoke("1", png("red", 1), externalId="bed-7")
        finish(call)
    ((headers, body),) = Hook.got
    told = json.loads(body)
    assert told["type"] == "prelabel.alert"
    assert told["data"] == {
        "rule": "ripe",
        "function": "1",
        "version": answer["version"],
        "label": "red",
        "confidence": answer["confidence"],
        "count": 1,
        "externalId": "bed-7",
        "requestId": answer["requestId"],
    }
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()


def test_a_post_that_failed_is_tried_again_as_the_same_post(home: Path, hook: str) -> None:
    rule_file(home, hook)
    Hook.failures[:] = [500, 503]
    with calling(home) as call:
        quickly(call)
        call.invoke("1", png("red", 1))
        call.wait(lambda: len(Hook.got) == 3)
        call.wait(lambda: not list((home / "alerts" / "pending").glob("*")))
        text = call("GET", "/metrics").text
    assert len({headers["webhook-id"] for headers, _ in Hook.got}) == 1
    assert 'prelabel_alerts_total{outcome="retry",rule="red"} 2.0' in text
    assert 'prelabel_alerts_total{outcome="sent",rule="red"} 1.0' in text


def test_what_is_not_delivered_goes_on_after_a_restart(home: Path, hook: str) -> None:
    rule_file(home, "http://127.0.0.1:9/nobody")
    with calling(home) as call:
        call.app.state.parts.desk._alerts._pauses = (0.0,) * 100
        call.invoke("1", png("red", 1))
        finish(call)
        assert list((home / "alerts" / "pending").glob("*.json"))
    rule_file(home, hook)
    with calling(home) as call:
        call.wait(lambda: Hook.got)
        call.wait(lambda: not list((home / "alerts" / "pending").glob("*")))
    assert len(Hook.got) == 1


def test_counts_can_be_waited_for(home: Path, hook: str) -> None:
    from tests.drawn import drawing
    from tests.unit.test_images import file_of

    rule_file(home, hook, function="3", label="disc", confidence=0.03, count=2)
    with calling(home) as call:
        for number in range(900, 906):
            call.invoke("3", file_of(drawing(number, labels=("disc",)).image))
        finish(call)
        call.wait(lambda: Hook.got)
    assert all(json.loads(body)["data"]["count"] >= 2 for _, body in Hook.got)


def test_the_signature_is_that_of_the_standard() -> None:
    """The example of the specification, standardwebhooks.com."""
    headers = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        1614265330,
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_example_of_a_rule_is_one(tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text(EXAMPLE)
    (rule,) = read_rules(tmp_path / "alerts.toml", {"GREENHOUSE_SECRET": "x"})
    url = "https://example.com/hooks/greenhouse"
    assert rule == Rule("wilting", "3", "wilting", url, 0.8, 1, "x")
    assert read_rules(tmp_path / "none.toml") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[alert]", "TOML"),
        ("[alert]\nx = 1", "may hold tables"),
        ("[other]\nx = 1", "may hold tables"),
        ("[[alert]]\nlabel = 'a'\nurl = 'https://x'", "needs 'function'"),
        ("[[alert]]\nfunction='1'\nlabel='a'\nurl='https://x'\nlabels=1", "'labels'"),
        ("[[alert]]\nfunction='1'\nlabel='a'\nurl='https://x'", "secret_env"),
        ("[[alert]]\nfunction='1'\nlabel='a'\nurl='https://x'\nsecret_env='NO'", "has no NO"),
        ("[[alert]]\nfunction='1'\nlabel='a'\nurl='ftp://x'\nsecret='s'", "http or https"),
        (
            "[[alert]]\nfunction='1'\nlabel='a'\nurl='https://x'\nsecret='s'\nconfidence=80",
            "from 0 to 1",
        ),
        (
            "[[alert]]\nfunction='1'\nlabel='a'\nurl='https://x'\nsecret='s'\n" * 2,
            "several alerts named 'a'",
        ),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_at_load(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "alerts.toml").write_text(text)
    with pytest.raises(UsageError, match=says):
        read_rules(tmp_path / "alerts.toml", {})
