"""A rename with a few lines of web server that stand for Label Studio and refuse some changes."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backend.errors import LabelStudioError
from backend.label_studio.annotation_relabeling import LabelRename, RenameCounts
from backend.loop.observe import Observation, fetch_fingerprint, observe
from backend.loop.rename_label import apply_label_answers, rename_label
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.annotation_times import AnnotationTimes
from backend.store.label_answers import LabelAnswer, read_label_answers, save_label_answer
from backend.store.projects import ProjectRecord
from backend.store.wake import consume_wake

CHOICES = '<Choice value="{}"/>'
CONFIG = (
    '<View><Image name="i" value="$i"/><Choices name="c" toName="i">'
    f'{CHOICES.format("red")}<Choice value="blue"/></Choices></View>'
)
LATER = "2090-01-01T00:00:00Z"
RENAME = LabelRename("", "red", "crimson")


def answer_of(label: str) -> list[dict[str, Any]]:
    return [{"from_name": "c", "to_name": "i", "type": "choices", "value": {"choices": [label]}}]


class RenameServer(ThreadingHTTPServer):
    """A project with one annotation per task, and two drafts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.config = CONFIG
        self.annotations: dict[int, dict[str, Any]] = {
            id: {"id": id, "result": answer_of("red"), "updated_at": f"2026-01-0{id}T00:00:00Z"}
            for id in (1, 2, 3)
        }
        self.drafts: dict[int, dict[str, Any]] = {
            id: {"id": id, "result": answer_of("red")} for id in (1, 2)
        }
        self.refused: dict[str, int] = {}
        """What is refused, as METHOD and the path's start → the status."""

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        path = path.partition("?")[0].removeprefix("/api").rstrip("/") + "/"
        for start, status in self.refused.items():
            if f"{method} {path}".startswith(start):
                return status, {"detail": "no"}
        number = int((re.findall(r"/(?:annotations|drafts|tasks)/(\d+)/", path) or ["0"])[0])
        if path == "/projects/1/":
            self.config = body["label_config"] if body else self.config
            return 200, {"id": 1, "label_config": self.config}
        if path == "/projects/counts/":
            return 200, {"results": [{"total_annotations_number": len(self.annotations)}]}
        if path == "/tasks/":
            return 200, {"tasks": self.list_tasks()}
        if path.startswith("/tasks/"):
            return 200, [self.drafts[number]] if number in self.drafts else []
        if path == "/users/":
            return 200, []
        kept = self.annotations if path.startswith("/annotations/") else self.drafts
        if body:
            kept[number] |= {"result": body["result"], "updated_at": LATER}
        return 200, kept[number]

    def list_tasks(self) -> list[dict[str, Any]]:
        """Annotation 4 is a second one of the first task."""
        rows: dict[int, dict[str, Any]] = {
            id: {"id": id, "data": {}, "is_labeled": True, "updated_at": LATER, "annotations": []}
            for id in (1, 2, 3)
        }
        for id, annotation in self.annotations.items():
            rows[(id - 1) % 3 + 1]["annotations"].append(annotation)
        return list(rows.values())

    def labels(self) -> list[str]:
        rows = [*self.annotations.values(), *self.drafts.values()]
        return [row["result"][0]["value"]["choices"][0] for row in rows]


class Request(BaseHTTPRequestHandler):
    """One request to it."""

    server: RenameServer

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        status, answer = self.server.answer(
            self.command, self.path, json.loads(content) if content else None
        )
        self.send_response(status)
        body = json.dumps(answer).encode()
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PATCH = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[RenameServer]:
    monkeypatch.setattr("backend.label_studio.api_session.MAX_RETRIES", 0)
    server = RenameServer()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def session(lab: RenameServer, tmp_path: Path) -> ProjectSession:
    url = f"http://127.0.0.1:{lab.server_port}"
    settings = Settings(home=tmp_path, label_studio_url=url, api_key="0" * 40)
    return ProjectSession(Resources(settings), ProjectRecord("1", url, 1))


def rename(session: ProjectSession) -> RenameCounts:
    return rename_label(session, RENAME, lambda done, total: None)


def look(session: ProjectSession) -> Observation:
    """Observe the project as a round does."""
    return observe(session.connection, session.folder, fetch_fingerprint(session.connection))


def run_answers(session: ProjectSession) -> int:
    """Carry out the decisions as a round does."""
    return apply_label_answers(session, lambda state, progress, detail: None)


