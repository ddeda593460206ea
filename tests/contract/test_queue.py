"""The order in which people are asked, against a real Label Studio."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from backend.learning.audit import is_audit
from backend.loop.publish.publish import TAB
from backend.loop.publish.queue_order import HEAD
from tests.conftest import MakeBackend
from tests.support.harness import Backend, Lab, data_uri, until

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
    return data_uri(file.getvalue())


def queue(lab: Lab, backend: Backend, project: int) -> list[int]:
    """The open tasks of a project by the score that its queue follows."""
    version = lab.info(project)["model_version"]
    open_tasks = {t["id"] for t in lab.tasks(project) if not t["is_labeled"]}
    rows = [p for p in lab.predictions(project) if p["model_version"] == version]
    rows.sort(key=lambda row: row["score"])
    return [row["task"] for row in rows if row["task"] in open_tasks]


def test_unlike_images_are_asked_first_and_each_kind_is_asked_once(
    lab: Lab, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.project()
    tasks = lab.add_raw(project, [twins(k, n) for n in range(4) for k in range(8)])
    kinds = dict(zip(tasks, list(range(8)) * 4, strict=True))
    lab.connect(project, backend.url)
    backend.settled(project)
    first = queue(lab, backend, project)[:9]  # one of them may be an audit task
    assert len({kinds[task] for task in first}) == 8


def test_a_label_sends_the_neighbours_back_without_training(
    lab: Lab, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.project()
    tasks = lab.add_raw(project, [twins(k, n) for n in range(3) for k in range(8)])
    kinds = dict(zip(tasks, list(range(8)) * 3, strict=True))
    lab.connect(project, backend.url)
    version = backend.settled(project)["version"]
    before = queue(lab, backend, project)
    last = kinds[before[7]]  # of a kind that comes late; its other pictures are at the end
    name = lab.identity(project)
    like = [task for task in before[8:] if kinds[task] == last]
    chosen = next((task for task in like if not is_audit(name, task)), before[7])
    lab.label(chosen, "red")

    def counted(labels: int) -> None:
        until("the queue knows", lambda: backend.project(project)["labels"] == labels)

    counted(1)
    front = queue(lab, backend, project)[:6]
    assert last not in {kinds[task] for task in front}
    assert backend.project(project)["version"] == version
    served = []
    for labels in range(2, 7):  # and it goes on after each label
        task = lab.next(project)["id"]
        served.append(kinds[task])
        lab.label(task, "blue")
        counted(labels)
    assert len(set(served)) == 5
    assert last not in served


def test_next_serves_the_queue_from_its_front(lab: Lab, make_backend: MakeBackend) -> None:
    backend = make_backend(**LATER)
    project = lab.project()
    lab.add(project, 12)
    lab.connect(project, backend.url)
    backend.settled(project)
    for count in range(1, HEAD):
        wanted = queue(lab, backend, project)[0]
        assert lab.next(project)["id"] == wanted
        lab.label(wanted)
        until("seen", lambda count=count: backend.project(project)["labels"] == count)  # type: ignore[misc]


def test_what_is_skipped_makes_room_and_comes_back_for_others_last(
    lab: Lab, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.project()
    lab.add(project, 12)
    lab.connect(project, backend.url)
    backend.settled(project)
    skipped: list[int] = []
    for _ in range(3):
        task = lab.next(project)["id"]
        lab.skip(task)
        skipped.append(task)
        until(
            "it is at the back",
            lambda: sorted(queue(lab, backend, project)[-len(skipped) :]) == sorted(skipped),
        )
    front = queue(lab, backend, project)
    assert len(front) == 24, "Label Studio counts them as open"
    assert backend.project(project)["labels"] == 0
    served = lab.next(project)["id"]
    assert served == front[0]
    lab.label(served)
    backend.learn(project, 1)
    again = queue(lab, backend, project)
    assert set(again[-3:]) == set(skipped), "also after a whole round"


def test_two_annotators_at_once_get_different_useful_tasks(
    lab: Lab, make_backend: MakeBackend
) -> None:
    """Each labels several, and the order is brought up to date after each label."""
    backend = make_backend(**LATER)
    colleague = lab.colleague("ann@example.com")
    project = lab.project()
    tasks = lab.add_raw(project, [twins(k, n) for n in range(4) for k in range(12)])
    kinds = dict(zip(tasks, list(range(12)) * 4, strict=True))
    lab.connect(project, backend.url)
    backend.settled(project)
    name, done, served = lab.identity(project), 0, [[], []]  # type: ignore[var-annotated]
    for _ in range(4):
        front = queue(lab, backend, project)[:HEAD]
        both = [person.next(project)["id"] for person in (lab, colleague)]
        assert both[0] != both[1]
        assert set(both) <= set(front), "what the policy wants, also where two are served"
        for person, mine, task in zip((lab, colleague), served, both, strict=True):
            mine.append(task)
            person.label(task, "red")
            done += 1
            until("seen", lambda done=done: backend.project(project)["labels"] == done)  # type: ignore[misc]
    picked = [task for mine in served for task in mine if not is_audit(name, task)]
    assert len({kinds[task] for task in picked}) == len(picked), "no two of them are alike"
    tabs = lab.call("GET", "/api/dm/views/", params={"project": project})
    (tab,) = [tab for tab in tabs if tab["data"]["title"] == TAB]
    listed = lab.call("GET", "/api/tasks/", params={"view": tab["id"], "project": project})
    assert [task["id"] for task in listed["tasks"]] == queue(lab, backend, project)
    colleague.close()
