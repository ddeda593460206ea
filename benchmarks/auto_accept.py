"""Measure how often auto-accept exceeds its error bound, in simulated projects.

    uv run python -m benchmarks.auto_accept [--projects 20] [--quick 200] [--plot FILE]

Each project labels images in the order of the policy, one in ten an audit task, in rounds of 100.
After each round the product's head is trained, its threshold is tested on the labeled audit tasks
within the budget of the project, and open predictions above it are accepted for good, except the
share that people review. Quick projects draw margins instead of training heads, to measure the rate
on many projects; the models of the last rows err a little more often than the bound, whatever their
confidence.

Goal: in at most 5 % of the projects, the error rate of all accepted predictions exceeds the bound.
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
from backend.inference.confidence import choice_confidence
from backend.learning import auto_accept, coverage
from backend.learning.audit import hash_rank, is_audit
from backend.learning.selection import uncertainty
from backend.vision.heads.head import Head, fit_head
from benchmarks.plots import saved_plot

LABELS_PER_ROUND, MAX_LABELS = 100, 1100
LABEL_NAMES = tuple(map(str, range(10)))
ERROR_BOUNDS = {
    "digits": 0.05,
    "weak digits": 0.2,
    "clouds": 0.1,
    "rare clouds": 0.05,
    "copies": 0.2,
}
"""Error bound of each setting: near the error rate of its most confident predictions, where it is
hardest to keep."""
QUICK_PROJECTS = (
    *((0.6, 0.4, 0.05), (1.0, 0.7, 0.05), (0.4, 0.4, 0.1), (0.5, 0.6, 0.1)),
    *((0.0, 0.0, 0.05), (0.0, 0.0, 0.1)),
)
"""Mean and spread of the margins of the best model, and the error bound. With a mean of 0 the error
rate is 1.1 times the bound, whatever the confidence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projects", type=int, default=20, help="projects of each setting")
    parser.add_argument(
        "--settings", nargs="*", default=list(ERROR_BOUNDS), choices=list(ERROR_BOUNDS)
    )
    parser.add_argument("--quick", type=int, default=200, help="projects of each quick setting")
    parser.add_argument("--plot", type=Path, default=Path("promises.png"))
    options = parser.parse_args()
    errors_by_setting = {name: run_setting(name, options.projects) for name in options.settings}
    run_quick_projects(options.quick)
    plot_errors(errors_by_setting, options.plot)


# -- accepting with the product's head ----------------------------------------------------------


@dataclass
class SimulatedProject:
    """One simulated project.

    Attributes:
        accepted_answers: row → accepted prediction.
        first_accepted_at: number of labels at the first acceptance; 0: never.
        audit_looks: tests on the audit set, at most one per version.
    """

    name: str
    embeddings: Floats
    true_labels: Ints
    learned_rows: list[int] = field(default_factory=list)
    audited_rows: list[int] = field(default_factory=list)
    accepted_answers: dict[int, int] = field(default_factory=dict)
    first_accepted_at: int = 0
    audit_looks: list[auto_accept.ThresholdTest] = field(default_factory=list)

    @property
    def error_share(self) -> float:
        """Error rate of the accepted predictions."""
        return float(
            np.mean(
                [self.true_labels[i] != answer for i, answer in self.accepted_answers.items()]
                or [0.0]
            )
        )


def run_setting(setting: str, projects: int) -> list[float]:
    """Simulate projects; return the error rate of the accepted predictions of each."""
    error, finished_projects = ERROR_BOUNDS[setting], []
    print(f"\n{setting}, at most {error:.0%} errors, seeds 0 to {projects - 1}")
    print(f"{'seed':>4}{'first after':>12}{'labels':>8}{'accepted':>10}{'wrong':>8}")
    for seed in range(projects):
        project = SimulatedProject(f"project {seed}", *make_dataset(setting, seed))
        run_rounds(project, error)
        label_count = len(project.learned_rows) + len(project.audited_rows)
        accepted = f"{len(project.accepted_answers):>10}{project.error_share:>8.1%}"
        first = project.first_accepted_at or "-"
        print(f"{seed:>4}{first:>12}{label_count:>8}{accepted}", flush=True)
        finished_projects.append(project)
    broken_count = sum(project.error_share > error for project in finished_projects)
    accepting_count = sum(bool(project.accepted_answers) for project in finished_projects)
    print(f"accepted in {accepting_count}, broken in {broken_count} of {projects} projects")
    return [project.error_share for project in finished_projects]


