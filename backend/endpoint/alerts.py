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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.endpoint.alert_rules import Rule, key_of
from backend.errors import StoreError
from backend.store.files import append_line, read_json, write_json, write_text

if TYPE_CHECKING:
    import httpx

    from backend.inference.predict_image import Said

log = logging.getLogger("prelabel")
PAUSES = (5.0, 30.0, 120.0, 600.0, 3600.0, 6 * 3600.0, 12 * 3600.0)
"""Seconds until each next try; after the last the alert is given up."""
SECONDS = 15.0
"""That a post may take from its first byte to the last of its answer."""
AT_ONCE = 4
"""Posts of one rule under way at the same time."""
LOOK_SECONDS = 0.02
"""Between two looks at what is due, however often somebody wakes it."""
REMEMBERED = 100_000
"""Pictures that were told of; the file of them is cut when it has twice as many."""


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
        mark: of rule and picture, so that it is told of once.
    """

    id: str
    rule: str
    data: dict[str, Any]
    at: str
    tries: int = 0
    next: float = 0.0
    mark: str = ""


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
        self._folder = folder / "pending"
        self._log = folder / "told.txt"
        # rules are limited, not the client: a slow one must not use up the connections of others
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._http = http or httpx.AsyncClient(timeout=SECONDS, limits=limits, trust_env=False)
        self._told = told
        self._pauses = pauses
        self._pending = self._read_pending()
        self._known = self._read_known()
        self._at_once = {rule.name: asyncio.Semaphore(AT_ONCE) for rule in rules}
        self._awake = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Go on with what is on its way."""
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Stop; what is not delivered stays on disk."""
        tasks = [*([self._looking] if self._looking else []), *self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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
            data = {
                "function": function,
                "version": version,
                "label": rule.label,
                "confidence": round(sure[0], 4),
                "count": len(sure),
                "externalId": external or None,
                "requestId": request,
            }
            alert = Alert(f"msg_{secrets.token_hex(12)}", rule.name, data, _now(), mark=mark)
            self._write(alert)
            self._remember(
                mark
            )  # after it: a crash in between costs no alert, and its mark is there
            made += 1
        return made

    def wake(self) -> None:
        """Send what was noted; on the event loop."""
        self._awake.set()

    async def _look(self) -> None:
        """Begin to send what is due; waits for none of it."""
        while True:
            self._awake.clear()
            now = time.time()
            waiting = self._waiting()
            for alert in waiting:
                if alert.next <= now:
                    self._under_way[alert.id] = asyncio.create_task(self._send(alert))
            pauses = [alert.next - now for alert in waiting if alert.next > now]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._awake.wait(), min([*pauses, SECONDS]))
            await asyncio.sleep(LOOK_SECONDS)

    def _waiting(self) -> list[Alert]:
        """What is to be sent, and is not being sent now; alerts of a rule that was removed wait
        until it comes back."""
        pending = list(self._pending.values())
        return [a for a in pending if a.rule in self._rules and a.id not in self._under_way]

    async def _send(self, alert: Alert) -> None:
        """Try to send one; whatever becomes of it costs no other alert."""
        try:
            await self._tried(alert)
        finally:
            del self._under_way[alert.id]
            if alert.id in self._pending:
                self._awake.set()  # for its next try

    async def _tried(self, alert: Alert) -> None:
        rule = self._rules[alert.rule]
        try:
            async with self._at_once[alert.rule], asyncio.timeout(SECONDS):
                problem = await self._post(rule, alert)
        except Exception as error:
            problem = type(error).__name__
        try:
            await self._noted(alert, problem)
        except (StoreError, OSError) as error:
            log.error("alert %s: %s", rule.name, error)

    async def _post(self, rule: Rule, alert: Alert) -> str:
        """What went wrong; empty when it was taken."""
        told = {"rule": rule.name, **alert.data}
        body = json.dumps({"type": "prelabel.alert", "timestamp": alert.at, "data": told}).encode()
        headers = {"content-type": "application/json", **sign(rule.secret, alert.id, body)}
        response = await self._http.post(rule.url, content=body, headers=headers)
        return "" if response.is_success else f"status {response.status_code}"

    async def _noted(self, alert: Alert, problem: str) -> None:
        """Remember what became of a try: in memory first, so that a full disk sends nothing twice.

        Raises:
            StoreError: it cannot be written.
        """
        if problem and alert.tries < len(self._pauses):
            pause = self._pauses[alert.tries]
            later = replace(alert, tries=alert.tries + 1, next=time.time() + pause)
            self._pending[alert.id] = later
            self._told(alert.rule, "retry")
            log.warning("alert %s: %s; tried again in %.0f s", alert.rule, problem, pause)
            await asyncio.to_thread(self._write, later)
            return
        self._pending.pop(alert.id, None)
        self._told(alert.rule, "given up" if problem else "sent")
        if problem:
            log.error("alert %s is given up after %s tries: %s", alert.rule, alert.tries, problem)
        await asyncio.to_thread(self._file(alert.id).unlink, missing_ok=True)

    def _write(self, alert: Alert) -> None:
        write_json(self._file(alert.id), asdict(alert))
        self._pending[alert.id] = alert

    def _file(self, id: str) -> Path:
        return self._folder / f"{id}.json"

    def _read_pending(self) -> dict[str, Alert]:
        """What was on its way when the last process ended; read once, then kept in memory."""
        found = {}
        for file in sorted(self._folder.glob("*.json")):
            try:
                row = read_json(file)
                alert = Alert(**row)
                found[alert.id] = replace(alert, next=float(alert.next), tries=int(alert.tries))
            except (StoreError, TypeError, ValueError) as error:
                log.error("an alert cannot be read, and is left out: %s: %s", file, error)
        return found

    def _read_known(self) -> dict[str, None]:
        """What was told of, oldest first, the last REMEMBERED of it; also what is on its way."""
        lines: list[str] = []
        if self._log.exists():
            lines = self._log.read_text(encoding="utf-8", errors="replace").split()
        if len(lines) > 2 * REMEMBERED:
            lines = lines[-REMEMBERED:]
            write_text(self._log, "\n".join(lines) + "\n")
        known = dict.fromkeys(lines[-REMEMBERED:])
        for alert in self._pending.values():
            if alert.mark and alert.mark not in known:
                append_line(self._log, alert.mark)
                known[alert.mark] = None
        self._lines = len(lines)
        return known

    def _remember(self, mark: str) -> None:
        append_line(self._log, mark)
        self._known[mark] = None
        self._lines += 1
        while len(self._known) > REMEMBERED:
            self._known.pop(next(iter(self._known)))
        if self._lines > 2 * REMEMBERED:
            write_text(self._log, "\n".join(self._known) + "\n")
            self._lines = len(self._known)


def sign(secret: str, id: str, body: bytes, at: int | None = None) -> dict[str, str]:
    """The headers of a signed post.

    Args:
        secret: see :func:`backend.endpoint.alert_rules.key_of`.
        id: of the post.
        body: of the post.
        at: seconds since 1970; now when not given.
    """
    when = str(int(time.time()) if at is None else at)
    content = f"{id}.{when}.".encode() + body
    mac = hmac.new(key_of(secret), content, hashlib.sha256).digest()
    return {
        "webhook-id": id,
        "webhook-timestamp": when,
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
