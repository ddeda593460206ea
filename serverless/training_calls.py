"""Trainings that were sent to Modal: which are under way, what they cost, and what is left there.

A note says of each what it is called there. It is kept until the training said its last word: who
cannot reach Modal for a while, or ends in between, finds the same training again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backend import errors
from backend.errors import PrelabelError, RoundCancelledError, RoundError
from backend.store.files import read_json, write_json
from serverless.container_image import TRAIN_TIMEOUT_SECONDS
from serverless.modal_client import JobFailedError, ModalClient

log = logging.getLogger("prelabel")
POLL_INTERVAL_SECONDS = 1.0
MAX_TRAINING_SECONDS = 3 * TRAIN_TIMEOUT_SECONDS + 1800.0
"""Seconds that no training is under way any more: three attempts, and their starts."""
SECONDS_PER_DAY = 86_400.0
RETENTION_DAYS = {"orders": 7, "networks": 30, "weights": 30, "pictures": 90}
"""Days after which what nobody wrote anew is removed; it is sent again where it is wanted."""
REMOVAL_BATCH_SIZE = 300
"""Things that are removed at one time: each is a question to Modal."""


@dataclass(frozen=True)
class CallRecord:
    """A training under way.

    Attributes:
        call: what Modal calls it.
        at: when it was sent, seconds since 1970.
        counted: seconds that are in the month's estimate already.
    """

    call: str
    at: float
    counted: float = 0.0


class TrainingCalls:
    """The trainings of one home folder.

    Args:
        home: the folder.
        client: the app.
        record_usage: counts the seconds of a device; where nobody knows the device, it is empty.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        home: Path,
        client: ModalClient,
        record_usage: Callable[[str, float], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = home / "modal-calls"
        self._downloaded_file = home / "modal-read.json"
        self._client = client
        self._record_usage = record_usage
        self._clock = clock

    def run_to_completion(
        self,
        order_id: str,
        submit: Callable[[], str],
        report: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> dict[str, Any]:
        """Follow an order to its end; a training of it that is under way is taken up.

        Its seconds are counted however this ends; those of an end that the training did not tell
        are all since it was sent, rather too many.

        Args:
            order_id: of the order.
            submit: sends it; the call's id.
            report: told (done, of) of the training's steps.
            cancelled: asked whether to end it.

        Returns:
            what ``serverless.jobs.train`` told of its files.

        Raises:
            RoundCancelledError: somebody wanted it to end, and it did.
            Unreachable: Modal cannot be reached; the training goes on and is taken up later.
            PrelabelError: it did not work out.
        """
        self._settle_abandoned(order_id)
        call_record = self._read_record(order_id)
        if call_record is None:
            call_record = CallRecord(submit(), self._clock())
            self._write_record(order_id, call_record)
        try:
            training_result = self._poll_result(order_id, call_record.call, report, cancelled)
        except BaseException as error:
            self._record_elapsed(order_id, call_record)
            if isinstance(error, JobFailedError | RoundCancelledError):
                self._delete_record(order_id)
            raise
        self._record_reported(call_record, training_result)
        self._delete_record(order_id)
        if "error" in training_result:
            raise _rebuild_error(training_result["error"])
        return training_result

    def mark_downloaded(self, order_id: str) -> None:
        """The result of an order is here. Those that were read before are removed there.

        The last one stays until the next: who ends before it is a version asks for it again.
        """
        download_state: dict[str, Any] = read_json(self._downloaded_file) or {
            "read": [],
            "swept": 0.0,
        }
        stale_ids = [stale_id for stale_id in download_state["read"] if stale_id != order_id]
        try:
            for stale_id in stale_ids:
                if self._read_record(stale_id) is None:
                    self._client.remove(f"orders/{stale_id}")
            stale_ids = []
            if self._clock() - download_state["swept"] > SECONDS_PER_DAY:
                for folder, days in RETENTION_DAYS.items():
                    self._client.remove_stale(
                        folder, self._clock() - days * SECONDS_PER_DAY, REMOVAL_BATCH_SIZE
                    )
                download_state["swept"] = self._clock()
        except PrelabelError as error:
            log.warning("what is left on Modal is removed another time: %s", error)
        write_json(self._downloaded_file, {**download_state, "read": [*stale_ids, order_id]})

    def _poll_result(
        self,
        order_id: str,
        call_id: str,
        report: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> dict[str, Any]:
        last_progress = (-1, -1)
        while True:
            training_result = self._client.training_result(call_id)
            if training_result is not None:
                return training_result
            if cancelled():
                self._client.cancel_call(call_id)
                raise RoundCancelledError(
                    "The training on Modal was cancelled; the live version stays."
                )
            current_progress = self._client.training_progress(order_id)
            if current_progress != last_progress and current_progress[0]:
                report(*current_progress)
            last_progress = current_progress
            time.sleep(POLL_INTERVAL_SECONDS)

    # -- notes ------------------------------------------------------------------------------

    def _settle_abandoned(self, excluded_id: str) -> None:
        """Count and forget what nobody followed to its end and has ended long since."""
        for file in self._folder.glob("*.json"):
            call_record = self._read_record(file.stem)
            if (
                file.stem == excluded_id
                or call_record is None
                or self._clock() - call_record.at < MAX_TRAINING_SECONDS
            ):
                continue
            try:
                training_result = self._client.training_result(call_record.call)
            except JobFailedError:
                training_result = None
            except PrelabelError:
                continue  # it is asked another time
            if training_result is not None:
                self._record_reported(call_record, training_result)
            self._delete_record(file.stem)

    def _read_record(self, order_id: str) -> CallRecord | None:
        stored = read_json(self._folder / f"{order_id}.json")
        return CallRecord(**{"at": self._clock(), **stored}) if stored else None

    def _write_record(self, order_id: str, call_record: CallRecord) -> None:
        write_json(self._folder / f"{order_id}.json", asdict(call_record))

    def _delete_record(self, order_id: str) -> None:
        (self._folder / f"{order_id}.json").unlink(missing_ok=True)

    # -- what it costs ----------------------------------------------------------------------

    def _record_elapsed(self, order_id: str, call_record: CallRecord) -> None:
        """Count all seconds since it was sent, as far as they are not counted yet."""
        seconds = min(max(0.0, self._clock() - call_record.at), MAX_TRAINING_SECONDS)
        if seconds > call_record.counted:
            self._record_usage("", seconds - call_record.counted)
            self._write_record(order_id, replace(call_record, counted=seconds))

    def _record_reported(self, call_record: CallRecord, training_result: dict[str, Any]) -> None:
        """Count what the training says it took; nothing where another call did it."""
        seconds = 0.0 if training_result.get("again") else float(training_result["seconds"])
        if seconds > call_record.counted:
            self._record_usage(training_result["device"], seconds - call_record.counted)


def _rebuild_error(error_json: dict[str, str]) -> PrelabelError:
    """What a training raised there."""
    error_class = getattr(errors, error_json["kind"], None)
    is_known = isinstance(error_class, type) and issubclass(error_class, PrelabelError)
    return error_class(error_json["text"]) if is_known else RoundError(error_json["text"])  # type: ignore[misc]
