"""Is the promise of accepting without a person kept? In simulated projects.

    uv run python -m benchmarks.auto_accept [--projects 20] [--quick 200] [--plot FILE]

Accepting: every project labels images in the order of the policy, one in ten an audit task, in
rounds of 100. After each round the product's head is fitted anew, its level is proven on the
labeled audit tasks as far as earlier looks left room for that, and the open answers above it are
accepted for good, up to the share that goes to people. Of all that was accepted at most the bound
may be wrong, in 19 of 20 projects. The quick simulation draws margins instead of fitting heads, for
the rate itself; its last rows are of models that err a little more often than the bound allows,
however sure they are.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats, Ints
from backend.inference.confidence import certainty
from backend.learning import auto_accept, coverage
from backend.learning.audit import hash_rank, is_audit
from backend.learning.selection import uncertainty
from backend.vision.heads.head import Head, fit_head

ROUND, MOST = 100, 1100
NAMES = tuple(map(str, range(10)))
SETTINGS = {
    "digits": 0.05,
    "weak digits": 0.2,
    "clouds": 0.1,
    "rare clouds": 0.05,
    "copies": 0.2,
}
"""Error bound by setting: near to what its surest answers are, where it is hardest to keep."""
MARGINS = (
    *((0.6, 0.4, 0.05), (1.0, 0.7, 0.05), (0.4, 0.4, 0.1), (0.5, 0.6, 0.1)),
    *((0.0, 0.0, 0.05), (0.0, 0.0, 0.1)),
)
"""Quick projects: mean and spread of the margin of the best model, and the bound; without a margin
the model errs a tenth too often, whatever its confidence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projects", type=int, default=20, help="of each setting")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--quick", type=int, default=200, help="projects of each quick setting")
    parser.add_argument("--plot", type=Path, default=Path("promises.png"))
    options = parser.parse_args()
    done = {name: accepted(name, options.projects) for name in options.settings}
    quick(options.quick)
    plot(done, options.plot)


# -- accepting with the product's head ----------------------------------------------------------


@dataclass
class Project:
    """One simulated project.

    Attributes:
        accepted: row → the answer that was accepted.
        first: labels after which something was accepted first; 0: never.
        looks: at the audit slice, one a version at most.
    """

    name: str
    x: Floats
    y: Ints
    learned: list[int] = field(default_factory=list)
    audited: list[int] = field(default_factory=list)
    accepted: dict[int, int] = field(default_factory=dict)
    first: int = 0
    looks: list[auto_accept.Look] = field(default_factory=list)

    @property
    def wrong(self) -> float:
        """Share of wrong answers among the accepted."""
        return float(np.mean([self.y[i] != k for i, k in self.accepted.items()] or [0.0]))


def accepted(setting: str, projects: int) -> list[float]:
    """Play some projects; the share of wrong answers among the accepted of each."""
    error, done = SETTINGS[setting], []
    print(f"\n{setting}, at most {error:.0%} errors, seeds 0 to {projects - 1}")
    print(f"{'seed':>4}{'first after':>12}{'labels':>8}{'accepted':>10}{'wrong':>8}")
    for seed in range(projects):
        project = Project(f"project {seed}", *world(setting, seed))
        play(project, error)
        labels = len(project.learned) + len(project.audited)
        print(
            f"{seed:>4}{project.first or '-':>12}{labels:>8}{len(project.accepted):>10}"
            f"{project.wrong:>8.1%}",
            flush=True,
        )
        done.append(project)
    broken = sum(project.wrong > error for project in done)
    some = sum(bool(project.accepted) for project in done)
    print(f"accepted in {some}, broken in {broken} of {projects} projects")
    return [project.wrong for project in done]


def world(setting: str, seed: int) -> tuple[Floats, Ints]:
    """Embeddings (n, d) of unit length and labels (n,) of a setting, shuffled."""
    from sklearn.datasets import load_digits

    random = np.random.default_rng(seed)
    x, y = clouds(random, setting) if "clouds" in setting else load_digits(return_X_y=True)
    order = random.permutation(len(x))
    x, y = x[order], y[order]
    if setting == "rare digits":
        kept = random.random(len(y)) < (0.03 ** (np.arange(10) / 9))[y]
        x, y = x[kept], y[kept]
    if setting in ("weak digits", "copies"):
        moved = x - x.mean(axis=0)
        x = moved @ np.linalg.svd(moved, full_matrices=False)[2][:5].T
    if setting == "copies":  # many images have exactly the same embedding and confidence
        x = np.round(x / x.std(axis=0)) + 0.1
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32), y.astype(np.int64)


def clouds(random: np.random.Generator, setting: str) -> tuple[npt.NDArray[np.float64], Ints]:
    """Six overlapping normal clouds of different weight in ten dimensions, 3,000 images."""
    weight = random.dirichlet(np.full(6, 5.0))
    if setting == "rare clouds":
        weight = 0.03 ** (np.arange(6) / 5)
    y = random.choice(6, 3000, p=weight / weight.sum())
    return random.normal(size=(6, 10))[y] + random.normal(size=(3000, 10)), y


