"""What the dashboard and the commands show in the life of a project, from its labels to its end."""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import os
import re
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from backend.cli.main import main
from backend.cli.projects import find_project, open_session, wait_for_round_lock
from backend.dashboard.page_reader import DashboardReader
from backend.dashboard.rendering import PageRenderer
from backend.errors import LabelStudioError, NotFoundError, ProjectMissingError
from backend.json_records import from_json, to_json
from backend.label_studio.ml_protocol import parse_event
from backend.records import ProjectStatus, RemovedLabel, RoundOutcome, RoundStatus
from backend.runtime.connection import connect
from backend.scheduler.recent_labels import RecentLabels
from backend.settings import Settings
from backend.store.files import write_json
from backend.store.label_answers import LabelAnswer, read_label_answers, save_label_answer
from backend.store.projects import ProjectRecord, ProjectStore, save_outcome
from backend.store.round_state import (
    ROUND_STATE_FILE,
    StoredRoundState,
    published_round,
    read_round_state,
)
from backend.store.versions import VersionStore
from tests.support.dashboard_client import SERVER, page, served, text
from tests.support.dashboard_homes import make_full_home
from tests.support.fake_label_studio import NoProjectRequestHandler

OURS = {"origin": "http://127.0.0.1"}
NO_LABELS: frozenset[tuple[str, str]] = frozenset()
REMOVED = RemovedLabel("plant", "<b>sick</b>", 12)


# -- the buttons of the round -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "buttons"),
    [
        (RoundStatus("idle"), ["Start training"]),
        (RoundStatus("failed", error="No."), ["Start training"]),
        (RoundStatus("training", 0.4), ["Cancel training"]),
        (RoundStatus("training", 0.4, cancelling=True), []),
        (RoundStatus("pushing", 0.4), []),
        (RoundStatus("observing", 0.0, "Waiting for “plants”", waiting=True), []),
    ],
)
def test_start_and_cancel_never_stand_together(
    tmp_path: Path, status: RoundStatus, buttons: list[str]
) -> None:
    html = page(tmp_path, replace(make_full_home(tmp_path), round=status))
    panel = html[html.index('id="now"') : html.index('id="h-curve"')]
    found = re.findall(r"<button[^>]*data-busy[^>]*>([^<]*)</button>", panel)
    assert found == buttons, "a press is shown at once"
    assert len(re.findall("<form", panel)) == len(buttons)


def test_times_are_elements_that_the_browser_localizes(tmp_path: Path) -> None:
    html = page(tmp_path, make_full_home(tmp_path))
    created = "2026-11-05T08:15:00+00:00"
    assert f'<time datetime="{created}">2026-11-05 08:15 UTC</time>' in html
    without_times = re.sub(r"<time.*?</time>", "", html)
    assert not re.search(r"\d\d:\d\d", without_times)
    assert "local_times.js" in html


# -- labels -----------------------------------------------------------------------------------


def test_labels_count_until_a_round_has_read_them() -> None:
    labels = RecentLabels()
    labels.add({1: frozenset({("colour", "red")})})
    labels.start_round()
    assert (len(labels), labels.since_start) == (1, 0)
    labels.add({2: NO_LABELS})
    labels.note_state("observing")
    labels.note_state("training")
    labels.add({2: NO_LABELS, 3: NO_LABELS})
    labels.note_state("pushing")
    assert (len(labels), labels.since_start) == (3, 2)
    labels.finish_round(is_full=False)
    assert (len(labels), labels.since_start) == (1, 0), "the third was not in the snapshot"
    assert labels.uncounted.keys() == {1, 2, 3}, "only a full round counts examples of labels"
    labels.start_round()
    labels.note_state("training")
    labels.start_round()  # the round failed, and is repeated
    assert len(labels) == 1
    labels.finish_round(is_full=True)
    assert (len(labels), labels.uncounted) == (0, {})


