"""Captured images become tasks whatever Label Studio answers; none is lost, or comes twice."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backend.errors import LabelStudioError
from backend.loop.publish.capture_import import CaptureImporter
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.captures import Capture, CaptureStore
from backend.store.projects import ProjectRecord

CONFIG = (
    '<View><Image name="i" value="$i"/>'
    '<Choices name="c" toName="i"><Choice value="r"/></Choices></View>'
)
RED = [{"from_name": "c", "to_name": "i", "type": "choices", "value": {"choices": ["r"]}}]
NONE: list[dict[str, Any]] = []


class Tiny(ThreadingHTTPServer):
    """As much of Label Studio as this needs, and it fails as it is told to."""

    def __init__(self, home: Path) -> None:
        super().__init__(("127.0.0.1", 0), Call)
        self.home = home
        self.tasks: dict[int, dict[str, Any]] = {}
        self.annotations: dict[int, list[dict[str, Any]]] = {}
        self.predictions: dict[int, list[dict[str, Any]]] = {}
        self.is_locked = False
        """Whether imports lose their predictions, as with a locked database."""
        self.imports: list[tuple[int, bool]] = []
        """What the next imports answer with, and whether they make their task nevertheless."""
        self.sent: list[str] = []

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.sent.append(f"{method} {path.partition('?')[0]}")
        number = int((re.findall(r"/(?:tasks|annotations)/(\d+)/", path) or ["0"])[0])
        if path.startswith("/api/tasks/?"):
            return 200, {"tasks": [{"id": id, "data": data} for id, data in self.tasks.items()]}
        if "commit_to_project" in path:
            return 200, {"file_upload_ids": [1]}
        if "file-uploads" in path:
            return 200, [{"id": 1, "file": "upload/1/x.png"}]
        if "return_task_ids" in path:
            status, makes = self.imports.pop(0) if self.imports else (201, True)
            id = len(self.tasks) + 1
            if makes:
                self.tasks[id], self.annotations[id] = body[0]["data"], []
                self.predictions[id] = [] if self.is_locked else body[0]["predictions"]
            return status, {"task_ids": [id], "prediction_count": len(self.predictions.get(id, []))}
        if path.endswith("/import/predictions"):
            for row in body:
                self.predictions[row["task"]].append(row)
            return 201, {"created": len(body)}
        if path.startswith("/api/projects/1/"):
            return 200, {"label_config": CONFIG}
        if path.startswith("/api/annotations/"):
            (given,) = [a for rows in self.annotations.values() for a in rows if a["id"] == number]
            given["result"] = body["result"]
            return 200, given
        if number not in self.annotations:
            return 404, {"detail": "no such task"}
        if method == "POST":
            self.annotations[number].append({"id": 70 + number, "result": body["result"]})
            return 201, self.annotations[number][-1]
        return 200, self.annotations[number]


class Call(BaseHTTPRequestHandler):
    """One call of it."""

    server: Tiny

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.loads(content) if content.startswith((b"[", b"{")) else None
        status, answer = self.server.answer(self.command, self.path, body)
        told = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_POST = do_PATCH = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Tiny]:
    server = Tiny(tmp_path)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def captures(tmp_path: Path) -> CaptureStore:
    return CaptureStore(tmp_path / "projects" / "1")


def bring(lab: Tiny) -> int:
    url = f"http://127.0.0.1:{lab.server_port}"
    settings = Settings(home=lab.home, label_studio_url=url, api_key="0" * 40)
    session = ProjectSession(Resources(settings), ProjectRecord("1", url, 1))
    return CaptureImporter(session).import_pending()


def kept(captures: CaptureStore, id: str, at: float, **more: Any) -> Capture:
    capture = Capture(id, at, "random", "v1", said={"result": [], "score": 1.0}, **more)
    captures.add(capture, b"image")
    return capture


def test_a_task_that_was_deleted_holds_up_no_newer_image(lab: Tiny, captures: CaptureStore) -> None:
    gone = kept(captures, "a", 1.0, annotation=RED)
    captures.record_import(replace(gone, annotation=None), 55, False)
    for number, id in enumerate("bcd"):
        kept(captures, id, 2.0 + number)
    assert bring(lab) == 4
    assert [data["prelabel_request"] for data in lab.tasks.values()] == ["b", "c", "d"]
    assert list(captures.pending()) == []


def test_an_image_that_label_studio_refuses_waits_and_costs_no_other(
    lab: Tiny, captures: CaptureStore
) -> None:
    lab.imports = [(400, False), (400, False)]  # with the prediction, and without
    for number, id in enumerate("ab"):
        kept(captures, id, float(number), external="bed\x007")
    assert bring(lab) == 1
    assert [capture.id for capture in captures.pending()] == ["a"]
    assert bring(lab) == 1
    assert [data["prelabel_external"] for data in lab.tasks.values()] == ["bed7", "bed7"]


@pytest.mark.parametrize("is_locked", [False, True])
def test_a_task_has_one_prediction_even_if_the_import_lost_it(
    lab: Tiny, captures: CaptureStore, is_locked: bool
) -> None:
    lab.is_locked = is_locked
    kept(captures, "a", 1.0)
    assert bring(lab) == 1
    ((prediction,),) = lab.predictions.values()
    assert (prediction["model_version"], prediction["score"]) == ("v1", 1.0)


def test_a_task_that_was_made_without_saying_so_is_not_made_again(
    lab: Tiny, captures: CaptureStore
) -> None:
    lab.imports = [(504, True)]  # a proxy gave up, Label Studio did not
    kept(captures, "a", 1.0)
    with pytest.raises(LabelStudioError):
        bring(lab)
    assert bring(lab) == 1
    assert len(lab.tasks) == 1


def test_a_later_correction_takes_the_place_of_the_one_that_was_delivered(
    lab: Tiny, captures: CaptureStore, tmp_path: Path
) -> None:
    capture = kept(captures, "a", 1.0, annotation=NONE)
    assert bring(lab) == 1
    assert bring(lab) == 0
    captures.update(replace(capture, annotation=RED))
    assert bring(lab) == 1
    (given,) = lab.annotations[1]
    assert given["result"] == RED
    (note,) = (tmp_path / "projects" / "1" / "returned").glob("*.json")
    note.unlink()  # a crash between the answer and its note
    assert bring(lab) == 1
    assert len(lab.annotations[1]) == 1
