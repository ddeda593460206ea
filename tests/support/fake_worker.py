"""A working process without models: answers with the tasks' own numbers, and notes what was asked,
of an inspection the project's.

A round takes two epochs of such seconds; it is barred while a file ``busy`` lies beside the notes,
cancelled while ``cancelled`` does, and leaves a label waiting while ``waiting`` does.
Arguments: the file to note in, seconds that a task takes, and the niceness.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from backend.scheduler import frames


def main() -> None:
    notes_file, seconds = Path(sys.argv[1]), float(sys.argv[2])
    while (frame := frames.read_frame(sys.stdin.buffer)) is not None:
        header, body = frame
        if header["job"] == "die":
            os._exit(3)
        if header["job"] == "fail":
            failure: dict[str, Any] = {"failed": {"kind": header["kind"], "text": "It failed."}}
            send_frame({"id": header["id"], **failure}, b"")
            continue
        if header["job"] == "inspect":
            append_note(notes_file, [int(header["project"])])
            send_frame({"id": header["id"], "done": 0}, b"")
            continue
        if header["job"] == "round":
            send_frame({"id": header["id"], **run_round(header, notes_file, seconds)}, b"")
            continue
        tasks = [task["id"] for task in json.loads(body)["tasks"]]
        append_note(notes_file, tasks)
        time.sleep(seconds * len(tasks))
        answer = {"results": [{"result": task} for task in tasks], "model_version": "v0"}
        send_frame({"id": header["id"], "done": {"ready": True}}, json.dumps(answer).encode())


def run_round(header: frames.FrameHeader, notes_file: Path, seconds: float) -> dict[str, Any]:
    append_note(notes_file, header["ask"])
    for epoch in (1, 2, 2):
        detail = {"progress": epoch / 2, "detail": f"things: epoch {epoch} of 2"}
        send_frame({"id": header["id"], "state": "training", **detail}, b"")
        time.sleep(seconds)
    if (notes_file.parent / "busy").exists():
        return {"failed": {"kind": "RoundInProgressError", "text": "Another process is at it."}}
    if (notes_file.parent / "cancelled").exists():
        return {"failed": {"kind": "RoundCancelledError", "text": "Training was cancelled."}}
    waiting = int((notes_file.parent / "waiting").exists())
    round_outcome = {
        "waiting": waiting,
        "versions": [],
        "trained": "",
        "controls": [],
        "cleanup": True,
    }
    return {"done": round_outcome}


def append_note(notes_file: Path, value: object) -> None:
    with notes_file.open("a") as file:
        file.write(json.dumps(value) + "\n")


def send_frame(header: frames.FrameHeader, body: bytes) -> None:
    sys.stdout.buffer.write(frames.pack_frame(header, body))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
