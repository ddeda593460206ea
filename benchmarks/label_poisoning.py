"""Measure how many poisoned labels the quality gate stops, on scikit-learn's digits.

    uv run python -m benchmarks.label_poisoning [--seeds 20]

A project grows by rounds of ten labels in the order of the policy, with the product's heads. Then
labels arrive clean or with 30 % of them wrong: random, or swapped between pairs of labels. *One
round* adds them all at once. *Rounds of ten* add them one round after the other; a round that is
not held back goes live, and the table shows the share of projects in which one was held back by
then. *Rare* makes each digit rarer than the one before, down to 0.03.

Goal: hold back most poisoned rounds and few clean ones, without any audit label.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from backend.arrays import Ints
from backend.learning import version_comparison
from backend.learning.contradiction import (
    AnsweredQuestions,
    ContradictionResult,
    ProbabilityCalibration,
    measure_contradiction,
)
from backend.loop.evaluate.gate import CALIBRATION_IMAGE_COUNT, MAX_WINDOW_LABELS, WINDOW_GROWTH
from backend.loop.evaluate.past_versions import MIN_HEAD_EXAMPLES
from backend.vision.heads.head import Head
from benchmarks.auto_accept import fit_project_head, make_dataset, select_rows

POISONED_SHARE = 0.3
POISONING_KINDS = ("clean", "random", "swapped")
LIVE_LABEL_COUNTS = (60, 100, 200)
"""Numbers of training labels of the live version."""
ROUND_LABEL_COUNTS = (30, 60)
"""Numbers of labels added in one round."""
BATCH_SIZE, BATCH_COUNT = 10, 4
AUDIT_IMAGE_COUNT = 60
"""Number of images that are never trained on."""
ResultKey = tuple[int, str, str]
"""Labels of the live version, the kind of round, and one of ``POISONING_KINDS``."""


@dataclass
class LabelingHistory:
    """A simulated project: its labels in order, and its versions.

    Attributes:
        embeddings: (n, d) embeddings of all images.
        true_labels: (n,) true label indices.
        labeled_rows: labeled images, in the order of their labels.
        labels_given: annotated label of each labeled image.
        heads: one per version, the live one last.
        label_counts: number of training labels of each version.
    """

    embeddings: npt.NDArray[np.float32]
    true_labels: Ints
    labeled_rows: list[int]
    labels_given: list[int]
    heads: list[Head] = field(default_factory=list)
    label_counts: list[int] = field(default_factory=list)

    def fit_version(self) -> None:
        """Train a new version, which goes live."""
        before = self.heads[-1] if self.heads else None
        self.heads.append(
            fit_project_head(
                self.embeddings, self.labeled_rows, np.array(self.labels_given), before
            )
        )
        self.label_counts.append(len(self.labeled_rows))

    def next_rows(self, count: int) -> list[int]:
        """Return the images that the policy selects."""
        open_rows = sorted(
            set(range(AUDIT_IMAGE_COUNT, len(self.embeddings))) - set(self.labeled_rows)
        )
        return select_rows(self.embeddings, open_rows, self.labeled_rows, self.heads[-1], count)

    def add_labels(self, new_rows: list[int], new_labels: Ints) -> None:
        self.labeled_rows = self.labeled_rows + new_rows
        self.labels_given = self.labels_given + new_labels.tolist()

    def copy(self) -> LabelingHistory:
        return LabelingHistory(
            self.embeddings,
            self.true_labels,
            self.labeled_rows,
            self.labels_given,
            list(self.heads),
            list(self.label_counts),
        )

    def evaluate_gate(self, seed: int) -> version_comparison.GateVerdict:
        """Return the gate's verdict on the latest labels, with the windows that the loop uses."""
        contradictions: list[tuple[str, ContradictionResult]] = []
        last_count = 0
        for number in reversed(range(len(self.label_counts))):
            new_rows = len(self.labeled_rows) - self.label_counts[number]
            if contradictions and new_rows > MAX_WINDOW_LABELS:
                break
            if (
                new_rows < WINDOW_GROWTH * last_count
                or self.label_counts[number] < MIN_HEAD_EXAMPLES
            ):
                continue
            last_count = new_rows
            window = self._probability_window(
                number, self.label_counts[number], len(self.labeled_rows)
            )
            rng = np.random.default_rng(seed)
            contradictions.append(
                (f"v{number}", measure_contradiction(window, self._estimate_trust(number), rng))
            )
        return version_comparison.check_recent_labels(contradictions)

    def _estimate_trust(self, number: int) -> ProbabilityCalibration:
        parts: list[AnsweredQuestions] = []
        for version_index in reversed(range(number)):
            if (
                self.label_counts[version_index] >= MIN_HEAD_EXAMPLES
                and sum(part.images for part in parts) < CALIBRATION_IMAGE_COUNT
            ):
                parts.append(
                    self._probability_window(
                        version_index,
                        self.label_counts[version_index],
                        self.label_counts[version_index + 1],
                    )
                )
        return (
            ProbabilityCalibration.fit(AnsweredQuestions.concatenate(parts))
            if parts
            else ProbabilityCalibration()
        )

    def _probability_window(self, number: int, start: int, end: int) -> AnsweredQuestions:
        probabilities = self.heads[number].probabilities(
            self.embeddings[self.labeled_rows[start:end]]
        )
        return AnsweredQuestions.from_single_labels(
            probabilities, self.labels_given[start:end], range(end - start)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    for setting in ("digits", "rare digits"):
        print_held_back(setting, options.seeds)


def print_held_back(setting: str, seeds: int) -> None:
    """Print the share of rounds or projects that were held back."""
    held_back: dict[ResultKey, list[bool]] = defaultdict(list)
    for seed in range(1, seeds + 1):
        for key, is_held_back in run_project(setting, seed):
            held_back[key].append(is_held_back)
    print(f"\n{setting}, seeds 1 to {seeds}: held back")
    print(f"{'labels':>7} {'':<22}" + "".join(f"{poisoning:>9}" for poisoning in POISONING_KINDS))
    for base, event_name, _ in [key for key in held_back if key[2] == "clean"]:
        cells = [held_back.get((base, event_name, poisoning)) for poisoning in POISONING_KINDS]
        cells_text = "".join(f"{np.mean(cell):>9.0%}" if cell else f"{'':>9}" for cell in cells)
        print(f"{base or '':>7} {event_name:<22}{cells_text}", flush=True)


def run_project(setting: str, seed: int) -> Iterator[tuple[ResultKey, bool]]:
    """Simulate one project; yield each event and whether it was held back."""
    x, y = make_dataset(setting, seed)
    rng = np.random.default_rng(seed)
    first = rng.choice(np.arange(AUDIT_IMAGE_COUNT, len(x)), 2 * BATCH_SIZE, replace=False).tolist()
    history = LabelingHistory(x, y, first, y[first].tolist())
    history.fit_version()
    while True:
        label_count = len(history.labeled_rows)
        if label_count in LIVE_LABEL_COUNTS:
            yield from test_single_rounds(history, seed, rng)
            yield from test_round_series(history, seed, rng)
        if label_count >= max(LIVE_LABEL_COUNTS):
            return
        new_rows = history.next_rows(BATCH_SIZE)
        history.add_labels(new_rows, y[new_rows])
        yield (0, "every round from 20 on", "clean"), not history.evaluate_gate(seed).is_passed
        history.fit_version()


def test_single_rounds(
    history: LabelingHistory, seed: int, rng: np.random.Generator
) -> Iterator[tuple[ResultKey, bool]]:
    for label_count in ROUND_LABEL_COUNTS:
        new_rows = history.next_rows(label_count)
        for poisoning in POISONING_KINDS:
            branch = history.copy()
            branch.add_labels(new_rows, poison_labels(branch.true_labels[new_rows], poisoning, rng))
            key = (len(history.labeled_rows), f"one round of {label_count}", poisoning)
            yield key, not branch.evaluate_gate(seed).is_passed


def test_round_series(
    history: LabelingHistory, seed: int, rng: np.random.Generator
) -> Iterator[tuple[ResultKey, bool]]:
    for poisoning in POISONING_KINDS:
        branch, is_held_back = history.copy(), False
        for number in range(1, BATCH_COUNT + 1):
            new_rows = branch.next_rows(BATCH_SIZE)
            branch.add_labels(new_rows, poison_labels(branch.true_labels[new_rows], poisoning, rng))
            is_held_back = is_held_back or not branch.evaluate_gate(seed).is_passed
            yield (
                (len(history.labeled_rows), f"rounds of ten, by {number}", poisoning),
                is_held_back,
            )
            if not is_held_back:
                branch.fit_version()


def poison_labels(given: Ints, poisoning: str, rng: np.random.Generator) -> Ints:
    """Return labels with ``POISONED_SHARE`` of them random or swapped between pairs."""
    new_labels, wrong_count = given.copy(), round(POISONED_SHARE * len(given))
    if poisoning == "random":
        poisoned_rows = rng.choice(len(new_labels), wrong_count, replace=False)
        new_labels[poisoned_rows] = (
            new_labels[poisoned_rows] + rng.integers(1, 10, len(poisoned_rows))
        ) % 10
    elif poisoning == "swapped":
        partner = np.zeros(10, dtype=np.int64)
        for first_label, second_label in rng.permutation(10).reshape(5, 2):
            partner[first_label], partner[second_label] = second_label, first_label
        pairs = np.minimum(new_labels, partner[new_labels])
        poisoned_rows = np.argsort(rng.permutation(10)[pairs], kind="stable")[:wrong_count]
        new_labels[poisoned_rows] = partner[new_labels[poisoned_rows]]
    return new_labels


if __name__ == "__main__":
    main()
