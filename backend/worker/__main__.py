"""The worker process, which runs jobs from its standard input one after another.

Inference, training and large responses from Label Studio are processed here, so that the server
stays responsive. The process ends when its standard input closes, even if the server was killed.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from backend.bootstrap import make_resources
from backend.errors import PrelabelError
from backend.json_records import JsonObject, to_json
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.scheduler import frames
from backend.scheduler.jobs import (
    CaptureImportJob,
    ChangeLabelJob,
    CleanupJob,
    Job,
    LabelCheckJob,
    PredictJob,
    PreloadJob,
    ProjectJob,
    PublishJob,
    RoundJob,
    TryJob,
    WarmUpJob,
    job_from_json,
)
from backend.settings import read_settings

if TYPE_CHECKING:
    from backend.loop.publish.retire import PredictionCleanup
    from backend.loop.round_memory import RoundMemory

log = logging.getLogger("prelabel")
JobResult = JsonObject | list[int] | int | None
SendHeader = Callable[[JsonObject], None]


class JobRunner:
    """Run jobs, and keep the state that later jobs reuse.

    Args:
        resources: shared by all jobs.
        send_header: sends a progress header to the server.
    """

    def __init__(self, resources: Resources, send_header: SendHeader) -> None:
        self._resources = resources
        self._send_header = send_header
        self._round_memories: dict[str, RoundMemory | None] = {}
        self._cleanups: dict[str, PredictionCleanup] = {}
        self._cancelled_jobs: set[int] = set()

    def cancel(self, job_id: int) -> None:
        """Request the cancellation of a job; may be called from another thread."""
        self._cancelled_jobs.add(job_id)

    def run(self, job_id: int, job: Job, body: bytes) -> tuple[JobResult, bytes]:
        """Run a job and return its result and body.

        Raises:
            PrelabelError: the job failed for a reason that the user can fix.
        """
        match job:
            case RoundJob():
                return self._run_round(job_id, job), b""
            case PublishJob():
                self._publish_live(job)
                return None, b""
            case CleanupJob():
                return self._remove_predictions(job), b""
            case LabelCheckJob():
                return self._find_label_errors(job), b""
            case CaptureImportJob():
                return self._import_captures(job), b""
            case PredictJob():
                return self._predict_tasks(body)
            case WarmUpJob():
                self._warm_smart_tools(job)
                return None, b""
            case PreloadJob():
                self._preload(job)
                return None, b""
            case TryJob():
                return self._try_image(job, body), b""
            case ChangeLabelJob():
                return self._change_label(job), b""

    def _session(self, job: ProjectJob) -> ProjectSession:
        return ProjectSession(self._resources, self._resources.projects.get(job.project))

    def _run_round(self, job_id: int, job: RoundJob) -> JsonObject:
        from backend.loop.round import Round
        from backend.store.round_state import published_round

        session = self._session(job)

        def report(state: str, progress: float, detail: str) -> None:
            fields = {"state": state, "progress": round(progress, 3), "detail": detail}
            self._send_header({"id": job_id, **fields})

        with session.round_lock():
            memory = self._round_memories.pop(session.id, None)
            is_cancelled = partial(self._cancelled_jobs.__contains__, job_id)
            try:
                with published_round(session.folder, report) as published:
                    current_round = Round(session, published, memory, is_cancelled)
                    outcome = current_round.run(job.request)
            except PrelabelError:
                session.forget_connection()
                raise
            self._round_memories[session.id] = current_round.memory
        return to_json(outcome)

    def _publish_live(self, job: PublishJob) -> None:
        from backend.loop.round import Round

        Round(self._session(job), lambda state, progress, detail: None, None).publish_live()

    def _remove_predictions(self, job: CleanupJob) -> int:
        from backend.loop.publish.queue_settings import kept_version
        from backend.loop.publish.retire import PredictionCleanup

        session = self._session(job)
        with session.round_lock(), session.publish_lock(0.0):
            client = session.connection.client
            cleanup = self._cleanups.pop(session.id, None)
            cleanup = cleanup or PredictionCleanup(client, session.number)
            versions = session.versions
            live_version = versions.live() or ""
            kept = kept_version(client.get_project(session.number))
            names = [name for name in (*versions.names(), *versions.damaged()) if name != kept]
            changed_tasks = cleanup.remove(live_version, names, job.seconds)
            memory = self._round_memories.get(session.id)
            if memory is not None and changed_tasks:
                changed = client.iter_changed_tasks(session.number, memory.known_until)
                memory.ignore_own_changes(changed, changed_tasks)
        if cleanup.remaining:
            self._cleanups[session.id] = cleanup
        return cleanup.remaining

    def _find_label_errors(self, job: LabelCheckJob) -> int:
        from backend.tools.label_errors import LabelErrorFinder

        session = self._session(job)
        label_error_finder = LabelErrorFinder(session)
        suspects = label_error_finder.find_label_errors()
        memory = self._round_memories.get(session.id)
        if memory is not None:
            memory.known_until = label_error_finder.last_own_change(memory.known_until)
        return len(suspects)

    def _import_captures(self, job: CaptureImportJob) -> int:
        from backend.loop.publish.capture_import import CaptureImporter

        deadline = time.monotonic() + job.seconds
        importer = CaptureImporter(self._session(job))
        return importer.import_pending(should_stop=lambda: time.monotonic() >= deadline)

    def _warm_smart_tools(self, job: WarmUpJob) -> None:
        from backend.inference.smart_tools import warm_up

        session = self._session(job)
        _ = session.images  # connects to Label Studio, which takes time as well
        warm_up(session.model(job.version) if job.version else None)

    def _preload(self, job: PreloadJob) -> None:
        from backend.worker.preload import preload_live_version

        preload_live_version(self._session(job))

    def _change_label(self, job: ChangeLabelJob) -> list[int]:
        from backend.tools.change_label import change_label

        return change_label(
            self._session(job), job.task, job.control, job.given, job.suggested, job.annotations
        )

    def _try_image(self, job: TryJob, content: bytes) -> JsonObject:
        from backend.worker.try_image import predict_upload

        return predict_upload(self._session(job), content)

    def _predict_tasks(self, body: bytes) -> tuple[JsonObject, bytes]:
        from backend.worker.live_predict import predict_tasks

        predictions = predict_tasks(self._resources, json.loads(body))
        return {"ready": predictions is not None}, json.dumps(predictions).encode()


def main() -> None:
    """Read jobs until the server closes the pipe."""
    output = _redirect_stdout()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for logger_name in ("httpx", "httpcore"):
        logging.getLogger(logger_name).setLevel(logging.WARNING)
    os.nice(int(sys.argv[1]))
    jobs: queue.SimpleQueue[tuple[JsonObject, bytes]] = queue.SimpleQueue()
    runner = JobRunner(make_resources(read_settings()), partial(_send_frame, output))
    threading.Thread(target=_serve_jobs, args=(runner, jobs, output), daemon=True).start()
    while (frame := frames.read_frame(sys.stdin.buffer)) is not None:
        if "cancel" in frame[0]:
            runner.cancel(frame[0]["cancel"])
        else:
            jobs.put(frame)
    os._exit(0)


def _redirect_stdout() -> BinaryIO:
    """Return the pipe to the server, and redirect the output of libraries to standard error."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def _serve_jobs(
    runner: JobRunner, jobs: queue.SimpleQueue[tuple[JsonObject, bytes]], output: BinaryIO
) -> None:
    try:
        while True:
            header, body = jobs.get()
            _send_frame(output, *_run_job(runner, header, body))
    except BrokenPipeError:  # the server is gone
        os._exit(0)
    finally:
        # no job can run without this thread: end the process, and the server starts another one
        traceback.print_exc()
        os._exit(1)


def _send_frame(output: BinaryIO, header: JsonObject, body: bytes = b"") -> None:
    output.write(frames.pack_frame(header, body))
    output.flush()


def _run_job(runner: JobRunner, header: JsonObject, body: bytes) -> tuple[JsonObject, bytes]:
    job_id = header["id"]
    try:
        result, answer = runner.run(job_id, job_from_json(header), body)
        return {"id": job_id, "done": result}, answer
    except PrelabelError as error:
        kind, text = type(error).__name__, str(error)
    except Exception as error:  # a bug: report it and continue
        log.error("%s", traceback.format_exc())
        kind, text = "Defect", f"{type(error).__name__}: {error}"
    return {"id": job_id, "failed": {"kind": kind, "text": text}}, b""


if __name__ == "__main__":
    main()
