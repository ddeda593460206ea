"""Does accepting without a person keep its promise? In simulated projects on scikit-learn's digits.

    uv run python -m benchmarks.promises [--projects 20] [--error 0.05] [--plot promises.png]

Every project labels its digits in the order of the policy, one in ten an audit task, in rounds
of 100. After each round the product's head is fitted anew, its level is proven on the labeled audit
tasks, and the open answers above it are accepted for good, up to the share that goes to people. The
promise: of all that was accepted at most the bound is wrong, in at least 19 of 20 projects.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backend.learning import accepting, coverage
from backend.learning.audit import hash_rank, is_audit
from backend.learning.selection import Floats, uncertainty
from backend.loop.judging import certainty
from backend.vision.head import fit_head

ROUND, MOST, CLASSES = 100, 1100, 10
NAMES = tuple(map(str, range(CLASSES)))


@dataclass
class Project:
    """One simulated project.

    Attributes:
        accepted: row → the answer that was accepted.
        first: labels after which something was accepted first; 0: never.
    """

    seed: int
    x: Floats
    y: Any
    learned: list[int] = field(default_factory=list)
    audited: list[int] = field(default_factory=list)
    accepted: dict[int, int] = field(default_factory=dict)
    first: int = 0

    @property
    def name(self) -> str:
        return f"project {self.seed}"

    @property
    def wrong(self) -> float:
        """Share of wrong answers among the accepted."""
        return float(np.mean([self.y[i] != k for i, k in self.accepted.items()] or [0.0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projects", type=int, default=20)
    parser.add_argument("--error", type=float, default=0.05)
    parser.add_argument("--plot", type=Path, default=Path("promises.png"))
    options = parser.parse_args()
    print(f"{'seed':>4}{'first after':>12}{'labels':>8}{'accepted':>10}{'wrong':>8}")
    done = []
    for seed in range(options.projects):
        project = played(seed, options.error)
        labels = len(project.learned) + len(project.audited)
        print(
            f"{seed:>4}{project.first or '-':>12}{labels:>8}{len(project.accepted):>10}"
            f"{project.wrong:>8.1%}",
            flush=True,
        )
        done.append(project)
    broken = sum(project.wrong > options.error for project in done)
    print(f"bound of {options.error:.0%} broken in {broken} of {len(done)} projects")
    plot(done, options.error, options.plot)


def played(seed: int, error: float) -> Project:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x = (x[order] / np.linalg.norm(x[order], axis=1, keepdims=True)).astype(np.float32)
    project = Project(seed, x, y[order])
    head: Any = None
    for labels in range(ROUND, MOST + 1, ROUND):
        serve(project, head, labels)
        targets = np.eye(CLASSES, dtype=np.float32)[project.y[project.learned]]
        head = fit_head(
            x[project.learned], targets, labels=NAMES, multiple=False, pool=x, previous=head
        )
        accept(project, head, error, labels)
    return project


def serve(project: Project, head: Any, labels: int) -> None:
    """People label the next ROUND tasks: a tenth of them audit tasks, in hash order."""
    rows = range(len(project.x))
    audit = [i for i in rows if is_audit(project.name, i) and i not in project.audited]
    audit.sort(key=lambda i: hash_rank(project.name, i))
    project.audited += audit[: ROUND // 10]
    gone = {*project.learned, *project.accepted}
    free = [i for i in rows if i not in gone and not is_audit(project.name, i)]
    unsure = np.ones(len(free), dtype=np.float32)
    if head is not None:
        unsure = uncertainty(head.probabilities(project.x[free]), multiple=False)
    state = coverage.survey(project.x[free], unsure, project.x[project.learned])
    picked = coverage.pick(state, ROUND - ROUND // 10, seeking=False)[0]
    project.learned += [free[i] for i in picked]


def accept(project: Project, head: Any, error: float, labels: int) -> None:
    table = head.probabilities(project.x)
    sure = np.array([certainty(row, multiple=False) for row in table])
    given, audit = table.argmax(axis=1), project.audited
    level = accepting.level(sure[audit], given[audit] == project.y[audit], error)
    if level.value is None:
        return
    gone = {*project.learned, *project.accepted}
    for i in np.flatnonzero(sure >= level.value).tolist():
        mine = is_audit(project.name, i) or accepting.for_people(project.name, i)
        if i not in gone and not mine:
            project.accepted[i] = int(given[i])
            project.first = project.first or labels


def plot(done: list[Project], error: float, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4))
    axis.bar([project.seed for project in done], [project.wrong for project in done])
    axis.axhline(error, color="red")
    axis.set(xlabel="project", ylabel="share of wrong answers among the accepted")
    figure.savefig(file, dpi=120, bbox_inches="tight")
    print(f"plot: {file}")


if __name__ == "__main__":
    main()
