"""Track training calls on Modal: wait for results, record the cost, remove old files.

A record of each running call is kept on disk until its result arrives, so that a call is resumed
after a lost connection or a restart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from backend.callbacks import ProgressCallback
from backend.errors import PrelabelError, RoundCancelledError, error_from_name
from backend.store.captures import DAY_SECONDS
from backend.store.record_files import read_cache, write_record
from serverless.container_image import TRAIN_TIMEOUT_SECONDS
from serverless.jobs_volume import IMAGES_FOLDER, NETWORKS_FOLDER, ORDERS_FOLDER, WEIGHTS_FOLDER
from serverless.modal_client import ModalClient
from serverless.modal_errors import JobFailedError
from serverless.serialization import TrainingResult

log = logging.getLogger("prelabel")
POLL_INTERVAL_SECONDS = 1.0
MAX_TRAINING_SECONDS = 3 * TRAIN_TIMEOUT_SECONDS + 1800.0
"""Maximum duration of a call: three attempts and their cold starts."""
RETENTION_DAYS = {ORDERS_FOLDER: 7, NETWORKS_FOLDER: 30, WEIGHTS_FOLDER: 30, IMAGES_FOLDER: 90}
"""Days without a write after which an entry is removed; it is uploaded again when needed."""
REMOVAL_BATCH_SIZE = 300
"""Maximum number of entries removed at a time, since each takes a request."""


@dataclass(frozen=True)
class CallRecord:
    """A running training call.

    Attributes:
        call: id of the Modal call.
        at: start time in seconds since 1970; negative if unknown.
        counted: seconds that were already added to the cost.
    """

    call: str
    at: float = -1.0
    counted: float = 0.0


NO_CALL = CallRecord("")


@dataclass(frozen=True)
class DownloadState:
    """Downloaded results, and the last cleanup of the jobs volume.

    Attributes:
        read: ids of orders whose result was downloaded but not removed yet.
        swept: time of the last removal of stale entries, in seconds since 1970.
    """

    read: list[str] = field(default_factory=list)
    swept: float = 0.0


class TrainingCalls:
    """The training calls of one ``PRELABEL_HOME``.

    Args:
        home: the folder.
        client: client for the deployed app.
        record_usage: called with (device, seconds); the device is empty if it is unknown.
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
        report: ProgressCallback,
        cancelled: Callable[[], bool],
    ) -> TrainingResult:
        """Wait for the result of an order; resume its call if one is already running.

        The duration is added to the cost even if the call fails. Without a result, it is the time
        since the start, which overestimates the cost.

        Args:
            order_id: id of the order.
            submit: starts the call and returns its id.
            report: called with (done, total) training steps.
            cancelled: returns whether to cancel the call.

        Raises:
            RoundCancelledError: ``cancelled`` returned True, and the call was cancelled.
            ModalUnreachableError: Modal cannot be reached; the training continues, and the next
                call with this order resumes it.
            PrelabelError: the training failed.
        """
        self._settle_abandoned_calls(order_id)
        record = self._read_record(order_id)
        if record is None:
            record = CallRecord(submit(), self._clock())
            self._write_record(order_id, record)
        try:
            result = self._poll_result(order_id, record.call, report, cancelled)
        except BaseException as error:
            self._add_elapsed_cost(order_id, record)
            if isinstance(error, JobFailedError | RoundCancelledError):
                self._delete_record(order_id)
            raise
        self._add_reported_cost(record, result)
        self._delete_record(order_id)
        if result.error is not None:
            raise error_from_name(result.error.kind, result.error.text)
        return result

    def mark_downloaded(self, order_id: str) -> None:
        """Record the download of a result, and remove the results that were downloaded before.

        The latest result is kept, because it is downloaded again if this process ends before it
        has saved the version.
        """
        state = read_cache(self._downloaded_file, DownloadState, DownloadState())
        old_ids, swept = [id for id in state.read if id != order_id], state.swept
        try:
            for old_id in old_ids:
                if self._read_record(old_id) is None:
                    self._client.volume.remove(f"{ORDERS_FOLDER}/{old_id}")
            old_ids = []
            if self._clock() - swept > DAY_SECONDS:
                for folder, days in RETENTION_DAYS.items():
                    cutoff = self._clock() - days * DAY_SECONDS
                    self._client.volume.remove_stale(folder, cutoff, REMOVAL_BATCH_SIZE)
                swept = self._clock()
        except PrelabelError as error:
            log.warning("Old files on Modal could not be removed and are kept for now: %s", error)
        write_record(self._downloaded_file, DownloadState([*old_ids, order_id], swept))

    def _poll_result(
        self, order_id: str, call_id: str, report: ProgressCallback, cancelled: Callable[[], bool]
    ) -> TrainingResult:
        last_progress = (-1, -1)
        while True:
            result = self._client.training_result(call_id)
            if result is not None:
                return result
            if cancelled():
                self._client.cancel_call(call_id)
                raise RoundCancelledError(
                    "The training on Modal was cancelled; the live version stays."
                )
            progress = self._client.training_progress(order_id)
            if progress != last_progress and progress[0]:
                report(*progress)
            last_progress = progress
            time.sleep(POLL_INTERVAL_SECONDS)

    # -- records of running calls -----------------------------------------------------------

    def _settle_abandoned_calls(self, excluded_id: str) -> None:
        """Add the cost of calls that ended without being waited for, and delete their records."""
        for file in self._folder.glob("*.json"):
            order_id, record = file.stem, self._read_record(file.stem)
            if order_id == excluded_id or record is None:
                continue
            if self._clock() - record.at < MAX_TRAINING_SECONDS:
                continue
            try:
                result = self._client.training_result(record.call)
            except JobFailedError:
                result = None
            except PrelabelError:
                continue  # Modal cannot be reached: retry at the next call
            if result is not None:
                self._add_reported_cost(record, result)
            self._delete_record(order_id)

    def _record_file(self, order_id: str) -> Path:
        return self._folder / f"{order_id}.json"

    def _read_record(self, order_id: str) -> CallRecord | None:
        record = read_cache(self._record_file(order_id), CallRecord, NO_CALL)
        if record is NO_CALL:
            return None
        return record if record.at >= 0 else replace(record, at=self._clock())

    def _write_record(self, order_id: str, record: CallRecord) -> None:
        write_record(self._record_file(order_id), record)

    def _delete_record(self, order_id: str) -> None:
        self._record_file(order_id).unlink(missing_ok=True)

    # -- cost -------------------------------------------------------------------------------

    def _add_elapsed_cost(self, order_id: str, record: CallRecord) -> None:
        """Add the time since the start of a call to the cost, less the time already added."""
        seconds = min(max(0.0, self._clock() - record.at), MAX_TRAINING_SECONDS)
        if seconds > record.counted:
            self._record_usage("", seconds - record.counted)
            self._write_record(order_id, replace(record, counted=seconds))

    def _add_reported_cost(self, record: CallRecord, result: TrainingResult) -> None:
        """Add the duration of a result to the cost; 0 if an earlier call had run the order."""
        seconds = 0.0 if result.again else result.seconds
        if seconds > record.counted:
            self._record_usage(result.device, seconds - record.counted)
