"""The order of open tasks, and how labels between rounds change it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from backend.domain import Control, Label, Task
from backend.label_studio.config import ReadConfig
from backend.learning.audit import is_audit
from backend.learning.selection import Floats
from backend.loop.observe import Observation, Pulse
from backend.loop.ordering import Order, examples, order_of

CONTROL = Control("colour", "image", "image", (Label("red"), Label("blue")))
PULSE = Pulse("", 0, 0, "", "", "", "", "")


def seen(count: int, labeled: dict[int, str]) -> Observation:
    tasks = tuple(
        Task(
            id=i,
            images={"image": f"{i}.png"},
            open=i not in labeled,
            answers={"colour": frozenset({labeled[i]})} if i in labeled else None,
        )
        for i in range(count)
    )
    return Observation(PULSE, "p", ReadConfig((CONTROL,), {}), tasks, Counter())


def vectors(count: int) -> dict[int, Floats]:
    """Task i looks like all others with the same i modulo 10."""
    random = np.random.default_rng(0)
    kinds = random.standard_normal((10, 16))
    found = kinds[np.arange(count) % 10] + 0.3 * random.standard_normal((count, 16))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return dict(enumerate(found.astype(np.float32)))


def ordered(count: int = 100, labeled: dict[int, str] | None = None, **more: list[int]) -> Order:
    sought = more.get("sought", [])
    return order_of(seen(count, labeled or {}), vectors(count), {}, sought, seed=0)


def test_every_open_task_is_ranked_once_and_the_audit_slice_stands_between() -> None:
    order = ordered()
    tasks = order.tasks()
    assert sorted(tasks) == list(range(100))
    audit = [task for task in range(100) if is_audit("p", task)]
    assert sum(task in audit for task in tasks[:30]) == min(3, len(audit))


def test_the_first_tasks_are_of_different_kinds() -> None:
    pool = [task for task in ordered().tasks() if not is_audit("p", task)]
    assert len({task % 10 for task in pool[:7]}) == 7


def test_a_labeled_task_leaves_and_its_kind_falls_back() -> None:
    order = ordered()
    first = next(task for task in order.tasks() if not is_audit("p", task))
    order.learned([first, 10**6])
    after = [task for task in order.tasks() if not is_audit("p", task)]
    assert first not in after
    assert all(task % 10 != first % 10 for task in after[:5])
    assert (order.labeled, order.audit_labeled) == (1, 0)
    order.learned([first])
    assert order.labeled == 1, "the same label is counted once"


def test_an_audit_label_is_counted_and_teaches_nothing() -> None:
    order = ordered()
    near = order.coverage.near.copy()
    audit = next(iter(order.audit))
    order.learned([audit])
    assert order.audit_labeled == 1
    assert audit not in order.tasks()
    assert (order.coverage.near == near).all()


def test_tasks_that_may_show_a_label_without_an_example_get_every_fourth_place() -> None:
    pool = [task for task in range(100) if not is_audit("p", task)]
    order = ordered(labeled={pool[0]: "red"}, sought=[pool[70], pool[80]])
    front = [task for task in order.tasks()[:12] if not is_audit("p", task)]
    assert {pool[70], pool[80]} <= set(front)


def test_a_task_whose_image_cannot_be_read_is_open_and_not_ranked() -> None:
    known = vectors(50)
    del known[7]
    order = order_of(seen(50, {}), known, {}, [], seed=0)
    assert 7 in order.open
    assert 7 not in order.tasks()


def test_examples_are_counted_by_image_without_the_audit_slice() -> None:
    audit = [task for task in range(100) if is_audit("p", task)]
    pool = [task for task in range(100) if not is_audit("p", task)]
    labeled = {audit[0]: "blue", pool[0]: "red", pool[1]: "red", pool[2]: "gone"}
    assert examples(seen(100, labeled)) == {"colour": {"red": 2, "blue": 0}}
