"""Do the 95 % intervals cover the truth? In simulated projects whose truth is known.

    uv run python -m benchmarks.interval_coverage [--projects 500] [--plot FILE] [--only answers|finds]

Every project has its own number of labels, mix of classes and confusion, or its own difficulty of
images, number of objects and rate of false finds (images differ in difficulty, so that objects of
one image are right or wrong together), and an audit slice of 10 to 200 images. *Rare* projects have
8 labels, from 1 down to 0.03, and 20 to 100 images: labels that nobody gave there are left out of
macro F1 and of its truth. Precision and recall are those of all labels with an answer. Truths of
ratios of finds are those of 20,000 images drawn alike, of mAP50 those of 3,000.

It ends with 1 where fewer than 93 or more than 97 of 100 intervals hold the truth.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from backend.domain import Place
from backend.learning import classification_metrics, detection_metrics
from backend.learning.classification_metrics import Figure
from backend.learning.detection_metrics import Judged, Tally

MANY, ENOUGH = 20_000, 3_000
WANTED = (0.93, 0.97)
RARE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projects", type=int, default=500)
    parser.add_argument("--plot", type=Path, default=Path("intervals.png"))
    parser.add_argument("--only", choices=("answers", "finds"))
    options = parser.parse_args()
    found: dict[str, list[tuple[int, float, Figure]]] = {}
    for seed in range(options.projects):
        rng = np.random.default_rng(seed)
        told = [] if options.only == "finds" else [*answers(rng), *rare(rng)]
        told += [] if options.only == "answers" else finds(np.random.default_rng([seed, 1]))
        for name, figure, truth in told:
            found.setdefault(name, []).append((figure.n, truth, figure))
    print(f"seeds 0 to {options.projects - 1}; covered: share of intervals, wanted 93 to 97 %")
    print(f"{'figure':<16}{'figures':>9}{'covered':>9}{'n ≤ 30':>9}{'n > 100':>9}{'width':>8}")
    for metric, rows in found.items():
        print(
            f"{metric:<16}{len(rows):>9}{covered(rows):>9.1%}"
            f"{covered([r for r in rows if r[0] <= 30]):>9.1%}"
            f"{covered([r for r in rows if r[0] > 100]):>9.1%}"
            f"{np.mean([f.high - f.low for _, _, f in rows]):>8.2f}",
            flush=True,
        )
    plot(found, options.plot)
    missed = [name for name, rows in found.items() if not WANTED[0] <= covered(rows) <= WANTED[1]]
    for name in missed:
        print(f"missed: {name} covers {covered(found[name]):.1%}")
    sys.exit(1 if missed else 0)


def answers(rng: np.random.Generator) -> Iterator[tuple[str, Figure, float]]:
    """Figures of one project's answers, with their truth."""
    count = int(rng.integers(2, 7))
    yield from _answers(rng, rng.dirichlet(np.full(count, 3.0)), int(rng.integers(10, 201)), "")


def rare(rng: np.random.Generator) -> Iterator[tuple[str, Figure, float]]:
    """The same of a project whose labels become rarer and rarer."""
    shares = 0.03 ** (np.arange(RARE) / (RARE - 1))
    yield from _answers(rng, shares / shares.sum(), int(rng.integers(20, 101)), "rare, ")


