"""What a round accepts of boxes, round by round: a real small network, whose images are looked at
once a version, and a few lines of web server that stand for Label Studio."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backend.card_records import AutoAcceptSection, ModelSource
from backend.domain import Control, Label, Task
from backend.inference.model import save_model
from backend.label_studio.client import MACHINE_USER
from backend.label_studio.labeling_config import LabelingConfig
from backend.learning.audit import is_audit
from backend.learning.auto_accept import is_held_for_review
from backend.loop.observe import Observation, ProjectFingerprint
from backend.loop.publish.publish import Publisher
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.smart_tool_answer import ANSWER_FILE, load_answer, save_answer
from backend.worker.live_predict import predict_tasks
from tests.support import dashboard_homes
from tests.support.drawings import make_drawing
from tests.support.harness import make_data_uri
from tests.support.published_models import train_detector_model

NAME = "p"
LABELS = (Label("disc"), Label("square"))
CONTROL = Control("what", "image", "image", LABELS, "boxes", accept_error=0.5)
OTHERS = [t for t in range(200) if not is_audit(NAME, t) and not is_held_for_review(NAME, t)][:7]


class Studio(http.server.BaseHTTPRequestHandler):
    """Keeps predictions and annotations of one project."""

    predicted: ClassVar[dict[int, str]] = {}
    answered: ClassVar[dict[int, list[dict[str, Any]]]] = {}
    skipped: ClassVar[set[int]] = set()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        task = re.fullmatch(r"api/tasks/(\d+)/annotations", path)
        if path.endswith("model-versions"):
            counts = Counter(self.predicted.values())
            self.answer({"static": [{"model_version": v, "count": n} for v, n in counts.items()]})
        elif path == "api/predictions":
            rows = enumerate(self.predicted.items())
            self.answer([{"id": n, "task": t, "model_version": v} for n, (t, v) in rows])
        elif path == "api/users":
            self.answer(
                [{"email": "a@example.org", "id": 1}, {"email": MACHINE_USER["email"], "id": 2}]
            )
        elif path == "api/tasks":
            rows_ = [{"id": t, "cancelled_annotations": 1} for t in sorted(self.skipped)]
            self.answer({"tasks": rows_})
        elif task:
            self.answer([{"id": 1}] if int(task[1]) in self.answered else [])
        else:
            self.answer({"id": 1, "title": "shapes", "label_config": "<View/>"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        task = re.fullmatch(r"/api/tasks/(\d+)/annotations/", self.path)
        if task:
            self.answered[int(task[1])] = body["result"]
            self.answer({"id": 1})
        else:
            self.predicted.update({row["task"]: row["model_version"] for row in body})
            self.answer({"created": len(body)})

    def do_PATCH(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def answer(self, found: object) -> None:
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Of a home whose live version is sure enough of everything, and may err at times."""
    for kept in (Studio.predicted, Studio.answered, Studio.skipped):
        kept.clear()
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Studio)
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{web.server_port}"
    found = Settings(home=tmp_path, label_studio_url=url, api_key="0" * 40, encoder="builtin")
    resources = Resources(found)
    versions = resources.versions(resources.projects.register(url, 1))
    proven = AutoAcceptSection(error=0.5, level=0.0, audit=100, chance=0.01, reason="It holds.")
    card = replace(dashboard_homes.make_card(0, 10), encoder=ModelSource(), accepting=proven)
    versions.save(card, {}, lambda at: save_model(train_detector_model(CONTROL), at))
    versions.promote(card.version, by="the loop", reason="")
    yield found
    web.shutdown()


def seen() -> Observation:
    tasks = tuple(
        Task(
            id=task,
            images={"image": make_data_uri(make_drawing(1000 + task).to_png())},
            open=task not in Studio.answered,
            auto_accepted=task in Studio.answered,
        )
        for task in OTHERS
    )
    pulse = ProjectFingerprint("", 0, 0, "", "", "", "", "")
    return Observation(pulse, NAME, LabelingConfig((CONTROL,), {}), tasks, Counter())


def present(settings: Settings) -> None:
    """The end of a round, in a new process."""
    resources = Resources(settings)
    (record,) = resources.projects.all()
    session = ProjectSession(resources, record)
    live = session.versions.live()
    assert live is not None
    Publisher(session, lambda *given: None).publish(seen(), live)


def test_boxes_beyond_the_first_answers_of_a_version_are_accepted_by_later_rounds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is looked at once for its prediction, and again when its turn comes."""
    present(settings)
    at_once = dict(Studio.answered)
    assert sorted(at_once) == OTHERS
    assert sum(map(len, at_once.values())) > len(OTHERS), "there is something to find"
    Studio.answered.clear()
    Studio.predicted.clear()
    monkeypatch.setattr("backend.loop.publish.auto_accept.MAX_ACCEPTED_PER_ROUND", 3)
    for done in (3, 6, 7):
        present(settings)
        assert sorted(Studio.answered) == OTHERS[:done]
    assert Studio.answered == at_once, "as if all were given at once"


def test_boxes_are_accepted_after_a_restart_between_push_and_accept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.loop.publish.auto_accept.MAX_ACCEPTED_PER_ROUND", 0)
    present(settings)
    assert len(Studio.predicted) == len(OTHERS)
    assert not Studio.answered
    monkeypatch.undo()
    present(settings)
    assert sorted(Studio.answered) == OTHERS


def test_what_somebody_skipped_meanwhile_is_not_accepted(settings: Settings) -> None:
    """Label Studio lists no skip among a task's annotations."""
    Studio.skipped.update(OTHERS[:2])
    present(settings)
    assert sorted(Studio.answered) == OTHERS[2:]


def test_suggestions_are_returned_if_the_reason_for_none_cannot_be_saved(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    resources = Resources(settings)
    (record,) = resources.projects.all()
    blocked = resources.folder(record) / ANSWER_FILE
    (blocked / "full").mkdir(parents=True)
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["disc"]}
    drawn = {"id": "a", "from_name": "what", "to_name": "image", "type": "rectanglelabels"}
    config = (
        '<View><Image name="image" value="$image"/><RectangleLabels name="what" toName="image">'
        '<Label value="disc"/><Label value="square"/></RectangleLabels></View>'
    )
    request = {
        "tasks": [{"id": 1, "data": {"image": make_data_uri(make_drawing(1).to_png())}}],
        "project": "1",
        "label_config": config,
        "params": {"context": {"result": [{**drawn, "value": value}]}},
    }
    for _ in range(2):
        response = predict_tasks(resources, request)
        assert response is not None
        assert response["results"][0]["result"]
    assert caplog.text.count(ANSWER_FILE) == 1


def test_the_reason_for_no_suggestion_is_only_written_if_it_changed(tmp_path: Path) -> None:
    save_answer(tmp_path, 7, "")
    assert not list(tmp_path.iterdir())
    save_answer(tmp_path, 7, "Nothing is similar.")
    written = (tmp_path / ANSWER_FILE).stat()
    save_answer(tmp_path, 7, "Nothing is similar.")
    assert (tmp_path / ANSWER_FILE).stat().st_ino == written.st_ino
    save_answer(tmp_path, 8, "Nothing is similar.")
    assert load_answer(tmp_path).task == 8
    save_answer(tmp_path, 8, "")
    assert not list(tmp_path.iterdir())
