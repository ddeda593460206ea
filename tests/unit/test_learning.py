"""The audit set, the queue order and classification metrics, on small cases."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from backend import estimate
from backend.estimate import IntervalEstimate
from backend.learning import audit, classification_metrics, intervals, selection


@pytest.mark.parametrize("module", [estimate, audit, intervals, selection])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted
    assert not found.failed


def test_the_audit_set_is_a_fixed_tenth_that_differs_by_project() -> None:
    one = {t for t in range(20_000) if audit.is_audit("1.17", t)}
    assert one == {t for t in range(20_000) if audit.is_audit("1.17", t)}
    assert 0.09 < len(one) / 20_000 < 0.11
    other = {t for t in range(20_000) if audit.is_audit("2.17", t)}
    assert 0.005 < len(one & other) / 20_000 < 0.015


def test_audit_tasks_are_served_at_a_steady_rate_for_any_round_length() -> None:
    """Every round makes a new order, of which the first tasks are labeled."""
    for every in (3, 7, 10, 25):
        pool, slice_ = list(range(900)), list(range(1000, 1100))
        labeled = audited = 0
        while labeled < 300:
            for task in audit.interleave(pool, slice_, labeled, audited)[:every]:
                (slice_ if task >= 1000 else pool).remove(task)
                labeled, audited = labeled + 1, audited + (task >= 1000)
                assert abs(audited - labeled * 0.1) <= 1


def test_interleaving_keeps_all_tasks_when_one_side_runs_out() -> None:
    assert audit.interleave([], [1, 2], 0, 0) == [1, 2]
    assert audit.interleave([5, 6], [], 0, 0) == [5, 6]
    mixed = audit.interleave(list(range(5)), [10, 11, 12], 50, 0)
    assert sorted(mixed) == [0, 1, 2, 3, 4, 10, 11, 12]


def test_the_queue_keeps_the_ranking_and_serves_audit_tasks_in_hash_order() -> None:
    tasks = range(300)
    slice_ = [t for t in tasks if audit.is_audit("p", t)]
    pool = [t for t in tasks if not audit.is_audit("p", t)]
    order_made = selection.order_queue("p", pool[::-1], slice_, labeled=0, audit_labeled=0)
    assert sorted(order_made) == list(tasks)
    assert [t for t in order_made if t in pool] == pool[::-1]
    in_order = sorted(slice_, key=lambda t: audit.hash_rank("p", t))
    assert [t for t in order_made if t in slice_] == in_order


def test_candidates_get_every_fourth_position_and_no_task_is_lost() -> None:
    ranked = list(range(100))
    order_made = selection.interleave_candidates(ranked, [90, 3, 50])
    assert sorted(order_made) == ranked
    assert order_made[3] == 90
    assert order_made.index(50) <= 12
    assert selection.interleave_candidates(ranked, []) == ranked


def test_scores_rise_with_the_order_and_unreadable_tasks_come_last() -> None:
    order = [5, 9, 2, 7]
    order_made = selection.rank_scores(order, unpredicted=[1])
    assert sorted(order_made, key=order_made.__getitem__) == [*order, 1]
    assert all(0 < score <= 1 for score in order_made.values())


def test_score_changes_bring_the_head_to_the_front_and_are_few() -> None:
    for seed in range(50):
        random = np.random.default_rng(seed)
        count = int(random.integers(1, 60))
        scores = dict(enumerate(random.permutation(count) / count))
        for _ in range(5):  # repeatedly, as labels arrive
            order = random.permutation(list(scores)).tolist()
            head = order[: int(random.integers(0, 13))]
            changed = selection.front_score_changes(head, selection.rank_scores(order), scores)
            scores |= changed
            assert sorted(scores, key=scores.__getitem__)[: len(head)] == head
            assert len(changed) <= 2 * len(head)


def test_the_first_of_the_head_is_served_before_all_changes_are_written() -> None:
    for seed in range(50):
        random = np.random.default_rng(seed)
        count = int(random.integers(2, 60))
        scores = dict(enumerate(random.permutation(count) / count))
        order = random.permutation(count).tolist()
        head = order[: int(random.integers(1, 13))]
        changed = selection.front_score_changes(head, selection.rank_scores(order), scores)
        forward = [task for task in changed if task in head]
        assert list(changed)[-len(forward) :] == forward or not forward, (
            "other tasks move back first"
        )
        for task, score in changed.items():
            scores[task] = score
            if task in head:
                assert min(scores, key=scores.__getitem__) == head[0]


def test_no_score_changes_when_the_head_is_in_front_already() -> None:
    scores = selection.rank_scores([4, 2, 9, 1])
    assert selection.front_score_changes([4, 2], scores, scores) == {}


def test_one_task_that_moves_back_is_one_score_change() -> None:
    scores = selection.rank_scores([1, 2, 3, 4, 5, 6])
    order = [1, 3, 4, 6, 2, 5]
    assert set(selection.front_score_changes(order[:3], selection.rank_scores(order), scores)) == {
        2
    }


def test_the_tail_gets_scores_behind_all_other_tasks() -> None:
    """With its rank alone it would be next to the last task, whose score is unchanged."""
    scores = selection.rank_scores([1, 2, 3, 4])
    for tail in ([1], [1, 2]):
        order = [task for task in (1, 2, 3, 4) if task not in tail] + tail
        ranks = selection.rank_scores(order)
        after = scores | selection.front_score_changes(order[:2], ranks, scores, tail=tail)
        assert sorted(after, key=lambda task: (after[task], -task)) == order
        assert len(set(after.values())) == 4
        assert max(after.values()) <= 1


def test_the_tail_moves_from_any_position_and_stays_when_it_is_last() -> None:
    order = [0, 1, 2, 3, 4, 5, 8, 9, 6, 7]
    scores = selection.rank_scores(range(10))
    after = scores | selection.front_score_changes(order[:2], scores, scores, tail=[6, 7])
    assert sorted(after, key=lambda task: after[task]) == order
    assert selection.front_score_changes(order[:2], scores, after, tail=[6, 7]) == {}


def test_a_task_without_a_rank_stays_last() -> None:
    for seed in range(200):
        random = np.random.default_rng(seed)
        count = int(random.integers(1, 14))
        order = random.permutation(count).tolist()
        tail = order[int(random.integers(0, count + 1)) :]
        scores = selection.rank_scores(random.permutation(count).tolist(), unpredicted=[99])
        after = scores | selection.front_score_changes(
            order[:12], selection.rank_scores(order), scores, tail=tail
        )
        assert sorted(after, key=lambda task: (after[task], task))[: min(count, 12)] == order[:12]
        assert after[99] == 1.0


@pytest.mark.parametrize(
    ("row", "multiple", "expected"),
    [
        ([0.5, 0.5], False, 1.0),  # fully uncertain
        ([0.9, 0.1], False, 0.2),  # 1 − margin
        ([0.4, 0.3, 0.3], False, 0.9),
        ([0.99, 0.01], True, 0.02),  # each label is certain
        ([0.99, 0.5], True, 1.0),  # one label is not
    ],
)
def test_uncertainty(row: list[float], multiple: bool, expected: float) -> None:
    found = selection.uncertainty(np.array([row], dtype=np.float32), multiple)
    assert found == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Wilson's intervals as statsmodels' proportion_confint(method="wilson") gives them
        (0, 0, 0.0, 1.0),
        (10, 10, 0.7225, 1.0),
        (0, 10, 0.0, 0.2775),
        (80, 100, 0.7112, 0.8666),
    ],
)
def test_the_interval_of_a_share_is_wilsons(right: int, n: int, low: float, high: float) -> None:
    figure = intervals.proportion_estimate(right, n)
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=2e-4)
    assert figure.value == (right / n if n else None)


def test_accuracy_counts_exact_matches_of_all_labels() -> None:
    a, b, ab = frozenset("a"), frozenset("b"), frozenset("ab")
    figure = classification_metrics.accuracy_estimate(
        [(a, a), (ab, a), (None, b), (frozenset(), frozenset())]
    )
    assert (figure.n, figure.value) == (4, 0.5)


def rare_answers(seed: int) -> tuple[IntervalEstimate, float]:
    """Return macro F1 of 40 answers with eight labels, from 1 down to 0.03, and its true value."""
    rng = np.random.default_rng(seed)
    mix = 0.03 ** (np.arange(8) / 7)
    right = rng.uniform(0.5, 0.98, 8)
    confusion = rng.dirichlet(np.ones(8), 8) * (1 - np.eye(8))
    confusion *= ((1 - right) / confusion.sum(axis=1))[:, None]
    joint = (mix / mix.sum())[:, None] * (confusion + np.diag(right))
    drawn = rng.choice(64, 40, p=joint.ravel() / joint.sum())
    names = list("abcdefgh")
    given = [frozenset(names[d % 8]) for d in drawn]
    truth = [frozenset(names[d // 8]) for d in drawn]
    f1 = 2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1))
    known = sorted({int(d) // 8 for d in drawn})
    return classification_metrics.macro_f1_estimate(given, truth, names), float(f1[known].mean())


def test_with_rare_labels_the_interval_of_macro_f1_covers_the_truth_in_95_percent() -> None:
    found = [rare_answers(seed) for seed in range(120)]
    covered = np.mean([figure.low <= truth <= figure.high for figure, truth in found])
    assert 0.93 <= covered <= 0.99
    assert np.mean([figure.high - figure.low for figure, _ in found]) < 0.4


def test_labels_without_an_annotation_are_left_out_of_macro_f1() -> None:
    a, b = frozenset("a"), frozenset("b")
    figure = classification_metrics.macro_f1_estimate([a, b, a], [a, b, b], ["a", "b", "c"])
    assert figure.metric == "macro F1 of 2 of 3 labels"
    assert figure.low <= (figure.value or 0) <= figure.high
    assert classification_metrics.macro_f1_estimate([a, b], [a, b], ["a", "b"]).metric == "macro F1"
    assert (classification_metrics.macro_f1_estimate([a], [a], ["a"]).low, figure.n) == (0.0, 3)
