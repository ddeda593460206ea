"""Measure how often the 95 % intervals cover the truth, in simulated projects.

    uv run python -m benchmarks.interval_coverage [--projects 500] [--only answers|finds]

Each project has its own number of labels, class shares and confusion matrix, and its own difficulty
of images, number of objects and rate of false detections. Images differ in difficulty, so the
objects of one image are right or wrong together. The audit set has 10 to 200 images. *Rare*
projects have 8 labels, from 1 down to 0.03, and 20 to 100 images; labels without an annotation are
left out of macro F1 and of its true value. Precision and recall cover all labels that were
annotated or predicted. True ratios of detections come from 20,000 more images, true mAP50 from
3,000.

Goal: 93 to 97 % of the intervals cover the truth; exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backend.domain import Region
from backend.estimate import IntervalEstimate
from backend.learning.average_precision import average_precision_estimates
from backend.learning.classification_metrics import accuracy_estimate, evaluate_classification
from backend.learning.detection_metrics import (
    DetectionCounts,
    DetectionSample,
    f1_estimate,
    label_detections,
)
from backend.learning.intervals import counting_error_estimate, ratio_estimate
from benchmarks.plots import saved_plot

RATIO_TRUTH_IMAGES, MAP_TRUTH_IMAGES = 20_000, 3_000
COVERAGE_LIMITS = (0.93, 0.97)
RARE_LABEL_COUNT = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projects", type=int, default=500)
    parser.add_argument("--plot", type=Path, default=Path("intervals.png"))
    parser.add_argument("--only", choices=("answers", "finds"))
    options = parser.parse_args()
    results_by_metric: dict[str, list[tuple[int, float, IntervalEstimate]]] = {}
    for seed in range(options.projects):
        rng = np.random.default_rng(seed)
        figures_with_truth = (
            [] if options.only == "finds" else [*simulate_choices(rng), *simulate_rare_labels(rng)]
        )
        figures_with_truth += (
            []
            if options.only == "answers"
            else simulate_detections(np.random.default_rng([seed, 1]))
        )
        for name, figure, truth in figures_with_truth:
            results_by_metric.setdefault(name, []).append((figure.n, truth, figure))
    print(f"seeds 0 to {options.projects - 1}; covered: share of intervals, wanted 93 to 97 %")
    print(f"{'figure':<16}{'figures':>9}{'covered':>9}{'n ≤ 30':>9}{'n > 100':>9}{'width':>8}")
    for metric, rows in results_by_metric.items():
        print(
            f"{metric:<16}{len(rows):>9}{coverage_share(rows):>9.1%}"
            f"{coverage_share([r for r in rows if r[0] <= 30]):>9.1%}"
            f"{coverage_share([r for r in rows if r[0] > 100]):>9.1%}"
            f"{np.mean([f.high - f.low for _, _, f in rows]):>8.2f}",
            flush=True,
        )
    plot_coverage(results_by_metric, options.plot)
    missed_metrics = [
        name
        for name, rows in results_by_metric.items()
        if not COVERAGE_LIMITS[0] <= coverage_share(rows) <= COVERAGE_LIMITS[1]
    ]
    for name in missed_metrics:
        print(f"missed: {name} covers {coverage_share(results_by_metric[name]):.1%}")
    sys.exit(1 if missed_metrics else 0)


def simulate_choices(rng: np.random.Generator) -> Iterator[tuple[str, IntervalEstimate, float]]:
    """Yield the estimates of one classification project, with their true values."""
    count = int(rng.integers(2, 7))
    yield from _simulate_labels(
        rng, rng.dirichlet(np.full(count, 3.0)), int(rng.integers(10, 201)), ""
    )


def simulate_rare_labels(rng: np.random.Generator) -> Iterator[tuple[str, IntervalEstimate, float]]:
    """Yield the same for a project in which each label is rarer than the one before."""
    shares = 0.03 ** (np.arange(RARE_LABEL_COUNT) / (RARE_LABEL_COUNT - 1))
    yield from _simulate_labels(rng, shares / shares.sum(), int(rng.integers(20, 101)), "rare, ")


def _simulate_labels(
    rng: np.random.Generator, label_shares: Any, image_count: int, prefix: str
) -> Iterator[tuple[str, IntervalEstimate, float]]:
    count = len(label_shares)
    confusion = np.array([_confusion_row(rng, count, k) for k in range(count)])
    joint = label_shares[:, None] * confusion
    drawn = rng.choice(count * count, image_count, p=joint.ravel() / joint.sum())
    names = [str(k) for k in range(count)]
    pairs = [(frozenset(names[d % count]), frozenset(names[d // count])) for d in drawn]
    yield f"{prefix}accuracy", accuracy_estimate(pairs), float(np.trace(joint))
    metrics = evaluate_classification(pairs, names)
    f1 = 2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1))
    labels_present = [k for k, name in enumerate(names) if any(name in truth for _, truth in pairs)]
    yield f"{prefix}macro F1", metrics.macro_f1, float(f1[labels_present].mean())
    for label, name in enumerate(names):
        figures = (("precision", metrics.precision[name]), ("recall", metrics.recall[name]))
        for axis, (metric, figure) in enumerate(figures):
            if figure.n:
                truth = float(joint[label, label] / joint.sum(axis=axis)[label])
                yield f"{prefix}{metric}", figure, truth


def _confusion_row(rng: np.random.Generator, count: int, true_label: int) -> Any:
    row = rng.dirichlet(np.ones(count))
    accuracy = rng.uniform(0.5, 0.98)
    row[true_label] = 0
    row = row / row.sum() * (1 - accuracy)
    row[true_label] = accuracy
    return row


def simulate_detections(rng: np.random.Generator) -> Iterator[tuple[str, IntervalEstimate, float]]:
    """Yield the estimates of one detection project, with their true values."""
    skill, beta_concentration = rng.uniform(0.5, 0.95), rng.uniform(3, 30)
    difficulty = (
        skill * beta_concentration,
        (1 - skill) * beta_concentration,
        rng.uniform(1, 6),
        rng.uniform(0.1, 1.0),
    )
    n = int(rng.integers(10, 201))
    tallies, images = _simulate_images(rng, n, *difficulty)
    ratio_truth_rows, _ = _simulate_images(rng, RATIO_TRUTH_IMAGES, *difficulty, boxes=False)
    _, map_truth_images = _simulate_images(rng, MAP_TRUTH_IMAGES, *difficulty)
    correct, predicted, true_objects = (
        sum(column) for column in zip(*ratio_truth_rows, strict=True)
    )
    count_error = sum(abs(f - t) for _, f, t in ratio_truth_rows)
    counts = [DetectionCounts(*row) for row in tallies]
    precision = ratio_estimate([(c.true_positives, c.predicted) for c in counts], "precision")
    recall = ratio_estimate([(c.true_positives, c.actual) for c in counts], "recall")
    counting_error = counting_error_estimate(
        [abs(c.predicted - c.actual) for c in counts], [c.actual for c in counts]
    )
    true_map = _map50(map_truth_images, rng, draws=2).value or 0.0
    yield "F1", f1_estimate(counts), 2 * correct / (predicted + true_objects)
    yield "box precision", precision, correct / predicted
    yield "box recall", recall, correct / true_objects
    yield "counting error", counting_error, count_error / true_objects
    yield "mAP50", _map50(images, rng), true_map


def _map50(
    images: list[DetectionSample], rng: np.random.Generator, draws: int = 100
) -> IntervalEstimate:
    return average_precision_estimates(label_detections(images, ["a"]), rng, draws)[1]


def _simulate_images(
    rng: np.random.Generator,
    image_count: int,
    alpha: float,
    beta: float,
    objects: float,
    false_detections: float,
    boxes: bool = True,
) -> tuple[list[tuple[int, int, int]], list[DetectionSample]]:
    rows, images = [], []
    for _ in range(image_count):
        object_count = int(rng.poisson(objects))
        correct = int(rng.binomial(object_count, rng.beta(alpha, beta)))
        false_count = int(rng.poisson(false_detections))
        rows.append((correct, correct + false_count, object_count))
        if boxes:
            images.append(_simulate_image(rng, object_count, correct, false_count))
    return rows, images


def _simulate_image(
    rng: np.random.Generator, object_count: int, correct: int, false_count: int
) -> DetectionSample:
    """Return objects in one row and false detections in another, so that IoU is 1 or 0."""
    truth = tuple(Region("a", k / 99, 0.0, (k + 1) / 99, 0.1) for k in range(object_count))
    false_regions = tuple(Region("a", k / 99, 0.5, (k + 1) / 99, 0.6) for k in range(false_count))
    confidences = [*rng.beta(4, 2, correct).tolist(), *rng.beta(2, 3, false_count).tolist()]
    order = np.argsort(-np.array(confidences), kind="stable")
    regions = [*truth[:correct], *false_regions]
    return DetectionSample(
        tuple(regions[i] for i in order), tuple(confidences[i] for i in order), truth
    )


def coverage_share(rows: list[tuple[int, float, IntervalEstimate]]) -> float:
    return float(np.mean([f.low <= truth <= f.high for _, truth, f in rows])) if rows else 0.0


def plot_coverage(
    results_by_metric: dict[str, list[tuple[int, float, IntervalEstimate]]], file: Path
) -> None:
    count = max(map(len, results_by_metric.values()))
    with saved_plot(file, 1, (10, 4)) as (axis,):
        axis.set_title(f"95 % intervals, seeds 0 to {count - 1}")
        axis.axhspan(*COVERAGE_LIMITS, alpha=0.2)
        shares = [coverage_share(rows) for rows in results_by_metric.values()]
        axis.bar(list(results_by_metric), shares)
        axis.set(ylim=(0.85, 1), ylabel="share of projects covered")
        axis.tick_params(axis="x", rotation=30)


if __name__ == "__main__":
    main()
