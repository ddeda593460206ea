"""Send alerts as signed webhooks, with retries, at most one per rule and image.

The signatures follow Standard Webhooks 1.0 (standardwebhooks.com), so its libraries can verify
them. Undelivered alerts are stored on disk and survive a restart.
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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backend.endpoint.alert_rules import AlertRule, signing_key
from backend.errors import DamagedFileError, StoreError
from backend.inference.predict_image import labels_of
from backend.store.files import append_line, write_text
from backend.store.record_files import read_record, set_aside, write_record

if TYPE_CHECKING:
    import httpx

    from backend.inference.predict_image import ImagePrediction

log = logging.getLogger("prelabel")
RETRY_DELAYS_SECONDS = (5.0, 30.0, 120.0, 600.0, 3600.0, 6 * 3600.0, 12 * 3600.0)
"""Delay before each retry; after the last retry the alert is discarded."""
POST_TIMEOUT_SECONDS = 15.0
"""Time limit of a POST including its response."""
CONCURRENT_POSTS = 4
"""Maximum number of simultaneous POSTs per rule."""
SCAN_INTERVAL_SECONDS = 0.02
"""Minimum interval between two scans for due alerts."""
HISTORY_SIZE = 100_000
"""Number of recent alerts that are deduplicated; the file is truncated at twice as many lines."""


@dataclass(frozen=True)
class Alert:
    """An undelivered alert, as it is stored on disk.

    Attributes:
        id: ``msg_…``, the same in each attempt.
        rule: name of its rule.
        data: payload.
        at: time of the prediction, UTC, ISO 8601.
        tries: failed attempts.
        next: time of the next attempt, seconds since 1970.
        mark: hash of rule and image, for deduplication.
    """

    id: str
    rule: str
    data: dict[str, object]
    at: str
    tries: int = 0
    next: float = 0.0
    mark: str = ""


class AlertSender:
    """Create and send the alerts of all functions.

    Args:
        rules: the alert rules.
        folder: stores undelivered alerts and the history for deduplication.
        http: HTTP client; a new one by default.
        on_outcome: called with (rule, outcome) after each attempt: ``sent``, ``retry`` or
            ``given up``.
        retry_delays: seconds before each retry.
        reload_rules: updates ``rules`` if their file changed, and returns whether it did; called
            before each prediction is checked, and every few seconds.
    """

    def __init__(
        self,
        rules: Sequence[AlertRule],
        folder: Path,
        http: httpx.AsyncClient | None = None,
        on_outcome: Callable[[str, str], None] = lambda rule, outcome: None,
        retry_delays: Sequence[float] = RETRY_DELAYS_SECONDS,
        reload_rules: Callable[[], bool] = lambda: False,
    ) -> None:
        import httpx

        self._current_rules = rules
        self._reload_rules = reload_rules
        self._rules = {rule.name: rule for rule in rules}
        self._folder = folder / "pending"
        self._history_file = folder / "told.txt"
        # no global limit: a slow receiver must not use up the connections of other rules
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._http = http or httpx.AsyncClient(
            timeout=POST_TIMEOUT_SECONDS, limits=limits, trust_env=False
        )
        self._on_outcome = on_outcome
        self._retry_delays = retry_delays
        self._pending = self._read_pending()
        self._history = self._read_history()
        self._semaphores = {rule.name: asyncio.Semaphore(CONCURRENT_POSTS) for rule in rules}
        self._wake_event = asyncio.Event()
        self._send_loop: asyncio.Task[None] | None = None
        self._active_posts: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Start sending, beginning with the alerts on disk."""
        self._send_loop = asyncio.create_task(self._run_send_loop())

    async def stop(self) -> None:
        """Stop sending; undelivered alerts stay on disk."""
        tasks = [*([self._send_loop] if self._send_loop else []), *self._active_posts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()

    def create_alerts(
        self,
        function: str,
        version: str,
        request_id: str,
        external_id: str,
        prediction: ImagePrediction,
    ) -> int:
        """Create the alerts of a prediction. Not thread-safe.

        Args:
            function: id of the function.
            version: name of its version.
            request_id: id of the request.
            external_id: the caller's id for the image; may be empty. Images with the same id get
                one alert per rule.
            prediction: the prediction.

        Returns:
            the number of alerts.

        Raises:
            StoreError: the disk cannot be written.
        """
        self._refresh_rules()
        alert_count = 0
        for rule in self._rules.values():
            if rule.function != function:
                continue
            predicted = labels_of(prediction, rule.confidence)
            confidences = [p.confidence for p in predicted if p.label == rule.label]
            mark_source = f"{rule.name} {function} {external_id or request_id}"
            mark = hashlib.sha256(mark_source.encode()).hexdigest()[:32]
            if len(confidences) < rule.count or mark in self._history:
                continue
            data = {
                "function": function,
                "version": version,
                "label": rule.label,
                "confidence": round(max(confidences), 4),
                "count": len(confidences),
                "externalId": external_id or None,
                "requestId": request_id,
            }
            id = f"msg_{secrets.token_hex(12)}"
            self._write(Alert(id, rule.name, data, _utc_timestamp(), mark=mark))
            self._add_to_history(mark)  # after the alert, so that a crash in between loses nothing
            alert_count += 1
        return alert_count

    def wake(self) -> None:
        """Wake the send loop for new alerts; call it on the event loop."""
        self._wake_event.set()

    def _refresh_rules(self) -> None:
        """Use the rules of a changed file; called by two threads."""
        if self._reload_rules():
            for rule in self._current_rules:
                self._semaphores.setdefault(rule.name, asyncio.Semaphore(CONCURRENT_POSTS))
            self._rules = {rule.name: rule for rule in self._current_rules}

    async def _run_send_loop(self) -> None:
        """Start a task for each due alert; do not wait for the tasks."""
        while True:
            self._refresh_rules()
            self._wake_event.clear()
            now = time.time()
            sendable = self._sendable_alerts()
            for alert in sendable:
                if alert.next <= now:
                    self._active_posts[alert.id] = asyncio.create_task(self._send(alert))
            retry_delays = [alert.next - now for alert in sendable if alert.next > now]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._wake_event.wait(), min([*retry_delays, POST_TIMEOUT_SECONDS])
                )
            await asyncio.sleep(SCAN_INTERVAL_SECONDS)

    def _sendable_alerts(self) -> list[Alert]:
        """Return the alerts that are not being sent, except those of removed rules."""
        return [
            alert
            for alert in list(self._pending.values())
            if alert.rule in self._rules and alert.id not in self._active_posts
        ]

    async def _send(self, alert: Alert) -> None:
        """Try to send an alert; a failure does not affect other alerts."""
        try:
            await self._attempt(alert)
        finally:
            del self._active_posts[alert.id]
            if alert.id in self._pending:
                self._wake_event.set()  # schedules the retry

    async def _attempt(self, alert: Alert) -> None:
        rule = self._rules.get(alert.rule)
        if rule is None:  # it was removed a moment ago
            return
        try:
            async with self._semaphores[alert.rule], asyncio.timeout(POST_TIMEOUT_SECONDS):
                problem = await self._post(rule, alert)
        except Exception as error:
            problem = type(error).__name__
        try:
            await self._record_outcome(alert, problem)
        except (StoreError, OSError) as error:
            log.error("Alert %s: %s", rule.name, error)

    async def _post(self, rule: AlertRule, alert: Alert) -> str:
        """Send a POST; return an error description, empty on success."""
        data = {"rule": rule.name, **alert.data}
        payload = {"type": "prelabel.alert", "timestamp": alert.at, "data": data}
        body = json.dumps(payload).encode()
        headers = {"content-type": "application/json", **sign_webhook(rule.secret, alert.id, body)}
        response = await self._http.post(rule.url, content=body, headers=headers)
        return "" if response.is_success else f"status {response.status_code}"

    async def _record_outcome(self, alert: Alert, problem: str) -> None:
        """Schedule a retry, or remove the alert.

        Memory is updated before the disk, so that a full disk does not repeat a POST.

        Raises:
            StoreError: the disk cannot be written.
        """
        if problem and alert.tries < len(self._retry_delays):
            delay = self._retry_delays[alert.tries]
            rescheduled = replace(alert, tries=alert.tries + 1, next=time.time() + delay)
            self._pending[alert.id] = rescheduled
            self._on_outcome(alert.rule, "retry")
            log.warning("Alert %s: %s; next attempt in %.0f s", alert.rule, problem, delay)
            await asyncio.to_thread(self._write, rescheduled)
            return
        self._pending.pop(alert.id, None)
        self._on_outcome(alert.rule, "given up" if problem else "sent")
        if problem:
            log.error("Alert %s is given up after %s retries: %s", alert.rule, alert.tries, problem)
        await asyncio.to_thread(self._alert_file(alert.id).unlink, missing_ok=True)

    def _write(self, alert: Alert) -> None:
        write_record(self._alert_file(alert.id), alert)
        self._pending[alert.id] = alert

    def _alert_file(self, id: str) -> Path:
        return self._folder / f"{id}.json"

    def _read_pending(self) -> dict[str, Alert]:
        """Return the undelivered alerts on disk by id."""
        alerts_by_id = {}
        for file in sorted(self._folder.glob("*.json")):
            try:
                alert = read_record(file, Alert)
            except DamagedFileError as error:
                log.error("An undelivered alert is lost.")
                set_aside(file, str(error.__cause__ or error))
                continue
            except StoreError as error:
                log.error("An undelivered alert cannot be read and is skipped: %s", error)
                continue
            if alert is not None:
                alerts_by_id[alert.id] = alert
        return alerts_by_id

    def _read_history(self) -> dict[str, None]:
        """Return the marks of the latest alerts, including undelivered ones; oldest first."""
        lines: list[str] = []
        if self._history_file.exists():
            lines = self._history_file.read_text(encoding="utf-8", errors="replace").split()
        if len(lines) > 2 * HISTORY_SIZE:
            lines = lines[-HISTORY_SIZE:]
            write_text(self._history_file, "\n".join(lines) + "\n")
        history = dict.fromkeys(lines[-HISTORY_SIZE:])
        for alert in self._pending.values():
            if alert.mark and alert.mark not in history:
                append_line(self._history_file, alert.mark)
                history[alert.mark] = None
        self._history_line_count = len(lines)
        return history

    def _add_to_history(self, mark: str) -> None:
        append_line(self._history_file, mark)
        self._history[mark] = None
        self._history_line_count += 1
        while len(self._history) > HISTORY_SIZE:
            self._history.pop(next(iter(self._history)))
        if self._history_line_count > 2 * HISTORY_SIZE:
            write_text(self._history_file, "\n".join(self._history) + "\n")
            self._history_line_count = len(self._history)


def sign_webhook(secret: str, id: str, body: bytes, sent_at: int | None = None) -> dict[str, str]:
    """Return the signature headers of a webhook.

    Args:
        secret: see :func:`backend.endpoint.alert_rules.signing_key`.
        id: id of the message.
        body: the request body.
        sent_at: seconds since 1970; now by default.
    """
    timestamp = str(int(time.time()) if sent_at is None else sent_at)
    content = f"{id}.{timestamp}.".encode() + body
    signature = hmac.new(signing_key(secret), content, hashlib.sha256).digest()
    return {
        "webhook-id": id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(signature).decode(),
    }


def _utc_timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
