"""A worker process without models: predicts the tasks' own numbers, and notes its requests.

Of a label check and of a publication it notes the project. A warm-up of version ``die`` ends the
process, and one of another version fails with the error of that name. A round takes two epochs of
some seconds. It fails as in progress elsewhere while a file ``busy`` exists beside the notes, is
cancelled while ``cancelled`` does, fails as for a deleted project while ``missing`` does, and
leaves one label waiting while ``waiting`` does. While ``long`` exists, a worker for quick work
refuses the round. While ``hold-<project>`` exists, the round goes on.
Arguments: the file for the notes, seconds per task or epoch, and the niceness.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from backend.json_records import JsonObject, to_json
from backend.records import RoundOutcome
from backend.scheduler import frames
from backend.scheduler.jobs import (
    CleanupJob,
    LabelCheckJob,
    PreloadJob,
    PublishJob,
    RoundJob,
    WarmUpJob,
    job_from_json,
)


def main() -> None:
    notes_file, seconds = Path(sys.argv[1]), float(sys.argv[2])
    for line in (f"Detector: of {notes_file}", "busy", "10%\r100%"):
        print(line, file=sys.stderr, flush=True)
    while (frame := frames.read_frame(sys.stdin.buffer)) is not None:
        header, body = frame
        job = job_from_json(header)
        match job:
            case WarmUpJob(version="die"):
                os._exit(3)
            case WarmUpJob():
                failure: JsonObject = {"failed": {"kind": job.version, "text": "It failed."}}
                send_frame({"id": header["id"], **failure}, b"")
                continue
            case PublishJob():
                append_note(notes_file, {"published": job.project})
                send_frame({"id": header["id"], "done": None}, b"")
                continue
            case CleanupJob() | PreloadJob():
                send_frame({"id": header["id"], "done": 0}, b"")
                continue
            case LabelCheckJob():
                append_note(notes_file, [int(job.project)])
                send_frame({"id": header["id"], "done": 0}, b"")
                continue
            case RoundJob():
                result = run_round(header["id"], job, notes_file, seconds)
                send_frame({"id": header["id"], **result}, b"")
                continue
        tasks = [task["id"] for task in json.loads(body)["tasks"]]
        append_note(notes_file, tasks)
        time.sleep(seconds * len(tasks))
        answer = {"results": [{"result": task} for task in tasks], "model_version": "v0"}
        send_frame({"id": header["id"], "done": {"ready": True}}, json.dumps(answer).encode())


def run_round(id: int, job: RoundJob, notes_file: Path, seconds: float) -> JsonObject:
    folder = notes_file.parent
    if job.request.quick and (folder / "long").exists():
        return {"failed": {"kind": "LongRoundError", "text": "It takes minutes."}}
    append_note(notes_file, to_json(job.request) | {"project": job.project})
    for epoch in (1, 2, 2):
        detail = {"progress": epoch / 2, "detail": f"things: epoch {epoch} of 2"}
        send_frame({"id": id, "state": "training", **detail}, b"")
        time.sleep(seconds)
    while (folder / f"hold-{job.project}").exists():
        time.sleep(0.01)
    if (folder / "missing").exists():
        return {"failed": {"kind": "ProjectMissingError", "text": "It has no project 1."}}
    if (folder / "busy").exists():
        return {"failed": {"kind": "RoundInProgressError", "text": "Another process is at it."}}
    if (folder / "cancelled").exists():
        return {"failed": {"kind": "RoundCancelledError", "text": "Training was cancelled."}}
    waiting = int((folder / "waiting").exists())
    return {"done": to_json(RoundOutcome(waiting=waiting, cleanup=True))}


def append_note(notes_file: Path, value: object) -> None:
    with notes_file.open("a") as file:
        file.write(json.dumps(value) + "\n")


def send_frame(header: JsonObject, body: bytes) -> None:
    sys.stdout.buffer.write(frames.pack_frame(header, body))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
