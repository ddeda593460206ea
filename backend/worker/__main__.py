"""A working process: takes jobs from its standard input, one after another.

Everything heavy happens here (models, training, lists from Label Studio), so that the server
answers while it does. It ends with the server, however that ended: its standard input closes.
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
from typing import TYPE_CHECKING, Any, BinaryIO

from backend.bootstrap import make_resources
from backend.errors import PrelabelError
from backend.json_records import to_json
from backend.loop.round import Round, RoundMemory
from backend.records import RoundRequest
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.scheduler import frames
from backend.settings import read_settings

if TYPE_CHECKING:
    from backend.loop.publish.retire import PredictionCleanup

log = logging.getLogger("prelabel")
FrameBody = bytes
HeaderCallback = Callable[[frames.FrameHeader], None]


class JobRunner:
    """Runs jobs.

    Args:
        resources: kept between jobs.
        send_header: sends a header to the server: progress.
    """

    def __init__(self, resources: Resources, send_header: HeaderCallback) -> None:
        self._resources = resources
        self._send_header = send_header
        self._round_memories: dict[str, RoundMemory | None] = {}
        self._cleanups: dict[str, PredictionCleanup] = {}
        self._cancelled_jobs: set[int] = set()

    def cancel(self, job_id: int) -> None:
        """Let a job end as soon as it can; called from another thread."""
        self._cancelled_jobs.add(job_id)

    def run(self, header: frames.FrameHeader, body: FrameBody) -> tuple[Any, FrameBody]:
        """One job: its result and bytes.

        Raises:
            PrelabelError: it failed for a reason that a person can act on.
        """
        match header["job"]:
            case "round":
                return self._run_round(header), b""
            case "cleanup":
                return self._remove_predictions(header), b""
            case "inspect":
                return self._find_label_errors(header), b""
            case "return":
                return self._import_captures(header), b""
            case "predict":
                return self._predict_tasks(body)
            case "warm":
                self._warm_smart_tools(header)
                return {}, b""
        raise ValueError(f"unknown job {header['job']!r}")

    def _session(self, header: frames.FrameHeader) -> ProjectSession:
        return ProjectSession(self._resources, self._resources.projects.get(header["project"]))

    def _run_round(self, header: frames.FrameHeader) -> Any:
        session = self._session(header)

        def report(state: str, progress: float, detail: str) -> None:
            progress_fields = {"state": state, "progress": round(progress, 3), "detail": detail}
            self._send_header({"id": header["id"], **progress_fields})

        with session.round_lock():
            memory = self._round_memories.pop(session.id, None)
            job_id = header["id"]
            current_round = Round(session, report, memory, lambda: job_id in self._cancelled_jobs)
            try:
                outcome = current_round.run(RoundRequest(**header["ask"]))
            except PrelabelError:
                session.forget_connection()
                raise
            self._round_memories[session.id] = current_round.memory
        return to_json(outcome)

    def _remove_predictions(self, header: frames.FrameHeader) -> int:
        from backend.loop.publish.retire import PredictionCleanup

        session = self._session(header)
        with session.round_lock():
            client = session.connection.client
            cleanup = self._cleanups.pop(session.id, None)
            cleanup = cleanup or PredictionCleanup(client, session.number)
            live_version, names = session.versions.live() or "", session.versions.names()
            changed_tasks = cleanup.remove(live_version, names, header["seconds"])
            memory = self._round_memories.get(session.id)
            if memory is not None and changed_tasks:
                changed = client.iter_changed_tasks(session.number, memory.known_until)
                memory.ignore_own_changes(changed, changed_tasks)
        if cleanup.remaining:
            self._cleanups[session.id] = cleanup
        return cleanup.remaining

    def _find_label_errors(self, header: frames.FrameHeader) -> int:
        from backend.tools.label_errors import LabelErrorFinder

        session = self._session(header)
        label_error_finder = LabelErrorFinder(session)
        suspects = label_error_finder.find_label_errors()
        memory = self._round_memories.get(session.id)
        if memory is not None:
            memory.known_until = label_error_finder.last_own_change(memory.known_until)
        return len(suspects)

    def _import_captures(self, header: frames.FrameHeader) -> int:
        from backend.loop.publish.capture_import import CaptureImporter

        deadline = time.monotonic() + header["seconds"]
        importer = CaptureImporter(self._session(header))
        return importer.import_waiting(should_stop=lambda: time.monotonic() >= deadline)

    def _warm_smart_tools(self, header: frames.FrameHeader) -> None:
        from backend.inference.smart_tools import warm_up

        session, version = self._session(header), header["version"]
        _ = session.images  # loads Label Studio's SDK, which takes a while too
        warm_up(session.model(version) if version else None)

    def _predict_tasks(self, body: FrameBody) -> tuple[Any, FrameBody]:
        from backend.worker.live_predict import predict_tasks

        predictions = predict_tasks(self._resources, json.loads(body))
        return {"ready": predictions is not None}, json.dumps(predictions).encode()


def main() -> None:
    """Read jobs until the server is gone."""
    output = _redirect_stdout()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for logger_name in ("httpx", "httpcore"):
        logging.getLogger(logger_name).setLevel(logging.WARNING)
    os.nice(int(sys.argv[1]))
    jobs: queue.SimpleQueue[tuple[frames.FrameHeader, FrameBody]] = queue.SimpleQueue()
    worker = JobRunner(make_resources(read_settings()), partial(_send_frame, output))
    threading.Thread(target=_serve_jobs, args=(worker, jobs, output), daemon=True).start()
    while (frame := frames.read_frame(sys.stdin.buffer)) is not None:
        if "cancel" in frame[0]:
            worker.cancel(frame[0]["cancel"])
        else:
            jobs.put(frame)
    os._exit(0)


def _redirect_stdout() -> BinaryIO:
    """The pipe to the server; whatever a library prints goes to standard error instead."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def _serve_jobs(
    worker: JobRunner,
    jobs: queue.SimpleQueue[tuple[frames.FrameHeader, FrameBody]],
    output: BinaryIO,
) -> None:
    try:
        while True:
            header, body = jobs.get()
            _send_frame(output, *_run_job(worker, header, body))
    except BrokenPipeError:  # the server is gone
        os._exit(0)
    finally:
        # without this thread nobody would ever answer: the server starts another process
        traceback.print_exc()
        os._exit(1)


def _send_frame(output: BinaryIO, header: frames.FrameHeader, body: FrameBody = b"") -> None:
    output.write(frames.pack_frame(header, body))
    output.flush()


def _run_job(
    worker: JobRunner, header: frames.FrameHeader, body: FrameBody
) -> tuple[frames.FrameHeader, FrameBody]:
    try:
        result, answer = worker.run(header, body)
        return {"id": header["id"], "done": result}, answer
    except PrelabelError as error:
        return _failure_header(header, type(error).__name__, str(error)), b""
    except Exception as error:  # a defect of ours: told, and the process goes on
        log.error("%s", traceback.format_exc())
        return _failure_header(header, "Defect", f"{type(error).__name__}: {error}"), b""


def _failure_header(header: frames.FrameHeader, kind: str, text: str) -> frames.FrameHeader:
    return {"id": header["id"], "failed": {"kind": kind, "text": text}}


if __name__ == "__main__":
    main()