@pytest.mark.parametrize(
    ("body", "tasks"),
    [
        (b'{"action": "ANNOTATION_CREATED", "annotation": {"task": 4}, "task": {"id": 4}}', {4}),
        (
            b'{"action": "ANNOTATION_CREATED", "annotation": {"task": 4}, '
            b'"task": {"id": 4, "total_annotations": 2}}',
            set(),
        ),
        (
            b'{"action": "ANNOTATIONS_CREATED", "annotation": [{"task": 4}, {"task": 5}, 7], '
            b'"task": [{"id": 4, "total_annotations": 1}, {"id": 5}]}',
            {4, 5},
        ),
        (
            b'{"action": "ANNOTATION_CREATED", "annotation": '
            b'{"task": 4, "completed_by": 9, "updated_by": 1}, "task": {"id": 4}}',
            set(),
        ),
        (b'{"action": "ANNOTATION_UPDATED", "annotation": {"task": 4}}', set()),
        (b'{"action": "ANNOTATION_CREATED", "annotation": {"task": [4]}, "task": 3}', set()),
    ],
)
def test_tasks_with_a_first_annotation_are_read_from_events(body: bytes, tasks: set[int]) -> None:
    assert parse_event(body).labeled_tasks.keys() == tasks


def test_labels_are_read_from_events() -> None:
    result = [
        {"from_name": "colour", "type": "choices", "value": {"choices": ["red", 5]}},
        {"from_name": "box", "type": "rectanglelabels", "value": {"rectanglelabels": ["ant"]}},
        {"from_name": "box", "type": "rectanglelabels", "value": {"rectanglelabels": ["ant"]}},
        {"from_name": "note", "type": "textarea", "value": {"text": ["red"]}},
        7,
    ]
    body = {"action": "ANNOTATION_CREATED", "annotation": {"task": 4, "result": result}}
    labels = parse_event(json.dumps(body).encode()).labeled_tasks
    assert labels == {4: {("colour", "red"), ("box", "ant")}}


def test_the_page_asks_what_happens_to_annotations_with_a_removed_label(tmp_path: Path) -> None:
    status = replace(make_full_home(tmp_path), removed_labels=(REMOVED,))
    html = page(tmp_path, status)
    question = "12 annotations use “<b>sick</b>” of plant, which the labeling config no longer has."
    assert question in text(html).replace("&lt;", "<").replace("&gt;", ">")
    assert "<b>sick" not in html
    assert re.findall(r'<option value="(\w[^"]*)"', html) == [
        "to healthy",
        "to wilting",
        "to dead",
        "leave",
    ]
    folder = tmp_path / "projects" / "1"
    save_label_answer(folder, LabelAnswer("plant", REMOVED.label, "dead"))
    assert "They get the label dead in the next round." in text(page(tmp_path, status))
    save_label_answer(folder, LabelAnswer("plant", REMOVED.label, ""))
    assert "h-removed" not in page(tmp_path, status)


def test_the_answer_about_a_removed_label_is_checked_and_saved(tmp_path: Path) -> None:
    status = make_full_home(tmp_path)
    outcome = RoundOutcome(controls=status.controls, removed_labels=(REMOVED,))
    folder = tmp_path / "projects" / "1"
    save_outcome(folder, outcome)
    fields = {"control": "plant", "label": REMOVED.label}

    async def ask(client: httpx.AsyncClient) -> None:
        async def answer(**changes: str) -> int:
            form = fields | changes
            return (await client.post("/projects/1/labels", data=form, headers=OURS)).status_code

        assert await answer(new="to ash") == 409, "the config does not have it"
        assert await answer(new="") == 409
        assert await answer(new="to dead", label="other") == 404
        assert await answer(new="x" * 70_000) == 409
        assert read_label_answers(folder) == ()
        done = await client.post(
            "/projects/1/labels", data=fields | {"new": "to dead"}, headers=OURS
        )
        assert (done.status_code, done.headers["location"]) == (303, "../1?done=labels")
        assert read_label_answers(folder) == (LabelAnswer("plant", REMOVED.label, "dead"),)
        assert await answer(new="leave") == 303
        assert read_label_answers(folder) == (LabelAnswer("plant", REMOVED.label, ""),)

    served(tmp_path, ask)


