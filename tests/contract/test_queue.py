"""The order in which people are asked, against a real Label Studio."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from backend.label_studio.tabs import LABEL_NEXT_TAB
from backend.learning.audit import is_audit
from backend.loop.publish.queue_order import QUEUE_HEAD_SIZE
from backend.store.projects import ProjectStore, read_outcome
from tests.support.harness import (
    BackendServer,
    LabelStudioUser,
    MakeBackend,
    make_data_uri,
    wait_until,
)

LATER = {"PRELABEL_RETRAIN_AFTER": "1000", "PRELABEL_POLL": "5"}
"""No round while people label; an event that a busy Label Studio never sent is made up for."""


def twins(kind: int, number: int) -> str:
    """Pictures of one kind differ in a few pixels; kinds differ in everything."""
    random = np.random.default_rng(kind)
    coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((64, 64), Image.Resampling.NEAREST)).copy()
    pixels[number, :3] = 255 - pixels[number, :3]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return make_data_uri(file.getvalue())


def queue(lab: LabelStudioUser, backend: BackendServer, project: int) -> list[int]:
    """The open tasks of a project by the score that its queue follows."""
    version = lab.fetch_project(project)["model_version"]
    open_tasks = {t["id"] for t in lab.list_tasks(project) if not t["is_labeled"]}
    rows = [p for p in lab.list_predictions(project) if p["model_version"] == version]
    rows.sort(key=lambda row: row["score"])
    return [row["task"] for row in rows if row["task"] in open_tasks]


def wait_for_queue(backend: BackendServer, project: int, labels: int) -> None:
    """Wait until a round has reordered the queue after this many labels.

    The status counts a label at once, before the round.
    """
    folder = ProjectStore(backend.home).folder(str(project))
    wait_until("the queue is reordered", lambda: read_outcome(folder).labels == labels)


def test_unlike_images_are_asked_first_and_each_kind_is_asked_once(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.create_project()
    tasks = lab.import_images(project, [twins(k, n) for n in range(4) for k in range(8)])
    kinds = dict(zip(tasks, list(range(8)) * 4, strict=True))
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    first = queue(lab, backend, project)[:9]  # one of them may be an audit task
    assert len({kinds[task] for task in first}) == 8


def test_a_label_sends_the_neighbours_back_without_training(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.create_project()
    tasks = lab.import_images(project, [twins(k, n) for n in range(3) for k in range(8)])
    kinds = dict(zip(tasks, list(range(8)) * 3, strict=True))
    lab.connect_backend(project, backend.url)
    version = backend.wait_for_round(project)["version"]
    before = queue(lab, backend, project)
    last = kinds[before[7]]  # of a kind that comes late; its other pictures are at the end
    name = lab.audit_identity(project)
    like = [task for task in before[8:] if kinds[task] == last]
    chosen = next((task for task in like if not is_audit(name, task)), before[7])
    lab.submit_annotation(chosen, "red")

    wait_for_queue(backend, project, 1)
    front = queue(lab, backend, project)[:6]
    assert last not in {kinds[task] for task in front}
    assert backend.project(project)["version"] == version
    served = []
    for labels in range(2, 7):  # and it goes on after each label
        task = lab.next_task(project)["id"]
        served.append(kinds[task])
        lab.submit_annotation(task, "blue")
        wait_for_queue(backend, project, labels)
    assert len(set(served)) == 5
    assert last not in served


def test_next_serves_the_queue_from_its_front(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.create_project()
    lab.import_colours(project, 12)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for count in range(1, QUEUE_HEAD_SIZE):
        wanted = queue(lab, backend, project)[0]
        assert lab.next_task(project)["id"] == wanted
        lab.submit_annotation(wanted)
        wait_for_queue(backend, project, count)


def test_what_is_skipped_makes_room_and_comes_back_for_others_last(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.create_project()
    lab.import_colours(project, 12)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    skipped: list[int] = []
    for _ in range(3):
        task = lab.next_task(project)["id"]
        lab.skip_task(task)
        skipped.append(task)
        wait_until(
            "it is at the back",
            lambda: sorted(queue(lab, backend, project)[-len(skipped) :]) == sorted(skipped),
        )
    front = queue(lab, backend, project)
    assert len(front) == 24, "Label Studio counts them as open"
    assert backend.project(project)["labels"] == 0
    served = lab.next_task(project)["id"]
    assert served == front[0]
    lab.submit_annotation(served)
    backend.train_and_wait(project, 1)
    again = queue(lab, backend, project)
    assert set(again[-3:]) == set(skipped), "also after a whole round"


def test_two_annotators_at_once_get_different_useful_tasks(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    """Each labels several, and the order is brought up to date after each label."""
    backend = make_backend(**LATER)
    colleague = lab.join_by_invitation("ann@example.com")
    project = lab.create_project()
    tasks = lab.import_images(project, [twins(k, n) for n in range(4) for k in range(12)])
    kinds = dict(zip(tasks, list(range(12)) * 4, strict=True))
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    name, done, served = lab.audit_identity(project), 0, [[], []]  # type: ignore[var-annotated]
    for _ in range(4):
        front = queue(lab, backend, project)[:QUEUE_HEAD_SIZE]
        both = [person.next_task(project)["id"] for person in (lab, colleague)]
        assert both[0] != both[1]
        assert set(both) <= set(front), "what the policy wants, also where two are served"
        for person, mine, task in zip((lab, colleague), served, both, strict=True):
            mine.append(task)
            person.submit_annotation(task, "red")
            done += 1
            wait_for_queue(backend, project, done)
    picked = [task for mine in served for task in mine if not is_audit(name, task)]
    assert len({kinds[task] for task in picked}) == len(picked), "no two of them are alike"
    tabs = lab.request("GET", "/api/dm/views/", params={"project": project})
    (tab,) = [tab for tab in tabs if tab["data"]["title"] == LABEL_NEXT_TAB]
    listed = lab.request("GET", "/api/tasks/", params={"view": tab["id"], "project": project})
    assert [task["id"] for task in listed["tasks"]] == queue(lab, backend, project)
    colleague.close()


def test_a_managers_choice_is_set_back_with_a_word_and_kept_where_the_config_says_so(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.create_project()
    lab.import_colours(project, 6)
    lab.connect_backend(project, backend.url)
    version = backend.wait_for_round(project)["version"]
    address = f"/api/projects/{project}/"
    other = {"task": lab.list_tasks(project)[0]["id"], "model_version": "theirs", "result": []}
    lab.request("POST", f"/api/projects/{project}/import/predictions", json=[other])

    def settings() -> tuple[str, str]:
        info = lab.fetch_project(project)
        return info["sampling"], info["model_version"]

    assert "settings_reset" not in backend.project(project), "the first time nobody had chosen"
    lab.request(
        "PATCH", address, json={"sampling": "Sequential sampling", "model_version": "theirs"}
    )
    wait_until("it is set back", lambda: settings() == ("Uncertainty sampling", version))
    wait_until("it is said", lambda: "settings_reset" in backend.project(project))
    page = backend.http.get(f"/projects/{project}", headers={"Accept": "text/html"}).text
    for told in (page, backend.log.read_text()):
        assert "changed to Sequential sampling and the model version theirs" in told
        assert "model_keep_settings" in told

    config = lab.fetch_project(project)["label_config"]
    config = config.replace("<View", '<View model_keep_settings="true"', 1)
    chosen = {"sampling": "Sequential sampling", "model_version": "theirs"}
    lab.request("PATCH", address, json={"label_config": config, **chosen})
    wait_until("nothing is said", lambda: "settings_reset" not in backend.project(project))
    lab.submit_annotation(lab.next_task(project)["id"], "red")
    backend.train_and_wait(project, 1)
    assert settings() == ("Sequential sampling", "theirs")
    rows = [row["model_version"] for row in lab.list_predictions(project)]
    assert rows.count(backend.project(project)["version"]) == len(lab.list_tasks(project)) - 1