def _answers(
    rng: np.random.Generator, mix: Any, n: int, kind: str
) -> Iterator[tuple[str, Figure, float]]:
    count = len(mix)
    confusion = np.array([_row(rng, count, k) for k in range(count)])
    joint = mix[:, None] * confusion
    drawn = rng.choice(count * count, n, p=joint.ravel() / joint.sum())
    names = [str(k) for k in range(count)]
    pairs = [(frozenset(names[d % count]), frozenset(names[d // count])) for d in drawn]
    yield f"{kind}accuracy", classification_metrics.accuracy(pairs), float(np.trace(joint))
    told = classification_metrics.figures(pairs, names)
    f1 = 2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1))
    known = [k for k, name in enumerate(names) if any(name in truth for _, truth in pairs)]
    yield f"{kind}macro F1", Figure(**told["macro_f1"]), float(f1[known].mean())
    for label, (name, axis) in product(range(count), (("precision", 0), ("recall", 1))):
        figure = Figure(**told["labels"][names[label]][name])
        if figure.n:
            truth = float(joint[label, label] / joint.sum(axis=axis)[label])
            yield f"{kind}{name}", figure, truth


def _row(rng: np.random.Generator, count: int, k: int) -> Any:
    row = rng.dirichlet(np.ones(count))
    right = rng.uniform(0.5, 0.98)
    row[k] = 0
    row = row / row.sum() * (1 - right)
    row[k] = right
    return row


def finds(rng: np.random.Generator) -> Iterator[tuple[str, Figure, float]]:
    """Figures of one project's finds, with their truth."""
    skill, alike = rng.uniform(0.5, 0.95), rng.uniform(3, 30)
    world = (skill * alike, (1 - skill) * alike, rng.uniform(1, 6), rng.uniform(0.1, 1.0))
    n = int(rng.integers(10, 201))
    tallies, images = _images(rng, n, *world)
    many, _ = _images(rng, MANY, *world, boxes=False)
    _, enough = _images(rng, ENOUGH, *world)
    right, found, there = (sum(column) for column in zip(*many, strict=True))
    off = sum(abs(f - t) for _, f, t in many)
    mine = [Tally(*row) for row in tallies]
    precision = detection_metrics.ratio([(t.right, t.found) for t in mine], "precision")
    recall = detection_metrics.ratio([(t.right, t.there) for t in mine], "recall")
    truth = detection_metrics.precisions(enough, ["a"], rng, draws=2)[1].value
    yield "F1", detection_metrics.f1_figure(mine), 2 * right / (found + there)
    yield "box precision", precision, right / found
    yield "box recall", recall, right / there
    yield "counting error", detection_metrics.count_figure(mine), off / there
    yield "mAP50", detection_metrics.precisions(images, ["a"], rng)[1], float(truth or 0)


def _images(
    rng: np.random.Generator,
    n: int,
    one: float,
    two: float,
    objects: float,
    false: float,
    boxes: bool = True,
) -> tuple[list[tuple[int, int, int]], list[Judged]]:
    rows, images = [], []
    for _ in range(n):
        there = int(rng.poisson(objects))
        right = int(rng.binomial(there, rng.beta(one, two)))
        wrong = int(rng.poisson(false))
        rows.append((right, right + wrong, there))
        if boxes:
            images.append(_judged(rng, there, right, wrong))
    return rows, images


def _judged(rng: np.random.Generator, there: int, right: int, wrong: int) -> Judged:
    """Objects in one row, false finds in another: overlaps are 1 or 0."""
    truth = tuple(Place("a", k / 99, 0.0, (k + 1) / 99, 0.1) for k in range(there))
    strangers = tuple(Place("a", k / 99, 0.5, (k + 1) / 99, 0.6) for k in range(wrong))
    sure = [*rng.beta(4, 2, right).tolist(), *rng.beta(2, 3, wrong).tolist()]
    order = np.argsort(-np.array(sure), kind="stable")
    places = [*truth[:right], *strangers]
    return Judged(tuple(places[i] for i in order), tuple(sure[i] for i in order), truth)


def covered(rows: list[tuple[int, float, Figure]]) -> float:
    return float(np.mean([f.low <= truth <= f.high for _, truth, f in rows])) if rows else 0.0


def plot(found: dict[str, list[tuple[int, float, Figure]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = max(map(len, found.values()))
    figure, axis = pyplot.subplots(figsize=(10, 4))
    axis.set_title(f"95 % intervals, seeds 0 to {count - 1}")
    axis.axhspan(0.93, 0.97, alpha=0.2)
    axis.bar(list(found), [covered(rows) for rows in found.values()])
    axis.set(ylim=(0.85, 1), ylabel="share of projects covered")
    axis.tick_params(axis="x", rotation=30)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    print(f"plot: {file}")


if __name__ == "__main__":
    main()