# -- versions ---------------------------------------------------------------------------------


def test_roll_back_asks_first_and_says_what_will_happen(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path)
    versions = VersionStore(tmp_path / "projects" / "1")
    save_outcome(tmp_path / "projects" / "1", RoundOutcome(tasks=600, labels=180))

    async def ask(client: httpx.AsyncClient) -> None:
        project = (await client.get("/projects/1")).text
        assert 'href="../projects/1/confirm/v3-0123abcd">Roll back to v3-0123abcd</a>' in project
        html = (await client.get("/projects/1/confirm/v3-0123abcd")).text
        told = text(html)
        assert "Roll back to v3-0123abcd?" in told
        assert "v4-0123abcd live now" in told
        assert "v3-0123abcd becomes the live version, here and at the endpoint." in told
        assert "The predictions of all 420 open tasks in Label Studio are replaced" in told
        assert 'action="../../../projects/1/rollback?to=v3-0123abcd"' in html
        assert versions.live() == shown.version, "nothing has happened yet"
        other = (await client.get("/projects/1/confirm/v1-0123abcd")).text
        assert "Promote v1-0123abcd?" in text(other)
        assert 'action="../../../projects/1/promote/v1-0123abcd"' in other
        assert (await client.get("/projects/1/confirm/v99")).status_code == 404
        outdated = await client.post("/projects/1/rollback?to=v1-0123abcd", headers=OURS)
        assert (outdated.status_code, versions.live()) == (409, shown.version)
        done = await client.post("/projects/1/rollback?to=v3-0123abcd", headers=OURS)
        assert (done.status_code, versions.live()) == (303, "v3-0123abcd")

    served(tmp_path, ask)


# -- projects ---------------------------------------------------------------------------------


def test_projects_of_one_title_are_told_apart(tmp_path: Path) -> None:
    names = [("Greenhouse", 1), ("Greenhouse", 2), ("Kiwis", 3)]
    rows = [make_full_home(tmp_path, 2, title=title, id=id) for title, id in names]
    reader = DashboardReader(tmp_path, SERVER)
    told = text(PageRenderer(10).cards(reader.summaries(rows)))
    assert "Greenhouse project 1 " in told
    assert "Greenhouse project 2 " in told
    assert "Kiwis project" not in told
    rows[1] = replace(rows[1], server="http://other.example", number=1)
    told = text(PageRenderer(10).cards(reader.summaries(rows)))
    assert "project 1 at http://label.example" in told
    assert "project 1 at http://other.example" in told


def test_a_deleted_project_is_removed_at_the_given_time_or_at_once_if_asked(tmp_path: Path) -> None:
    make_full_home(tmp_path)
    projects = ProjectStore(tmp_path)

    async def ask(client: httpx.AsyncClient) -> None:
        early = await client.post("/projects/1/leave", headers=OURS)
        assert early.status_code == 409, "Label Studio has it"
        record = projects.set_missing("1")
        for _ in range(100):  # the home folder is read every second
            html = (await client.get("/", headers={"accept": "text/html"})).text
            if "was deleted in Label Studio" in html:
                break
            await asyncio.sleep(0.1)
        assert f'<time datetime="{record.removed_at}">' in html
        assert "Start training" not in (await client.get("/projects/1")).text
        left = await client.post("/projects/1/leave", headers=OURS)
        assert (left.status_code, left.headers["location"]) == (303, "../../?done=leave")
        assert (await client.get("/api/projects")).json() == []
        assert (await client.get("/projects/1")).status_code == 404

    served(tmp_path, ask)
    assert len(VersionStore(projects.folder("1")).names()) == 6, "its versions stay"
    with pytest.raises(NotFoundError, match="none yet"):
        find_project(Settings(home=tmp_path), "")
    assert find_project(Settings(home=tmp_path), "1").is_removed, "prelabel forget 1 finds it"


