"""Alerts: validated rules, signed webhooks, retries, and one alert per rule and image."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backend.domain import ImageSize
from backend.endpoint import alerts as alerts_module
from backend.endpoint.alert_rules import (
    EXAMPLE_RULES,
    AlertRule,
    AlertRulesFile,
    read_alert_rules,
)
from backend.endpoint.alerts import AlertSender, sign_webhook
from backend.errors import StoreError, UsageError
from backend.inference.predict_image import ImagePrediction
from tests.support.endpoint_client import EndpointClient, open_endpoint
from tests.support.harness import make_png

SECRET = "greenhouse secret"
GOOD = "[[alert]]\nfunction='1'\nlabel='a'\nsecret='s'\n"


class Hook(BaseHTTPRequestHandler):
    """Receives webhooks; answers with the statuses in ``failures`` first."""

    got: ClassVar[list[tuple[dict[str, str], bytes]]] = []
    failures: ClassVar[list[int]] = []
    seconds: ClassVar[float] = 30.0

    def do_POST(self) -> None:
        if self.path != "/hook":
            self.stall()
            return
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.failures.pop() if self.failures else 204
        self.got.append((dict(self.headers), body))
        self.send_response(status)
        self.end_headers()

    def stall(self) -> None:
        """Never finish the response: stay silent, or send a header now and then."""
        if self.path == "/drips":
            self.send_response(200)
            self.flush_headers()
        for _ in range(int(self.seconds / 0.05)):
            time.sleep(0.05)
            try:
                if self.path == "/drips":
                    self.wfile.write(b"x-more: of it\r\n")
            except OSError:
                return

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


def retry_quickly(call: EndpointClient) -> None:
    call.app.state.parts.post_response._alerts._retry_delays = (0.05, 0.05, 0.05)


def test_an_alert_is_signed_and_sent_once_per_image(home: Path, hook: str) -> None:
    rule_file(home, hook, name="ripe")
    with open_endpoint(home) as call:
        answer = call.invoke("1", make_png("red", 1), externalId="bed-7").json()
        call.invoke("1", make_png("red", 2), externalId="bed-7")
        call.invoke("1", make_png("blue", 3), externalId="bed-8")
        call.wait_for_post_response()
        call.wait(lambda: Hook.got)
    with open_endpoint(home) as call:  # still once after a restart
        call.invoke("1", make_png("red", 1), externalId="bed-7")
        call.wait_for_post_response()
    ((headers, body),) = Hook.got
    payload = json.loads(body)
    assert payload["type"] == "prelabel.alert"
    assert payload["data"] == {
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


def test_a_failed_webhook_is_retried_with_the_same_id(home: Path, hook: str) -> None:
    rule_file(home, hook)
    Hook.failures[:] = [500, 503]
    with open_endpoint(home) as call:
        retry_quickly(call)
        call.invoke("1", make_png("red", 1))
        call.wait(lambda: len(Hook.got) == 3)
        call.wait(lambda: not list((home / "alerts" / "pending").glob("*")))
        text = call("GET", "/metrics").text
    assert len({headers["webhook-id"] for headers, _ in Hook.got}) == 1
    assert 'prelabel_alerts_total{outcome="retry",rule="red"} 2.0' in text
    assert 'prelabel_alerts_total{outcome="sent",rule="red"} 1.0' in text


def test_undelivered_alerts_are_sent_after_a_restart(home: Path, hook: str) -> None:
    rule_file(home, "http://127.0.0.1:9/nobody")
    with open_endpoint(home) as call:
        call.app.state.parts.post_response._alerts._retry_delays = (0.0,) * 100
        call.invoke("1", make_png("red", 1))
        call.wait_for_post_response()
        assert list((home / "alerts" / "pending").glob("*.json"))
    rule_file(home, hook)
    with open_endpoint(home) as call:
        call.wait(lambda: Hook.got)
        call.wait(lambda: not list((home / "alerts" / "pending").glob("*")))
    assert len(Hook.got) == 1


def count_alerts(folder: Path, rules: list[AlertRule], external: str) -> int:
    """Return how many alerts a prediction creates in a new process."""
    alerts = AlertSender(rules, folder)
    prediction = ImagePrediction(ImageSize(1, 1), label_probabilities={"colour": {"red": 0.99}})
    return alerts.create_alerts("1", "v1", "r1", external, prediction)


def test_a_crash_between_an_alert_and_its_mark_loses_and_repeats_nothing(tmp_path: Path) -> None:
    rules = [AlertRule("red", "1", "red", "http://127.0.0.1:9/x", secret="s")]
    (tmp_path / "pending").write_text("in the way")
    with pytest.raises(StoreError):
        count_alerts(tmp_path, rules, "bed-7")  # neither stored nor marked
    (tmp_path / "pending").unlink()
    assert count_alerts(tmp_path, rules, "bed-7") == 1
    (tmp_path / "told.txt").unlink()  # as after a crash before this was written
    assert count_alerts(tmp_path, rules, "bed-7") == 0
    assert count_alerts(tmp_path, rules, "bed-8") == 1


def test_an_alert_that_cannot_be_sent_or_read_delays_no_other(home: Path, hook: str) -> None:
    rows = [f"[[alert]]\nfunction='1'\nlabel='red'\nsecret='s'\nname='{n}'\n" for n in "abc"]
    urls = ["http://127.0.0.1:9/nobody", "http://127.0.0.1:9/x", hook]
    text = "".join(f"{row}url='{url}'\n" for row, url in zip(rows, urls, strict=True))
    (home / "alerts.toml").write_text(text)
    pending = home / "alerts" / "pending"
    pending.mkdir(parents=True)
    (pending / "msg_0.json").write_text("{")
    (pending / "msg_1.json").write_text('{"id": 3}')
    with open_endpoint(home) as call:
        alerts = call.app.state.parts.post_response._alerts
        alerts._rules["b"] = replace(
            alerts._rules["b"], secret="whsec_abc"
        )  # rejected when a rule is read
        call.invoke("1", make_png("red", 1))
        call.wait(lambda: Hook.got)
    assert json.loads(Hook.got[0][1])["data"]["rule"] == "c"


def test_rules_for_unknown_functions_are_logged_once(
    home: Path, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    row = f"[[alert]]\nlabel='red'\nsecret='s'\nurl='{hook}'\n"
    rows = [f"{row}name='{name}'\nfunction='{name}'\n" for name in ("1", "4", "roses", "9")]
    (home / "alerts.toml").write_text("".join(rows))
    (card,) = (home / "projects" / "4" / "versions").glob("*/card.json")
    card.write_text("{")  # exists, but cannot be loaded
    with open_endpoint(home):
        pass
    messages = [text for text in caplog.messages if "do not exist" in text]
    assert messages == [
        "Alert rules refer to functions that do not exist: 'roses' (rule 'roses'), '9' (rule '9'). "
        "Functions: 1, 2, 3, 4, 5."
    ]


@pytest.mark.parametrize("slow", ["silent", "drips"])
def test_a_slow_receiver_delays_no_alert_of_other_rules(home: Path, hook: str, slow: str) -> None:
    def has_received(times: int) -> bool:
        return len(Hook.got) == times

    row = "[[alert]]\nfunction='1'\nlabel='red'\nsecret='s'\n"
    urls = {"quick": hook, "slow": hook.replace("/hook", f"/{slow}")}
    rows = [f"{row}name='{name}'\nurl='{url}'\n" for name, url in urls.items()]
    (home / "alerts.toml").write_text("".join(rows))
    with open_endpoint(home) as call:
        for number in range(10):  # more than CONCURRENT_POSTS
            call.invoke("1", make_png("red", number), externalId=f"bed-{number}")
            began = time.monotonic()
            call.wait(partial(has_received, number + 1), 12)
            assert time.monotonic() - began < 5
        call.wait(lambda: len(list((home / "alerts" / "pending").glob("*.json"))) == 10)
    assert len(Hook.got) == 10, "each is sent once"
    pending = [json.loads(f.read_text()) for f in (home / "alerts" / "pending").glob("*.json")]
    assert {(alert["rule"], alert["tries"]) for alert in pending} == {("slow", 0)}


def test_a_dripping_response_is_cut_off_by_the_time_limit(
    home: Path, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_module, "POST_TIMEOUT_SECONDS", 0.4)
    rule_file(home, hook.replace("/hook", "/drips"))
    with open_endpoint(home) as call:
        call.invoke("1", make_png("red", 1))
        pending = home / "alerts" / "pending"
        (file,) = call.wait(lambda: list(pending.glob("msg_*.json")))
        call.wait(lambda: json.loads(file.read_text())["tries"] == 1, 5)


def test_undelivered_alerts_are_read_from_disk_once(home: Path, hook: str) -> None:
    rule_file(home, hook)
    Hook.failures[:] = [500]
    with open_endpoint(home) as call:
        call.app.state.parts.post_response._alerts._retry_delays = (0.3,)
        call.invoke("1", make_png("red", 1))
        call.wait(lambda: Hook.got)
        (file,) = call.wait(lambda: list((home / "alerts" / "pending").glob("*.json")))
        file.write_text("{")
        call.wait(lambda: len(Hook.got) == 2)


def test_the_list_of_marks_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "HISTORY_SIZE", 3)
    rules = [AlertRule("red", "1", "red", "http://127.0.0.1:9/x", secret="s")]
    prediction = ImagePrediction(ImageSize(1, 1), label_probabilities={"colour": {"red": 0.99}})
    alerts = AlertSender(rules, tmp_path)
    for number in range(30):
        assert alerts.create_alerts("1", "v1", f"r{number}", "", prediction) == 1
    assert len((tmp_path / "told.txt").read_text().split()) <= 6
    assert alerts.create_alerts("1", "v1", "r29", "", prediction) == 0
    for file in (tmp_path / "pending").glob("*"):
        file.unlink()
    (tmp_path / "told.txt").write_text("x\n" * 40)
    AlertSender(rules, tmp_path)
    assert len((tmp_path / "told.txt").read_text().split()) == 3


def test_a_rule_may_require_a_number_of_objects(home: Path, hook: str) -> None:
    from tests.support.drawings import make_drawing
    from tests.support.image_files import encode_image

    rule_file(home, hook, function="3", label="disc", confidence=0.03, count=2)
    with open_endpoint(home) as call:
        for number in range(900, 906):
            call.invoke("3", encode_image(make_drawing(number, labels=("disc",)).image))
        call.wait_for_post_response()
        call.wait(lambda: Hook.got)
    assert all(json.loads(body)["data"]["count"] >= 2 for _, body in Hook.got)


def test_the_signature_follows_standard_webhooks() -> None:
    """The example of the specification, standardwebhooks.com."""
    headers = sign_webhook(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        1614265330,
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_example_rule_is_valid(tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text(EXAMPLE_RULES)
    (rule,) = read_alert_rules(tmp_path / "alerts.toml", {"GREENHOUSE_SECRET": "x"})
    url = "https://example.com/hooks/greenhouse"
    assert rule == AlertRule("wilting", "3", "wilting", url, 0.8, 1, "x")
    assert read_alert_rules(tmp_path / "none.toml") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[alert]", "TOML"),
        ("[alert]\nx = 1", "may only contain tables"),
        ("[other]\nx = 1", "may only contain tables"),
        ("[[alert]]\nlabel = 'a'\nurl = 'https://x'", "'function' is missing"),
        (
            "[[alert]]\nfunction='1'\nlabel='a'\nurl='https://x'\nlabels=1",
            "'labels' is not one of function, label, url",
        ),
        ("[[alert]]\nfunction='1'\nlabel='a'\nurl='https://x'", "secret_env"),
        (
            "[[alert]]\nfunction='1'\nlabel='a'\nurl='https://x'\nsecret_env='NO'",
            "variable NO is not set",
        ),
        ("[[alert]]\nfunction='1'\nlabel='a'\nurl='ftp://x'\nsecret='s'", "http or https"),
        (
            "[[alert]]\nfunction='1'\nlabel='a'\nurl='https://x'\nsecret='s'\nconfidence=80",
            "confidence: Input should be less than or equal to 1, not 80",
        ),
        (f"{GOOD}url='http://[x'", "http or https"),
        (f"{GOOD}url='https://h:abc/'", "http or https"),
        (f"{GOOD}url='https://h:99999/'", "http or https"),
        (f"{GOOD}url='https://h/ x'", "http or https"),
        (f"{GOOD}url=7", "url: Input should be a valid string, not 7"),
        (f"{GOOD}url='https://h/'\ncount=2.7", "count: Input should be a valid integer, not 2.7"),
        (f"{GOOD}url='https://h/'\ncount=true", "count: Input should be a valid integer, not True"),
        (
            f"{GOOD}url='https://h/'\ncount=0",
            "count: Input should be greater than or equal to 1, not 0",
        ),
        (f"{GOOD}url='https://h/'\nname=''", "name: String should match pattern"),
        (
            "[[alert]]\nfunction=['1']\nlabel='a'\nsecret='s'\nurl='https://h/'",
            "function: Input should be a valid string",
        ),
        (
            "[[alert]]\nfunction='1'\nlabel='a'\nsecret=true\nurl='https://h/'",
            "secret: Input should be a valid string",
        ),
        ("[[alert]]\nfunction='1'\nlabel='a'\nsecret='whsec_abc'\nurl='https://h/'", "base64"),
        ("[[alert]]\nfunction='1'\nlabel='a'\nsecret='whsec_YWJj'\nurl='https://h/'", "24 to 64"),
        (
            "[[alert]]\nfunction='1'\nlabel='a'\nurl='https://x'\nsecret='s'\n" * 2,
            "several alerts named 'a'",
        ),
    ],
)
def test_an_invalid_rule_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "alerts.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_alert_rules(tmp_path / "alerts.toml", {})


def test_changed_rules_are_loaded_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "prelabel")
    file = tmp_path / "alerts.toml"
    rules_file = AlertRulesFile(file)
    rules = rules_file.rules
    alerts = AlertSender(rules, tmp_path, reload_rules=rules_file.reload)

    def create(request: str) -> int:
        prediction = ImagePrediction(ImageSize(1, 1), label_probabilities={"colour": {"a": 0.99}})
        return alerts.create_alerts("1", "v1", request, "", prediction)

    assert (create("r1"), caplog.text) == (0, "")
    file.write_text(GOOD + "url='http://127.0.0.1:9/x'\n")
    assert create("r2") == 1
    assert f"Alert rules loaded from {file}: a (function 1)" in caplog.text
    file.write_text(GOOD + "url='http://127.0.0.1:9/x'\n[[alert]]\nfunction='1'\n")
    assert (create("r3"), len(rules)) == (1, 1)
    assert "The alert rules stay as they were" in caplog.text
    assert "alert 2: 'label' is missing" in caplog.text
    file.unlink()
    assert create("r4") == 0
    assert f"Alert rules loaded from {file}: none" in caplog.text
    assert caplog.text.count("loaded from") == 2
