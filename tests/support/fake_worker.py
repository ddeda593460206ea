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
    notes, seconds = Path(sys.argv[1]), float(sys.argv[2])
    while (frame := frames.read(sys.stdin.buffer)) is not None:
        header, body = frame
        if header["job"] == "die":
            os._exit(3)
        if header["job"] == "fail":
            done: dict[str, Any] = {"failed": {"kind": header["kind"], "text": "It failed."}}
            tell({"id": header["id"], **done}, b"")
            continue
        if header["job"] == "inspect":
            note(notes, [int(header["project"])])
            tell({"id": header["id"], "done": 0}, b"")
            continue
        if header["job"] == "round":
            tell({"id": header["id"], **turn(header, notes, seconds)}, b"")
            continue
        tasks = [task["id"] for task in json.loads(body)["tasks"]]
        note(notes, tasks)
        time.sleep(seconds * len(tasks))
        answer = {"results": [{"result": task} for task in tasks], "model_version": "v0"}
        tell({"id": header["id"], "done": {"ready": True}}, json.dumps(answer).encode())


def turn(header: frames.Header, notes: Path, seconds: float) -> dict[str, Any]:
    note(notes, header["ask"])
    for epoch in (1, 2, 2):
        detail = {"progress": epoch / 2, "detail": f"things: epoch {epoch} of 2"}
        tell({"id": header["id"], "state": "training", **detail}, b"")
        time.sleep(seconds)
    if (notes.parent / "busy").exists():
        return {"failed": {"kind": "Busy", "text": "Another process is at it."}}
    if (notes.parent / "cancelled").exists():
        return {"failed": {"kind": "Cancelled", "text": "Training was cancelled."}}
    waiting = int((notes.parent / "waiting").exists())
    outcome = {"waiting": waiting, "versions": [], "trained": "", "controls": [], "cleanup": True}
    return {"done": outcome}


def note(notes: Path, value: object) -> None:
    with notes.open("a") as file:
        file.write(json.dumps(value) + "\n")


def tell(header: frames.Header, body: bytes) -> None:
    sys.stdout.buffer.write(frames.pack(header, body))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
