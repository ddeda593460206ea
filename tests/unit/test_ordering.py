"""The order of open tasks, and how labels between rounds change it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from backend.arrays import Floats
from backend.domain import Label
from backend.label_studio.labeling_config import LabelingConfig
from backend.learning.audit import is_audit
from backend.learning.selection import label_rarity, uncertainty
from backend.loop.publish.queue_order import (
    QUEUE_HEAD_SIZE,
    QueueOrder,
    build_queue_order,
    count_examples,
)
from backend.vision.heads.head import Head, fit_head
from tests.support.observations import (
    CHOICE_CONTROL,
    make_embeddings,
    make_observation,
    make_queue_order,
)

SORTED_LABELS = ("a", "b", "c", "d")
IMAGES_PER_LABEL = 40


def test_every_open_task_is_ranked_once_and_the_audit_set_stands_between() -> None:
    order = make_queue_order()
    tasks = order.ranked_tasks()
    assert sorted(tasks) == list(range(100))
    audit = [task for task in range(100) if is_audit("p", task)]
    assert sum(task in audit for task in tasks[:30]) == min(3, len(audit))


def test_the_first_tasks_are_of_different_kinds() -> None:
    pool = [task for task in make_queue_order().ranked_tasks() if not is_audit("p", task)]
    assert len({task % 10 for task in pool[:7]}) == 7


def test_a_labeled_task_leaves_and_its_kind_falls_back() -> None:
    order = make_queue_order()
    first = next(task for task in order.ranked_tasks() if not is_audit("p", task))
    order.mark_labeled([first, 10**6])
    after = [task for task in order.ranked_tasks() if not is_audit("p", task)]
    assert first not in after
    assert all(task % 10 != first % 10 for task in after[:5])
    assert (order.labeled_count, order.audit_labeled_count) == (1, 0)
    order.mark_labeled([first])
    assert order.labeled_count == 1, "the same label is counted once"


def test_an_audit_label_is_counted_and_teaches_nothing() -> None:
    order = make_queue_order()
    near = order.coverage.max_cosine.copy()
    audit = next(iter(order.audit_tasks))
    order.mark_labeled([audit])
    assert order.audit_labeled_count == 1
    assert audit not in order.ranked_tasks()
    assert (order.coverage.max_cosine == near).all()


def test_skipped_tasks_go_to_the_back_at_once_and_in_the_next_round() -> None:
    """They stay open: Label Studio may still serve them to others."""
    order = make_queue_order()
    head = order.ranked_tasks()[:QUEUE_HEAD_SIZE]
    drawn = [task for task in head if is_audit("p", task)]
    assert drawn, "tasks of the audit set are skipped too"
    order.mark_skipped(head)
    after = order.ranked_tasks()
    assert sorted(after) == list(range(100))
    assert set(after[-QUEUE_HEAD_SIZE:]) == set(head)
    assert sum(is_audit("p", task) for task in after[:10]) == 1, "others of the slice are asked for"
    assert (order.labeled_count, order.audit_labeled_count) == (0, 0)
    again = build_queue_order(
        make_observation(100, {}, frozenset(head)), make_embeddings(100), {}, [], seed=0
    )
    assert set(again.ranked_tasks()[-QUEUE_HEAD_SIZE:]) == set(head)
    order.mark_labeled(head[:1])
    assert head[0] not in order.ranked_tasks(), "somebody else labeled it"


def test_what_is_like_a_skipped_task_falls_back() -> None:
    order = make_queue_order()
    first = next(task for task in order.ranked_tasks() if not is_audit("p", task))
    order.mark_skipped([first])
    pool = [task for task in order.ranked_tasks() if not is_audit("p", task)]
    assert all(task % 10 != first % 10 for task in pool[:5])


def reasons(order: QueueOrder, count: int) -> Counter[str]:
    """Why tasks were asked for, where each is labeled before the next is asked for."""
    found: Counter[str] = Counter()
    for _ in range(count):
        asked = order.first_tasks(QUEUE_HEAD_SIZE)[0]
        found[asked.reason] += 1
        order.mark_labeled([asked.task])
    return found


def test_a_label_is_sought_also_where_every_label_makes_the_order_anew() -> None:
    pool = [task for task in range(200) if not is_audit("p", task)]
    found = reasons(make_queue_order(200, {pool[0]: "red"}, sought=pool[100:110]), 20)
    assert found["sought"] >= 4
    assert found["unlike"] >= 1


def test_a_label_that_never_turns_up_costs_little_and_in_the_end_nothing() -> None:
    """Rounds of ten labels; blue never comes."""
    pool = [task for task in range(400) if not is_audit("p", task)]
    labeled: dict[int, str] = {}
    costs = []
    for _ in range(14):
        order = make_queue_order(
            400, labeled, sought=[t for t in pool[::-1] if t not in labeled][:10]
        )
        asked = order.first_tasks(10)
        costs.append(sum(one.reason in ("sought", "unlike") for one in asked))
        labeled |= {one.task: "red" for one in asked}
    assert sum(costs[:2]) >= 5
    assert sum(costs) <= 18
    assert not any(costs[11:])


def test_a_label_that_came_later_is_sought_however_many_labels_there_are() -> None:
    pool = [task for task in range(400) if not is_audit("p", task)]
    labeled = dict.fromkeys(pool[:200], "red")
    old = make_observation(400, labeled)
    asked = {"colour": frozenset({"red"})}
    new = replace(old, tasks=tuple(replace(task, available_labels=asked) for task in old.tasks))
    for observed, why in ((old, 0), (new, 4)):
        assert (
            build_queue_order(
                observed, make_embeddings(400), {}, pool[300:], seed=0
            ).search_interval
            == why
        )


def test_tasks_that_may_show_a_label_without_an_example_get_every_fourth_place() -> None:
    pool = [task for task in range(100) if not is_audit("p", task)]
    order = make_queue_order(labeled={pool[0]: "red"}, sought=[pool[70], pool[80]])
    front = [task for task in order.ranked_tasks()[:12] if not is_audit("p", task)]
    assert {pool[70], pool[80]} <= set(front)


def test_a_task_whose_image_cannot_be_read_is_open_and_not_ranked() -> None:
    known = make_embeddings(50)
    del known[7]
    order = build_queue_order(make_observation(50, {}), known, {}, [], seed=0)
    assert 7 in order.open_tasks
    assert 7 not in order.ranked_tasks()


def test_examples_are_counted_by_image_without_the_audit_set() -> None:
    audit = [task for task in range(100) if is_audit("p", task)]
    pool = [task for task in range(100) if not is_audit("p", task)]
    labeled = {audit[0]: "blue", pool[0]: "red", pool[1]: "red", pool[2]: "gone"}
    assert count_examples(make_observation(100, labeled)) == {"colour": {"red": 2, "blue": 0}}


def make_sorted_folder(seed: int = 0) -> dict[int, Floats]:
    """Return the embeddings of a folder whose files are sorted by label, in the order of ids."""
    random = np.random.default_rng(seed)
    means = np.repeat(random.standard_normal((4, 32)), IMAGES_PER_LABEL, axis=0)
    vectors = means + random.standard_normal(means.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return dict(enumerate(vectors.astype(np.float32)))


def fit_sorted_folder(vectors: dict[int, Floats], labeled: dict[int, str]) -> Head:
    targets = np.eye(4, dtype=np.float32)[[SORTED_LABELS.index(k) for k in labeled.values()]]
    pool = np.stack(list(vectors.values()))
    examples = np.stack([vectors[task] for task in labeled])
    return fit_head(examples, targets, labels=SORTED_LABELS, multiple=False, pool=pool)


def order_sorted_folder(
    vectors: dict[int, Floats],
    labeled: dict[int, str],
    uncertainties: dict[int, float],
    rarities: dict[int, float] | None = None,
) -> QueueOrder:
    control = replace(CHOICE_CONTROL, labels=tuple(map(Label, SORTED_LABELS)))
    observation = replace(
        make_observation(len(vectors), labeled), config=LabelingConfig((control,), {})
    )
    return build_queue_order(observation, vectors, uncertainties, [], 0, rarities)


def head_uncertainties(head: Head, vectors: dict[int, Floats]) -> dict[int, float]:
    values = uncertainty(head.probabilities(np.stack(list(vectors.values()))), multiple=False)
    return dict(zip(vectors, values.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_after_labels_of_one_class_the_next_tasks_show_all_classes(seed: int) -> None:
    vectors = make_sorted_folder(seed)
    labeled = dict.fromkeys([t for t in vectors if not is_audit("p", t)][:4], "a")
    head = fit_sorted_folder(vectors, labeled)
    model, certain = head_uncertainties(head, vectors), dict.fromkeys(vectors, 0.0)
    for uncertainties in (model, certain):  # of this version, and of versions that are certain
        order = order_sorted_folder(vectors, labeled, uncertainties)
        tasks = [task for task in order.ranked_tasks() if not is_audit("p", task)][:12]
        assert {task // IMAGES_PER_LABEL for task in tasks} == {0, 1, 2, 3}
        assert "uncertain" not in {queued.reason for queued in order.first_tasks(12)}


def test_confidence_is_below_one_until_two_labels_have_examples() -> None:
    vectors = make_sorted_folder()
    confidence = [
        fit_sorted_folder(vectors, dict.fromkeys(range(count), "a"))
        .probabilities(np.stack(list(vectors.values())))
        .max(axis=1)
        for count in (1, 4, 20)
    ]
    assert [row.max() for row in confidence] == pytest.approx([2 / 5, 5 / 8, 21 / 24])
    assert all(np.ptp(row) == 0 for row in confidence)
    two = fit_sorted_folder(vectors, {0: "a", 1: "a", IMAGES_PER_LABEL: "b"})
    assert np.ptp(two.probabilities(np.stack(list(vectors.values()))).max(axis=1)) > 0.1


def test_equally_uncertain_images_of_a_rare_label_move_forward() -> None:
    vectors = make_sorted_folder()
    labeled = {
        start + row: label
        for start, label in zip(range(0, len(vectors), IMAGES_PER_LABEL), "abcd", strict=True)
        for row in range(10)
    }
    rare = [task for task in vectors if task >= len(vectors) - 8]
    probabilities = np.full((len(vectors), 4), 0.05, dtype=np.float32)
    for task in vectors:
        probabilities[task, [3, 0] if task in rare else [task % 3, (task + 1) % 3]] = (0.5, 0.4)
    rarities = dict(zip(vectors, label_rarity(probabilities, False).tolist(), strict=True))
    uncertainties = {task: 0.9 - task * 1e-3 for task in vectors}
    positions = []
    for known_rarities in (None, rarities):
        ranked = order_sorted_folder(vectors, labeled, uncertainties, known_rarities).ranked_tasks()
        ranked = [task for task in ranked if not is_audit("p", task)]
        positions.append(np.mean([ranked.index(task) for task in rare if not is_audit("p", task)]))
    assert positions[1] < positions[0] - 10


@pytest.mark.parametrize("certainty", ["no model", "equal", "ties", "all different"])
@pytest.mark.parametrize("seed", range(5))
def test_other_ids_do_not_change_which_images_are_chosen(certainty: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = make_sorted_folder(seed)
    count = len(vectors)
    values = {
        "no model": {},
        "equal": dict.fromkeys(vectors, 0.0),
        "ties": dict(enumerate((random.random(count) > 0.5).astype(float).tolist())),
        "all different": dict(enumerate(random.random(count).tolist())),
    }[certainty]
    pool = [task for task in vectors if not is_audit("p", task)]
    labeled = random.choice(pool, 6, replace=False).tolist()
    new_ids = dict(zip(vectors, vectors, strict=True)) | dict(
        zip(pool, random.permutation(pool).tolist(), strict=True)
    )
    orders = []
    for ids in ({task: task for task in vectors}, new_ids):
        order = order_sorted_folder(
            {ids[task]: vectors[task] for task in vectors},
            {ids[task]: SORTED_LABELS[task // IMAGES_PER_LABEL] for task in labeled},
            {ids[task]: value for task, value in values.items()},
        )
        images = {new: task for task, new in ids.items()}
        orders.append([images[task] for task in order.ranked_tasks()])
    assert orders[0] == orders[1]