def test_a_project_is_missing_only_if_every_known_address_answers_so() -> None:
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NoProjectRequestHandler)
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    server = f"http://127.0.0.1:{web.server_port}"
    record = ProjectRecord("1", server, 1, created=5)
    away = "http://127.0.0.1:9"
    try:
        with pytest.raises(ProjectMissingError, match="has no project 1"):
            connect(record, "token", Settings(label_studio_url=away))
        with pytest.raises(LabelStudioError, match="cannot be reached") as failed:
            connect(record, "token", Settings(label_studio_url=away, api_key="key"))
        assert not isinstance(failed.value, ProjectMissingError)
    finally:
        web.shutdown()


# -- rounds of other processes ----------------------------------------------------------------


def test_the_state_of_a_round_is_published_while_its_process_lives(tmp_path: Path) -> None:
    told: list[str] = []
    with published_round(tmp_path, lambda *state: told.append(state[0])) as report:
        report("training", 0.25, "leaves: epoch 1 of 4")
        assert read_round_state(tmp_path) == RoundStatus("training", 0.25, "leaves: epoch 1 of 4")
        stored = (tmp_path / ROUND_STATE_FILE).read_bytes()
    assert (told, read_round_state(tmp_path)) == (["training"], None)
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / ROUND_STATE_FILE).write_bytes(
        stored.replace(f'"process": {os.getpid()}'.encode(), f'"process": {ended.pid}'.encode())
    )
    assert read_round_state(tmp_path) is None, "its process was killed"
    (tmp_path / ROUND_STATE_FILE).write_text("{")
    assert read_round_state(tmp_path) is None
    elsewhere = StoredRoundState(RoundStatus("training"), 1, "another machine", at=1.0)
    write_json(tmp_path / ROUND_STATE_FILE, to_json(elsewhere))
    assert read_round_state(tmp_path) is None, "it is too old"


def test_commands_show_and_wait_for_the_round_of_another_process(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    settings = Settings(home=tmp_path)
    record = ProjectStore(tmp_path).register("http://127.0.0.1:9", 1)
    monkeypatch.setattr("backend.cli.projects.ROUND_LOCK_POLL_SECONDS", 0.05)
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))
    first, second = (open_session(settings, record) for _ in range(2))
    release = threading.Event()
    waiting = threading.Thread(target=lambda: release.wait(10))
    with first.round_lock(), published_round(first.folder, lambda *state: None) as report:
        report("training", 0.25, "leaves: epoch 1 of 4, about 3 min left")
        assert main(["status", "1", "--backend", "http://127.0.0.1:9"]) == 0
        shown = capsys.readouterr().out
        assert "now: Training 25%  leaves: epoch 1 of 4, about 3 min left" in shown

        def wait() -> None:
            with wait_for_round_lock(second):
                release.set()

        other = threading.Thread(target=wait)
        other.start()
        waiting.start()
        while not caplog.records:
            waiting.join(0.01)
        assert not release.is_set()
    other.join(10)
    assert release.is_set()
    (message,) = [record.message for record in caplog.records]
    assert message == (
        "Another process works on project 1 (training 25%  leaves: epoch 1 of 4, about 3 min "
        "left). This command waits for it."
    )


def test_status_shows_removed_labels_and_deleted_projects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))
    projects = ProjectStore(tmp_path)
    projects.register("http://127.0.0.1:9", 1)
    save_outcome(
        projects.folder("1"), RoundOutcome(removed_labels=(RemovedLabel("a", "pants", 1),))
    )
    record = projects.set_missing("1")
    assert main(["status", "--backend", "http://127.0.0.1:9"]) == 0
    told = capsys.readouterr().out
    assert "1 annotation uses “pants”, which the labeling config no longer has." in told
    assert "`prelabel rename 1 pants NEW`" in told
    assert f"removed from this list on {record.removed_at[:10]} " in told
    assert from_json(ProjectStatus, to_json(record.status(RoundOutcome()))).removed_at