def make_dataset(setting: str, seed: int) -> tuple[Floats, Ints]:
    """Return shuffled embeddings, (n, d) of unit length, and labels, (n,), of a setting."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    x, y = make_clouds(rng, setting) if "clouds" in setting else load_digits(return_X_y=True)
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    if setting == "rare digits":
        kept_rows = rng.random(len(y)) < (0.03 ** (np.arange(10) / 9))[y]
        x, y = x[kept_rows], y[kept_rows]
    if setting in ("weak digits", "copies"):
        centred = x - x.mean(axis=0)
        x = centred @ np.linalg.svd(centred, full_matrices=False)[2][:5].T
    if setting == "copies":  # many images have exactly the same embedding and confidence
        x = np.round(x / x.std(axis=0)) + 0.1
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32), y.astype(np.int64)


def make_clouds(rng: np.random.Generator, setting: str) -> tuple[npt.NDArray[np.float64], Ints]:
    """Draw 3,000 points of six overlapping normal clouds of different weight, in 10 dimensions."""
    weight = rng.dirichlet(np.full(6, 5.0))
    if setting == "rare clouds":
        weight = 0.03 ** (np.arange(6) / 5)
    y = rng.choice(6, 3000, p=weight / weight.sum())
    return rng.normal(size=(6, 10))[y] + rng.normal(size=(3000, 10)), y


def run_rounds(project: SimulatedProject, error: float) -> None:
    """Run rounds until ``MAX_LABELS`` or two thirds of the images are labeled."""
    head: Head | None = None
    for label_count in range(
        LABELS_PER_ROUND, min(MAX_LABELS, len(project.embeddings) * 2 // 3) + 1, LABELS_PER_ROUND
    ):
        label_next_tasks(project, head)
        head = fit_project_head(
            project.embeddings,
            project.learned_rows,
            project.true_labels[project.learned_rows],
            head,
        )
        accept_answers(project, head, error, label_count)


def fit_project_head(x: Floats, rows: list[int], labels_given: Ints, previous: Head | None) -> Head:
    return fit_head(
        x[rows],
        one_hot_targets(labels_given),
        labels=LABEL_NAMES,
        multiple=False,
        pool=x,
        previous=previous,
    )


def one_hot_targets(labels_given: Ints) -> Floats:
    return np.asarray(np.eye(len(LABEL_NAMES), dtype=np.float32)[labels_given])


def label_next_tasks(project: SimulatedProject, head: Head | None) -> None:
    """Label the tasks of one round: a tenth of them audit tasks, in hash order."""
    rows = range(len(project.embeddings))
    audit = [i for i in rows if is_audit(project.name, i) and i not in project.audited_rows]
    audit.sort(key=lambda i: hash_rank(project.name, i))
    project.audited_rows += audit[: LABELS_PER_ROUND // 10]
    taken_rows = {*project.learned_rows, *project.accepted_answers}
    open_rows = [i for i in rows if i not in taken_rows and not is_audit(project.name, i)]
    project.learned_rows += select_rows(
        project.embeddings,
        open_rows,
        project.learned_rows,
        head,
        LABELS_PER_ROUND - LABELS_PER_ROUND // 10,
    )


def select_rows(
    x: Floats, open_rows: list[int], learned_rows: list[int], head: Head | None, count: int
) -> list[int]:
    """Return the next rows in the order of the policy."""
    uncertainties = np.ones(len(open_rows), dtype=np.float32)
    if head is not None:
        uncertainties = uncertainty(head.probabilities(x[open_rows]), multiple=False)
    coverage_state = coverage.build_coverage(x[open_rows], uncertainties, x[learned_rows])
    return [
        open_rows[i]
        for i in coverage.pick_images(
            coverage_state, min(count, len(open_rows)), explore_every=False
        )[0]
    ]


def accept_answers(project: SimulatedProject, head: Head, error: float, label_count: int) -> None:
    probabilities = head.probabilities(project.embeddings)
    confidences = np.array([choice_confidence(row, multiple=False) for row in probabilities])
    predicted, audit = probabilities.argmax(axis=1), project.audited_rows
    level = test_level(
        confidences[audit],
        predicted[audit] == project.true_labels[audit],
        error,
        project.audit_looks,
    )
    if level.value is None:
        return
    taken_rows = {*project.learned_rows, *project.accepted_answers}
    for i in np.flatnonzero(confidences >= level.value).tolist():
        reserved_for_people = is_audit(project.name, i) or auto_accept.is_held_for_review(
            project.name, i
        )
        if i not in taken_rows and not reserved_for_people:
            project.accepted_answers[i] = int(predicted[i])
            project.first_accepted_at = project.first_accepted_at or label_count


def test_level(
    confidences: npt.NDArray[Any],
    correct: npt.NDArray[np.bool_],
    error: float,
    audit_looks: list[auto_accept.ThresholdTest],
) -> auto_accept.AcceptThreshold:
    """Return a version's threshold; record the test on the audit set, if one was made."""
    level_found = auto_accept.find_budgeted_threshold(confidences, correct, error, audit_looks)
    if level_found.alpha:
        audit_looks.append(
            auto_accept.ThresholdTest(
                len(confidences), level_found.alpha, level_found.value is not None
            )
        )
    return level_found


