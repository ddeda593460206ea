"""Signed posts to whoever wants to know: with retries, and once per picture.

The signature is that of Standard Webhooks (standardwebhooks.com, version 1.0): any of its
libraries checks it. What is not delivered yet is on disk and goes on after a restart.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.store.files import append_line, read_json, write_json
from serverless.endpoint.rules import Rule

if TYPE_CHECKING:
    import httpx

    from backend.loop.invoking import Said

log = logging.getLogger("prelabel")
PAUSES = (5.0, 30.0, 120.0, 600.0, 3600.0, 6 * 3600.0, 12 * 3600.0)
"""Seconds until each next try; after the last the alert is given up."""
SECONDS = 15.0
REMEMBERED = 100_000


@dataclass(frozen=True)
class Alert:
    """A post on its way.

    Attributes:
        id: ``msg_…``, the same at each try.
        rule: name of its rule.
        data: what is told.
        at: when it happened, UTC, ISO 8601.
        tries: how often it was tried.
        next: when it is tried again, seconds since 1970.
    """

    id: str
    rule: str
    data: dict[str, Any]
    at: str
    tries: int = 0
    next: float = 0.0


class Alerts:
    """Sends alerts.

    Args:
        rules: when and where to.
        folder: of what is on its way, and of what was sent.
        http: sends; made when not given.
        told: told (rule, outcome) of each: ``sent``, ``retry`` or ``given up``.
        pauses: seconds between tries.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        folder: Path,
        http: httpx.AsyncClient | None = None,
        told: Callable[[str, str], None] = lambda rule, outcome: None,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        import httpx

        self._rules = {rule.name: rule for rule in rules}
        self._pending = folder / "pending"
        self._log = folder / "told.txt"
        self._http = http or httpx.AsyncClient(timeout=SECONDS, trust_env=False)
        self._told = told
        self._pauses = pauses
        self._known = self._read_known()
        self._awake = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Go on with what is on its way."""
        self._sending = asyncio.create_task(self._send_all())

    async def stop(self) -> None:
        """Stop; what is not delivered stays on disk."""
        if self._sending is not None:
            self._sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sending
        await self._http.aclose()

    def consider(self, function: str, version: str, request: str, external: str, said: Said) -> int:
        """Note the alerts of one answer; for one thread at a time.

        Args:
            function: that answered.
            version: of it.
            request: the request's id.
            external: the caller's name for the picture: told of once per rule; may be empty.
            said: the answer.

        Returns:
            how many.

        Raises:
            StoreError: they cannot be written.
        """
        made = 0
        for rule in self._rules.values():
            beliefs = _beliefs(said, rule.label) if rule.function == function else []
            sure = sorted((p for p in beliefs if p >= rule.confidence), reverse=True)
            name = f"{rule.name} {function} {external or request}"
            mark = hashlib.sha256(name.encode()).hexdigest()[:32]
            if len(sure) < rule.count or mark in self._known:
                continue
            self._remember(mark)
            data = {
                "function": function,
                "version": version,
                "label": rule.label,
                "confidence": round(sure[0], 4),
                "count": len(sure),
                "externalId": external or None,
                "requestId": request,
            }
            self._write(Alert(f"msg_{secrets.token_hex(12)}", rule.name, data, _now()))
            made += 1
        return made

    def wake(self) -> None:
        """Send what was noted; on the event loop."""
        self._awake.set()

    async def _send_all(self) -> None:
        while True:
            self._awake.clear()
            now = time.time()
            await asyncio.gather(*(self._send(a) for a in self._read_pending() if a.next <= now))
            pauses = [alert.next - time.time() for alert in self._read_pending()]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._awake.wait(), max(0.0, min(pauses, default=60.0)))

    async def _send(self, alert: Alert) -> None:
        import httpx

        rule = self._rules[alert.rule]
        told = {"rule": rule.name, **alert.data}
        body = json.dumps({"type": "prelabel.alert", "timestamp": alert.at, "data": told}).encode()
        headers = {"content-type": "application/json", **sign(rule.secret, alert.id, body)}
        try:
            response = await self._http.post(rule.url, content=body, headers=headers)
            problem = "" if response.is_success else f"status {response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = type(error).__name__
        if not problem:
            self._done(alert)
            self._told(rule.name, "sent")
        elif alert.tries >= len(self._pauses):
            self._done(alert)
            self._told(rule.name, "given up")
            log.error("alert %s is given up after %s tries: %s", rule.name, alert.tries, problem)
        else:
            pause = self._pauses[alert.tries]
            self._write(_later(alert, time.time() + pause))
            self._told(rule.name, "retry")
            log.warning("alert %s: %s; tried again in %.0f s", rule.name, problem, pause)

    def _write(self, alert: Alert) -> None:
        write_json(self._pending / f"{alert.id}.json", asdict(alert))

    def _done(self, alert: Alert) -> None:
        (self._pending / f"{alert.id}.json").unlink(missing_ok=True)

    def _read_pending(self) -> list[Alert]:
        """What is on its way; alerts of a rule that was removed wait until it comes back."""
        rows = (read_json(file) for file in sorted(self._pending.glob("*.json")))
        found = (Alert(**row) for row in rows if row)
        return [alert for alert in found if alert.rule in self._rules]

    def _read_known(self) -> dict[str, None]:
        """What was told of, oldest first, the last REMEMBERED of it."""
        if not self._log.exists():
            return {}
        lines = self._log.read_text(encoding="utf-8").split()
        return dict.fromkeys(lines[-REMEMBERED:])

    def _remember(self, mark: str) -> None:
        append_line(self._log, mark)
        self._known[mark] = None
        while len(self._known) > REMEMBERED:
            self._known.pop(next(iter(self._known)))


def sign(secret: str, id: str, body: bytes, at: int | None = None) -> dict[str, str]:
    """The headers of a signed post.

    Args:
        secret: ``whsec_`` and base64, or any text.
        id: of the post.
        body: of the post.
        at: seconds since 1970; now when not given.
    """
    when = str(int(time.time()) if at is None else at)
    content = f"{id}.{when}.".encode() + body
    mac = hmac.new(_key(secret), content, hashlib.sha256).digest()
    return {
        "webhook-id": id,
        "webhook-timestamp": when,
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }


def _key(secret: str) -> bytes:
    if secret.startswith("whsec_"):
        return base64.b64decode(secret.removeprefix("whsec_"))
    return secret.encode()


def _beliefs(said: Said, label: str) -> list[float]:
    """Confidence of each time that a label was given."""
    chosen = [ranked[label] for ranked in said.chosen.values() if label in ranked]
    found = [
        c
        for places, confidence in said.found.values()
        for place, c in zip(places, confidence, strict=True)
        if place.label == label
    ]
    return chosen + found


def _later(alert: Alert, when: float) -> Alert:
    return Alert(**{**asdict(alert), "tries": alert.tries + 1, "next": when})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
