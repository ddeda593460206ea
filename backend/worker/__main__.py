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
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from backend.bootstrap import make_resources
from backend.errors import PrelabelError
from backend.loop.round import Ask, Memory, Round
from backend.runtime.resources import Resources
from backend.scheduler import frames
from backend.settings import read_settings

if TYPE_CHECKING:
    from backend.loop.publish.retire import Retirement

log = logging.getLogger("prelabel")
Body = bytes
Tell = Callable[[frames.Header], None]


class Worker:
    """Runs jobs.

    Args:
        resources: kept between jobs.
        tell: sends a header to the server: progress.
    """

    def __init__(self, resources: Resources, tell: Tell) -> None:
        self._resources = resources
        self._tell = tell
        self._memories: dict[str, Memory | None] = {}
        self._retirements: dict[str, Retirement] = {}
        self._cancelled: set[int] = set()

    def cancel(self, number: int) -> None:
        """Let a job end as soon as it can; called from another thread."""
        self._cancelled.add(number)

    def run(self, header: frames.Header, body: Body) -> tuple[Any, Body]:
        """One job: its result and bytes.

        Raises:
            PrelabelError: it failed for a reason that a person can act on.
        """
        match header["job"]:
            case "round":
                return self._round(header), b""
            case "cleanup":
                return self._cleanup(header), b""
            case "inspect":
                return self._inspect(header), b""
            case "return":
                return self._return(header), b""
            case "predict":
                return self._predict(body)
            case "warm":
                self._warm(header)
                return {}, b""
        raise ValueError(f"unknown job {header['job']!r}")

    def _round(self, header: frames.Header) -> Any:
        record = self._resources.projects.get(header["project"])

        def report(state: str, progress: float, detail: str) -> None:
            told = {"state": state, "progress": round(progress, 3), "detail": detail}
            self._tell({"id": header["id"], **told})

        with self._resources.alone(record):
            memory = self._memories.pop(record.id, None)
            number = header["id"]
            turn = Round(
                self._resources,
                record,
                report,
                memory,
                lambda: number in self._cancelled,
            )
            try:
                outcome = turn.run(Ask(**header["ask"]))
            except PrelabelError:
                self._resources.forget(record)
                raise
            self._memories[record.id] = turn.memory
        return asdict(outcome)

    def _cleanup(self, header: frames.Header) -> int:
        from backend.loop.publish.retire import Retirement

        record = self._resources.projects.get(header["project"])
        with self._resources.alone(record):
            versions = self._resources.versions(record)
            connection = self._resources.connection(record)
            retirement = self._retirements.pop(record.id, None)
            retirement = retirement or Retirement(connection.client, record.number)
            live, names = versions.live() or "", versions.names()
            touched = retirement.remove(live, names, header["seconds"])
            memory = self._memories.get(record.id)
            if memory is not None and touched:
                changed = connection.client.changed(record.number, memory.since)
                memory.disregard(changed, touched)
        if retirement.left:
            self._retirements[record.id] = retirement
        return retirement.left

    def _inspect(self, header: frames.Header) -> int:
        from backend.tools.label_errors import Inspector

        record = self._resources.projects.get(header["project"])
        inspector = Inspector(self._resources, record)
        found = inspector.inspect()
        memory = self._memories.get(record.id)
        if memory is not None:
            memory.since = inspector.our_changes(memory.since)
        return len(found)

    def _return(self, header: frames.Header) -> int:
        from backend.loop.publish.capture_import import Returner

        record = self._resources.projects.get(header["project"])
        until = time.monotonic() + header["seconds"]
        returner = Returner(self._resources, record)
        return returner.bring(enough=lambda: time.monotonic() >= until)

    def _warm(self, header: frames.Header) -> None:
        from backend.inference.smart_tools import warm

        record, version = self._resources.projects.get(header["project"]), header["version"]
        self._resources.pictures(record)  # Label Studio's SDK takes a while too
        warm(self._resources.model(record, version) if version else None)

    def _predict(self, body: Body) -> tuple[Any, Body]:
        from backend.worker.live_predict import answer

        found = answer(self._resources, json.loads(body))
        return {"ready": found is not None}, json.dumps(found).encode()


def main() -> None:
    """Read jobs until the server is gone."""
    answers = _private_stdout()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.nice(int(sys.argv[1]))
    jobs: queue.SimpleQueue[tuple[frames.Header, Body]] = queue.SimpleQueue()
    worker = Worker(make_resources(read_settings()), partial(_tell, answers))
    threading.Thread(target=_work, args=(worker, jobs, answers), daemon=True).start()
    while (frame := frames.read(sys.stdin.buffer)) is not None:
        if "cancel" in frame[0]:
            worker.cancel(frame[0]["cancel"])
        else:
            jobs.put(frame)
    os._exit(0)


def _private_stdout() -> BinaryIO:
    """The pipe to the server; whatever a library prints goes to standard error instead."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def _work(
    worker: Worker, jobs: queue.SimpleQueue[tuple[frames.Header, Body]], answers: BinaryIO
) -> None:
    try:
        while True:
            header, body = jobs.get()
            _tell(answers, *_done(worker, header, body))
    except BrokenPipeError:  # the server is gone
        os._exit(0)
    finally:
        # without this thread nobody would ever answer: the server starts another process
        traceback.print_exc()
        os._exit(1)


def _tell(answers: BinaryIO, header: frames.Header, body: Body = b"") -> None:
    answers.write(frames.pack(header, body))
    answers.flush()


def _done(worker: Worker, header: frames.Header, body: Body) -> tuple[frames.Header, Body]:
    try:
        result, answer = worker.run(header, body)
        return {"id": header["id"], "done": result}, answer
    except PrelabelError as error:
        return _failed(header, type(error).__name__, str(error)), b""
    except Exception as error:  # a defect of ours: told, and the process goes on
        log.error("%s", traceback.format_exc())
        return _failed(header, "Defect", f"{type(error).__name__}: {error}"), b""


def _failed(header: frames.Header, kind: str, text: str) -> frames.Header:
    return {"id": header["id"], "failed": {"kind": kind, "text": text}}


if __name__ == "__main__":
    main()
