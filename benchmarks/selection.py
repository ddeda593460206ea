"""Compare the product's selection policy with random order and margin sampling, on digits.

    uv run python -m benchmarks.selection [--seeds 12] [--plot FILE] [--only digits|sizes]

Half of scikit-learn's 1,797 digits is the pool, the other half is the test set (balanced accuracy).
Embeddings are the pixels, scaled to unit length. A head is trained after every 10 labels: the
product's head, and scikit-learn's logistic regression (C=10, *plain*), which shows the effect of
the order alone, since the product's head improves random order too. *Rare* makes each digit rarer
than the one before, down to 0.03. *With audit* spends one label in ten on random images that are
not trained on, as the product does. *Sizes* measures time and memory on random embeddings.

Exit status 1 when a goal is missed. Goals: with the plain head, 10 points above random order at 40
labels (balanced) and 15 (rare); with both heads, random order's accuracy at 160 labels with at most
80 (balanced) and 60 (rare), and a mean not below margin sampling's; 20,000 images in 5 seconds and
1 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from backend.arrays import Floats
from backend.learning import coverage
from backend.learning.selection import (
    EXPLORATION_INTERVAL,
    label_rarity,
    search_interval,
    selection_weights,
    uncertainty,
)
from backend.loop.publish.queue_order import GREEDY_PICK_COUNT, QUEUE_HEAD_SIZE
from backend.vision.heads.head import Head, fit_head
from benchmarks.plots import saved_plot

BATCH_SIZE, MAX_LABELS = 10, 160
RARE_SHARE = 0.03
"""Share of the rarest class in comparison to the most frequent one."""
TABLE_LABEL_COUNTS = (20, 40, 60, 80, 160)
REQUIRED_LEAD, LEAD_LABEL_COUNT = {"balanced": 0.10, "rare": 0.15}, 40
"""Accuracy above that of random order after ``LEAD_LABEL_COUNT`` labels."""
MAX_LABELS_TO_MATCH = {"balanced": 80, "rare": 60}
"""Maximum number of labels to reach random order's accuracy after ``MAX_LABELS``."""
POOL_SIZES = ((20_000, 512), (1_000_000, 64))
MAX_ORDER_SECONDS, MAX_ORDER_MEGABYTES = 5.0, 1000.0
"""Limits for the first pool size, which is ordered exactly."""
SelectionPolicy = Callable[[Floats, "list[int]", "list[int]", Any, Any, np.random.Generator], Any]
HeadTrainer = Callable[[Floats, Any, "list[int]", Any], Any]
Split = tuple[tuple[Floats, Any], tuple[Floats, Any]]
"""Embeddings and labels of the pool, and of the test set."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--plot", type=Path, default=Path("selection.png"))
    parser.add_argument("--only", choices=("digits", "sizes"))
    parser.add_argument("--alone", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure_order_cost(*options.alone)))
        return
    missed: list[str] = []
    if options.only != "sizes":
        missed += compare_policies(
            range(options.first, options.first + options.seeds), options.plot
        )
    if options.only != "digits":
        missed += check_order_cost()
    for line in missed:
        print(f"missed: {line}")
    sys.exit(1 if missed else 0)


def compare_policies(seeds: range, file: Path) -> list[str]:
    """Print and plot all curves on digits; return the missed goals."""
    curves: dict[str, dict[str, Any]] = {}
    for head_name, mix in product(("product", "plain"), ("balanced", "rare")):
        title = f"{mix}, {head_name} head"
        curves[title] = {
            name: np.array(
                [digits_curve(policy, HEAD_TRAINERS[head_name], mix, seed, audit) for seed in seeds]
            )
            for name, policy, audit in (
                ("random", select_randomly, 0.0),
                ("margin", select_by_margin, 0.0),
                ("policy", select_by_policy, 0.0),
                ("with audit", select_by_policy, 0.1),
            )
        }
        print_accuracy_table(title, curves[title], seeds)
    plot_accuracy_curves(curves, seeds, file)
    return [
        line
        for title, policy_curves in curves.items()
        for line in missed_goals(title, policy_curves)
    ]


def missed_goals(title: str, curves: dict[str, Any]) -> Iterator[str]:
    """Return the goals that one table misses."""
    mix, fit = title.split(", ")
    means = {name: runs.mean(axis=0) for name, runs in curves.items()}
    row = LEAD_LABEL_COUNT // BATCH_SIZE - 1
    lead = means["policy"][row] - means["random"][row]
    if fit == "plain head" and lead < REQUIRED_LEAD[mix]:
        yield f"{title}: {100 * lead:.1f} points above random order at {LEAD_LABEL_COUNT} labels"
    reaching = np.flatnonzero(means["policy"] >= means["random"][-1])
    if not len(reaching) or (reaching[0] + 1) * BATCH_SIZE > MAX_LABELS_TO_MATCH[mix]:
        limit = MAX_LABELS_TO_MATCH[mix]
        yield f"{title}: random's accuracy at {MAX_LABELS} labels not with {limit}"
    if means["policy"].mean() < means["margin"].mean():
        yield f"{title}: the mean of the curve is below margin sampling's"


def check_order_cost() -> list[str]:
    """Print the time and memory of an order, in a process of its own; return the missed goals."""
    picks = f"first {GREEDY_PICK_COUNT}"
    print(f"\n{'images':>9}{'numbers':>9}{'survey':>9}{picks:>11}{'a label':>9}{'MB':>7}")
    missed_goals_text = []
    for count, dim in POOL_SIZES:
        command = [sys.executable, "-m", "benchmarks.selection", "--alone", str(count), str(dim)]
        printed_json = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(printed_json)
        print(
            f"{count:>9}{dim:>9}{row['survey']:>9.2f}{row['pick']:>11.2f}{row['label']:>9.2f}"
            f"{row['mb']:>7.0f}",
            flush=True,
        )
        total_seconds = row["survey"] + row["pick"]
        if (count, dim) == POOL_SIZES[0] and (
            total_seconds > MAX_ORDER_SECONDS or row["mb"] > MAX_ORDER_MEGABYTES
        ):
            missed_goals_text.append(
                f"{count} images take {total_seconds:.1f} s and {row['mb']:.0f} MB"
            )
    return missed_goals_text


def measure_order_cost(count: int, dim: int) -> dict[str, float]:
    """Return seconds and memory of ordering random embeddings, a tenth of them labeled."""
    rng = np.random.default_rng(0)
    cluster_centres = rng.standard_normal((500, dim), dtype=np.float32)
    x = cluster_centres[rng.integers(0, len(cluster_centres), count)]
    x += rng.standard_normal((count, dim), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    uncertainties = rng.random(count, dtype=np.float32)
    labeled = x[: min(count // 10, 2000)].copy()
    start = time.perf_counter()
    rows = coverage.sample_candidates(uncertainties, coverage.MAX_COMPARED_IMAGES, rng)
    coverage_state = coverage.build_coverage(x[rows], uncertainties[rows], labeled)
    survey_end = time.perf_counter()
    selected, final_state = coverage.pick_images(coverage_state, GREEDY_PICK_COUNT, explore_every=4)
    coverage.order_by_gain(final_state, selected)
    order_end = time.perf_counter()
    coverage.pick_images(
        coverage.mark_covered(coverage_state, selected[:1]), QUEUE_HEAD_SIZE, explore_every=4
    )
    return {
        "survey": survey_end - start,
        "pick": order_end - survey_end,
        "label": time.perf_counter() - order_end,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def digits_curve(
    policy: SelectionPolicy, fit: HeadTrainer, mix: str, seed: int, audit: float
) -> list[float]:
    """Return the balanced accuracy on digits after 10, 20, … labels."""
    rng = np.random.default_rng(seed)
    return accuracy_curve(policy, fit, split_digits(mix, rng), rng, audit)


def accuracy_curve(
    policy: SelectionPolicy,
    fit: HeadTrainer,
    split: Split,
    rng: np.random.Generator,
    audit: float = 0.0,
    max_labels: int = MAX_LABELS,
) -> list[float]:
    """Return the balanced accuracy after 10, 20, … labels."""
    (x, y), (test_embeddings, truth) = split
    open_rows = rng.permutation(len(x)).tolist()
    learned_rows: list[int] = []
    head: Any = None
    accuracies = []
    for label_count in range(BATCH_SIZE, max_labels + 1, BATCH_SIZE):
        audit_count = round(label_count * audit) - round((label_count - BATCH_SIZE) * audit)
        for row in policy(x, open_rows, learned_rows, head, y, rng)[: BATCH_SIZE - audit_count]:
            open_rows.remove(row)
            learned_rows.append(row)
        del open_rows[:audit_count]  # random images, because the list is shuffled
        head = fit(x, y, learned_rows, head)
        answers = head.probabilities(test_embeddings).argmax(axis=1)
        accuracies.append(balanced_accuracy(answers, truth))
    return accuracies


def select_randomly(x: Floats, open_rows: list[int], *_: Any) -> list[int]:
    return open_rows


def select_by_margin(
    x: Floats, open_rows: list[int], learned_rows: Any, head: Any, *_: Any
) -> list[int]:
    if head is None:
        return open_rows
    uncertainties = uncertainty(head.probabilities(x[open_rows]), multiple=False)
    return [open_rows[i] for i in np.argsort(-uncertainties, kind="stable")]


def select_by_policy(
    x: Floats, open_rows: list[int], learned_rows: list[int], head: Any, y: Any, *_: Any
) -> list[int]:
    uncertainties, rarity = np.zeros(len(open_rows), dtype=np.float32), None
    if head is not None:
        probabilities = head.probabilities(x[open_rows])
        uncertainties = uncertainty(probabilities, multiple=False)
        rarity = label_rarity(probabilities, multiple=False)
    label_counts = [
        (int(count), len(learned_rows))
        for count in np.bincount(y[learned_rows], minlength=count_classes(y))
    ]
    weights = selection_weights(uncertainties, label_counts, rarity)
    coverage_state = coverage.build_coverage(x[open_rows], weights, x[learned_rows])
    exploration_interval = search_interval(label_counts, EXPLORATION_INTERVAL)
    selected = coverage.pick_images(
        coverage_state, BATCH_SIZE, exploration_interval, picked_before=len(learned_rows)
    )[0]
    return [open_rows[i] for i in selected]


def train_product_head(x: Floats, y: Any, learned_rows: list[int], previous: Head | None) -> Head:
    targets = np.eye(count_classes(y), dtype=np.float32)[y[learned_rows]]
    names = tuple(map(str, range(count_classes(y))))
    return fit_head(
        x[learned_rows], targets, labels=names, multiple=False, pool=x, previous=previous
    )


class PlainHead:
    """Logistic regression; labels without an example get no probability."""

    def __init__(self, x: Floats, y: Any, learned_rows: list[int], previous: Any) -> None:
        from sklearn.linear_model import LogisticRegression

        self._class_count = count_classes(y)
        self._known_labels = np.unique(y[learned_rows])
        self._model = LogisticRegression(C=10, max_iter=500)
        if len(self._known_labels) > 1:
            self._model.fit(x[learned_rows], y[learned_rows])

    def probabilities(self, x: Floats) -> Floats:
        probability_table = np.zeros((len(x), self._class_count), dtype=np.float32)
        has_several_labels = len(self._known_labels) > 1
        probability_table[:, self._known_labels] = (
            self._model.predict_proba(x) if has_several_labels else 1.0
        )
        return probability_table


HEAD_TRAINERS: dict[str, HeadTrainer] = {"product": train_product_head, "plain": PlainHead}


def split_digits(mix: str, rng: np.random.Generator) -> Split:
    """Return embeddings and labels of the pool and of the test set."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return split_images(x, y, mix, rng, pool_size=len(x) // 2)