def play(project: Project, error: float) -> None:
    """Rounds of ROUND labels, until MOST or until nothing is open."""
    head: Head | None = None
    for labels in range(ROUND, min(MOST, len(project.x) * 2 // 3) + 1, ROUND):
        serve(project, head)
        head = fitted(project.x, project.learned, project.y[project.learned], head)
        accept(project, head, error, labels)


def fitted(x: Floats, rows: list[int], given: Ints, previous: Head | None) -> Head:
    return fit_head(
        x[rows], targets(given), labels=NAMES, multiple=False, pool=x, previous=previous
    )


def targets(given: Ints) -> Floats:
    return np.asarray(np.eye(len(NAMES), dtype=np.float32)[given])


def serve(project: Project, head: Head | None) -> None:
    """People label the next ROUND tasks: a tenth of them audit tasks, in hash order."""
    rows = range(len(project.x))
    audit = [i for i in rows if is_audit(project.name, i) and i not in project.audited]
    audit.sort(key=lambda i: hash_rank(project.name, i))
    project.audited += audit[: ROUND // 10]
    gone = {*project.learned, *project.accepted}
    free = [i for i in rows if i not in gone and not is_audit(project.name, i)]
    project.learned += chosen(project.x, free, project.learned, head, ROUND - ROUND // 10)


def chosen(x: Floats, free: list[int], learned: list[int], head: Head | None, n: int) -> list[int]:
    """The next rows in the order of the policy."""
    unsure = np.ones(len(free), dtype=np.float32)
    if head is not None:
        unsure = uncertainty(head.probabilities(x[free]), multiple=False)
    state = coverage.survey(x[free], unsure, x[learned])
    return [free[i] for i in coverage.pick(state, min(n, len(free)), seeking=False)[0]]


def accept(project: Project, head: Head, error: float, labels: int) -> None:
    table = head.probabilities(project.x)
    sure = np.array([certainty(row, multiple=False) for row in table])
    given, audit = table.argmax(axis=1), project.audited
    level = look(sure[audit], given[audit] == project.y[audit], error, project.looks)
    if level.value is None:
        return
    gone = {*project.learned, *project.accepted}
    for i in np.flatnonzero(sure >= level.value).tolist():
        mine = is_audit(project.name, i) or auto_accept.for_people(project.name, i)
        if i not in gone and not mine:
            project.accepted[i] = int(given[i])
            project.first = project.first or labels


def look(
    sure: npt.NDArray[Any],
    right: npt.NDArray[np.bool_],
    error: float,
    looks: list[auto_accept.Look],
) -> auto_accept.Level:
    """A version's level; a look at the audit slice is added to the looks."""
    found = auto_accept.look(sure, right, error, looks)
    if found.chance:
        looks.append(auto_accept.Look(len(sure), found.chance, found.value is not None))
    return found


# -- accepting, quickly -------------------------------------------------------------------------


def quick(projects: int) -> None:
    """The rate: models whose margins get better round by round and keep most of their mistakes."""
    print(f"\nquick projects, seeds 0 to {projects - 1}")
    print(f"{'margin':>6}{'spread':>8}{'bound':>7}{'accepted in':>13}{'broken':>8}{'rate':>7}")
    for mean, spread, error in MARGINS:
        found = [margins(seed, mean, spread, error) for seed in range(projects)]
        some = [wrong for count, wrong in found if count]
        broken = sum(wrong > error for wrong in some)
        print(
            f"{mean:>6}{spread:>8}{error:>7.0%}{len(some):>13}{broken:>8}{broken / projects:>7.1%}",
            flush=True,
        )


def margins(seed: int, mean: float, spread: float, error: float) -> tuple[int, float]:
    """How many of 4,000 answers were accepted in 12 rounds of 200 labels, and the wrong share."""
    random = np.random.default_rng(seed)
    best, mistakes = random.normal(mean, spread, 4000), random.normal(0, 1, 4000)
    audit, free = np.arange(400), np.arange(4000) >= 400
    right_of: dict[int, bool] = {}
    looks: list[auto_accept.Look] = []
    for number in range(1, 13):
        mistakes = np.sqrt(0.8) * mistakes + np.sqrt(0.2) * random.normal(0, 1, 4000)
        sure, right = answers(number, best, mistakes) if mean else near(error, mistakes, random)
        rows = np.flatnonzero(free)
        free[rows[np.argsort(sure[rows])[:180]]] = False  # people label the least certain
        seen = audit[: 20 * number]
        level = look(sure[seen], right[seen], error, looks)
        if level.value is not None:
            taken = np.flatnonzero(free & (sure >= level.value))
            right_of |= dict(zip(taken.tolist(), right[taken].tolist(), strict=True))
            free[taken] = False
    return len(right_of), 1 - float(np.mean(list(right_of.values()) or [True]))


def answers(
    number: int, best: npt.NDArray[Any], mistakes: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Confidence and rightness after a round: margins that come nearer to the best model's."""
    skill = number / (number + 2)
    margin = skill * best + (1 - skill) * mistakes
    return 1 / (1 + np.exp(-6 * np.abs(margin))), margin > 0


def near(
    error: float, mistakes: npt.NDArray[Any], random: np.random.Generator
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """A confidence that says nothing, of answers that are wrong a tenth too often."""
    cut = -NormalDist().inv_cdf(1.1 * error)
    return random.random(len(mistakes)), mistakes < cut


def plot(done: dict[str, list[float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, max(1, len(done)), figsize=(3 * max(1, len(done)), 3))
    each: list[Any] = np.atleast_1d(axes).tolist()
    for axis, (setting, wrong) in zip(each, done.items(), strict=False):
        axis.bar(range(len(wrong)), wrong)
        axis.axhline(SETTINGS[setting], color="red")
        axis.set(title=setting, xlabel="project", ylim=(0, None))
    each[0].set_ylabel("share wrong among the accepted")
    figure.savefig(file, dpi=120, bbox_inches="tight")
    print(f"plot: {file}")


if __name__ == "__main__":
    main()