@pytest.mark.parametrize("status", [400, 403, 413, 500])
def test_what_is_refused_stays_and_the_next_round_tries_again(
    lab: RenameServer, session: ProjectSession, status: int
) -> None:
    lab.refused = {"PATCH /annotations/2/": status, "PATCH /drafts/1/": status}
    counts = rename(session)
    assert (counts.annotations, counts.drafts) == (2, 1)
    assert (counts.refused_annotations, counts.refused_drafts, counts.refused) == (1, 1, 2)
    assert counts.reason
    assert lab.labels() == ["crimson", "red", "crimson", "red", "crimson"]
    assert CHOICES.format("red") in lab.config, "annotations still use it"
    assert run_answers(session) == 0, "the round goes on"
    assert read_label_answers(session.folder) == (LabelAnswer("c", "red", "crimson", True),)
    lab.refused = {}
    assert run_answers(session) == 1
    assert set(lab.labels()) == {"crimson"}
    assert lab.config == CONFIG.replace("red", "crimson")
    assert read_label_answers(session.folder) == ()


@pytest.mark.parametrize("request_start", ["PATCH /projects/1/", "GET /projects/counts/"])
def test_a_rename_that_is_refused_whole_stops_no_round(
    lab: RenameServer, session: ProjectSession, request_start: str
) -> None:
    lab.refused = {request_start: 403}
    answer = LabelAnswer("c", "red", "crimson", keeps_old=True)
    save_label_answer(session.folder, answer)
    assert run_answers(session) == 0
    assert read_label_answers(session.folder) == (answer,)


@pytest.mark.parametrize("start", ["PATCH /annotations/2/", "PATCH /drafts/1/"])
def test_a_refused_token_stops_the_rename(
    lab: RenameServer, session: ProjectSession, start: str
) -> None:
    lab.refused = {start: 401}
    with pytest.raises(LabelStudioError):
        rename(session)
    with pytest.raises(LabelStudioError):
        run_answers(session)
    assert len(read_label_answers(session.folder)) == 1


def test_a_rename_implies_nothing_about_later_labels_and_decides_no_vote(
    lab: RenameServer, session: ProjectSession
) -> None:
    lab.annotations[4] = {
        "id": 4,
        "result": answer_of("blue"),
        "updated_at": "2026-02-01T00:00:00Z",
    }
    look(session)
    lab.config = CONFIG.replace("</Choices>", CHOICES.format("green") + "</Choices>")
    before = look(session).tasks
    assert rename(session).annotations == 3
    after = look(session).tasks
    old, new = frozenset({"red", "blue"}), frozenset({"crimson", "blue"})
    assert [task.available_labels for task in before] == [{"c": old}] * 3, "green was added later"
    assert [task.available_labels for task in after] == [{"c": new}] * 3
    assert [(task.choices or {})["c"] for task in before] == [{"blue"}, {"red"}, {"red"}]
    assert [(task.choices or {})["c"] for task in after] == [{"blue"}, {"crimson"}, {"crimson"}]


def test_only_renames_do_not_count_as_an_update(
    lab: RenameServer, session: ProjectSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.label_studio.annotation_relabeling.REPORT_SIZE", 2)
    rename(session)
    lab.annotations[2]["updated_at"] = edited = "2090-06-01T00:00:00Z"
    rename_label(session, LabelRename("c", "crimson", "scarlet"), lambda done, total: None)
    restored = AnnotationTimes(session.folder).restore(lab.annotations.values())
    times = [annotation["updated_at"] for annotation in restored]
    assert times == ["2026-01-01T00:00:00Z", edited, "2026-01-03T00:00:00Z"]
    lab.annotations[1]["updated_at"] = edited
    (first, *_) = AnnotationTimes(session.folder).restore(lab.annotations.values())
    assert first["updated_at"] == edited, "a person changed it after the rename"


def test_the_times_of_an_interrupted_rename_are_kept(
    lab: RenameServer, session: ProjectSession
) -> None:
    lab.refused = {"GET /annotations/2/": 401}
    with pytest.raises(LabelStudioError):
        rename(session)
    (first, *_) = AnnotationTimes(session.folder).restore(lab.annotations.values())
    assert (lab.annotations[1]["updated_at"], first["updated_at"]) == (
        LATER,
        "2026-01-01T00:00:00Z",
    )


@pytest.mark.parametrize(
    "refused", [{}, {"GET /annotations/2/": 401}, {"GET /tasks/1/drafts/": 401}]
)
def test_the_training_that_a_rename_needs_is_requested_even_if_it_is_interrupted(
    lab: RenameServer, session: ProjectSession, refused: dict[str, int]
) -> None:
    lab.refused = refused
    save_label_answer(session.folder, LabelAnswer("c", "red", "crimson"))
    with contextlib.suppress(LabelStudioError):
        run_answers(session)
    assert consume_wake(session.folder) == (True, True)


def test_a_rename_that_is_refused_again_wakes_no_further_round(
    lab: RenameServer, session: ProjectSession
) -> None:
    lab.refused = {"PATCH /annotations/2/": 413}
    rename(session)
    assert consume_wake(session.folder) == (True, True)
    assert run_answers(session) == 0
    assert consume_wake(session.folder) == (False, False), "it would never end"