def split_images(
    x: Floats,
    y: Any,
    mix: str,
    rng: np.random.Generator,
    pool_size: int,
    rare_share: float = RARE_SHARE,
) -> Split:
    """Split embeddings and labels into a pool and a test set; *rare* thins the pool's classes."""
    order = rng.permutation(len(x))
    pool, test_rows = order[:pool_size], order[pool_size:]
    if mix == "rare":
        class_count = count_classes(y)
        shares = rare_share ** (rng.permutation(class_count) / (class_count - 1))
        remaining_by_label = dict(
            enumerate(np.ceil(shares * np.bincount(y[pool]).min()).astype(int))
        )
        is_kept = []
        for row in pool:
            remaining_by_label[y[row]] -= 1
            is_kept.append(remaining_by_label[y[row]] >= 0)
        pool = pool[is_kept]
    return (x[pool], y[pool]), (x[test_rows], y[test_rows])


def count_classes(y: Any) -> int:
    return int(y.max()) + 1


def balanced_accuracy(answers: Any, truth: Any) -> float:
    return float(np.mean([(answers[truth == k] == k).mean() for k in range(count_classes(truth))]))


def print_accuracy_table(mix: str, curves: dict[str, Any], seeds: range) -> None:
    print(f"\n{mix}, balanced accuracy in %, mean of seeds {seeds[0]} to {seeds[-1]}")
    print(
        f"{'labels':<12}"
        + "".join(f"{n:>7}" for n in TABLE_LABEL_COUNTS)
        + f"{'mean':>8}{'as 160':>8}"
    )
    goal = float(curves["random"].mean(axis=0)[-1])
    for name, runs in curves.items():
        mean = runs.mean(axis=0)
        cells = "".join(f"{100 * mean[n // BATCH_SIZE - 1]:>7.1f}" for n in TABLE_LABEL_COUNTS)
        print(f"{name:<12}{cells}{100 * mean.mean():>8.1f}{labels_to_reach(mean, goal):>8}")


def labels_to_reach(mean: Any, goal: float) -> str:
    """Return after how many labels a curve reaches an accuracy."""
    reached = np.flatnonzero(mean >= goal)
    return str((int(reached[0]) + 1) * BATCH_SIZE) if len(reached) else "more"


def plot_accuracy_curves(curves: dict[str, dict[str, Any]], seeds: range, file: Path) -> None:
    labels = np.arange(BATCH_SIZE, MAX_LABELS + 1, BATCH_SIZE)
    with saved_plot(file, len(curves), (18, 4)) as axes:
        for axis, (mix, policy_curves) in zip(axes, curves.items(), strict=True):
            for name, runs in policy_curves.items():
                axis.plot(labels, runs.mean(axis=0), label=name)
                axis.fill_between(labels, *np.quantile(runs, [0.1, 0.9], axis=0), alpha=0.1)
            axis.set(title=f"{mix}, seeds {seeds[0]} to {seeds[-1]}", xlabel="labels")
            axis.sharey(axes[0])
        axes[0].set(ylabel="balanced accuracy")
        axes[0].legend()


if __name__ == "__main__":
    main()