# -- accepting, quickly -------------------------------------------------------------------------


def run_quick_projects(projects: int) -> None:
    """Print how often the bound is exceeded by models that improve and keep most mistakes."""
    print(f"\nquick projects, seeds 0 to {projects - 1}")
    print(f"{'margin':>6}{'spread':>8}{'bound':>7}{'accepted in':>13}{'broken':>8}{'rate':>7}")
    for mean, spread, error in QUICK_PROJECTS:
        quick_results = [simulate_margins(seed, mean, spread, error) for seed in range(projects)]
        accepting_errors = [wrong for count, wrong in quick_results if count]
        broken_count = sum(wrong > error for wrong in accepting_errors)
        setting = f"{mean:>6}{spread:>8}{error:>7.0%}"
        rate = f"{broken_count:>8}{broken_count / projects:>7.1%}"
        print(f"{setting}{len(accepting_errors):>13}{rate}", flush=True)


def simulate_margins(seed: int, mean: float, spread: float, error: float) -> tuple[int, float]:
    """Return how many of 4,000 predictions were accepted in 12 rounds, and their error rate."""
    rng = np.random.default_rng(seed)
    best_margins, mistakes = rng.normal(mean, spread, 4000), rng.normal(0, 1, 4000)
    audit, open_mask = np.arange(400), np.arange(4000) >= 400
    correct_by_row: dict[int, bool] = {}
    audit_looks: list[auto_accept.ThresholdTest] = []
    for number in range(1, 13):
        mistakes = np.sqrt(0.8) * mistakes + np.sqrt(0.2) * rng.normal(0, 1, 4000)
        confidences, correct = (
            simulate_confidences(number, best_margins, mistakes)
            if mean
            else simulate_uninformative(error, mistakes, rng)
        )
        rows = np.flatnonzero(open_mask)
        open_mask[rows[np.argsort(confidences[rows])[:180]]] = (
            False  # people label the least certain
        )
        labeled_audit = audit[: 20 * number]
        level = test_level(confidences[labeled_audit], correct[labeled_audit], error, audit_looks)
        if level.value is not None:
            accepted_rows = np.flatnonzero(open_mask & (confidences >= level.value))
            correct_by_row |= dict(
                zip(accepted_rows.tolist(), correct[accepted_rows].tolist(), strict=True)
            )
            open_mask[accepted_rows] = False
    return len(correct_by_row), 1 - float(np.mean(list(correct_by_row.values()) or [True]))


def simulate_confidences(
    number: int, best_margins: npt.NDArray[Any], mistakes: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return confidence and correctness after a round; margins approach those of the best model."""
    skill = number / (number + 2)
    margin = skill * best_margins + (1 - skill) * mistakes
    return 1 / (1 + np.exp(-6 * np.abs(margin))), margin > 0


def simulate_uninformative(
    error: float, mistakes: npt.NDArray[Any], rng: np.random.Generator
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return a random confidence, and an error rate of 1.1 times the bound."""
    error_quantile = -NormalDist().inv_cdf(1.1 * error)
    return rng.random(len(mistakes)), mistakes < error_quantile


def plot_errors(errors_by_setting: dict[str, list[float]], file: Path) -> None:
    columns = max(1, len(errors_by_setting))
    with saved_plot(file, columns, (3 * columns, 3)) as axes:
        for axis, (setting, error_shares) in zip(axes, errors_by_setting.items(), strict=False):
            axis.bar(range(len(error_shares)), error_shares)
            axis.axhline(ERROR_BOUNDS[setting], color="red")
            axis.set(title=setting, xlabel="project", ylim=(0, None))
        axes[0].set_ylabel("error rate of accepted predictions")


if __name__ == "__main__":
    main()
