"""Label errors: planted ones are found, with the right reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.domain import Control, ImageSize, Label, Region
from backend.inference.detections import RegionSample
from backend.learning import label_errors
from backend.learning.detection_metrics import DetectionSample
from backend.tools.label_errors import detect_out_of_sample
from backend.vision.detection.detections import Detections
from backend.vision.detection.trained_detector import ClassMapping
from backend.vision.heads.cross_validation import out_of_fold_probabilities
from backend.vision.heads.head import fit_head

NAMES = tuple("0123456789")


def flipped(seed: int) -> tuple[set[int], list[int]]:
    """Change the label of 8 % of 400 digits; return these rows, and the candidates."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    rows = rng.permutation(len(x))[:400]
    x = (x[rows] / np.linalg.norm(x[rows], axis=1, keepdims=True)).astype(np.float32)
    y = y[rows].copy()
    wrong = set(rng.choice(400, 32, replace=False).tolist())
    for i in wrong:
        y[i] = (y[i] + rng.integers(1, 10)) % 10
    targets = np.eye(10, dtype=np.float32)[y]
    head = fit_head(x, targets, labels=NAMES, multiple=False, pool=x)
    probabilities = out_of_fold_probabilities(head, x, targets)
    queue = label_errors.find_single_label_errors(
        range(400), "digit", NAMES, y.tolist(), probabilities
    )
    assert [s.quality for s in queue] == sorted(s.quality for s in queue)
    assert all(s.given != s.suggested and 0 <= s.mislabeling <= 1 for s in queue)
    return wrong, [s.task for s in queue]


def test_most_changed_labels_are_found_and_most_candidates_are_changed() -> None:
    recall, precision = [], []
    for seed in range(3):
        wrong, queue = flipped(seed)
        recall.append(len(wrong & set(queue)) / len(wrong))
        precision.append(len(wrong & set(queue[:20])) / 20)
    assert np.mean(recall) >= 0.65
    assert np.mean(precision) >= 0.85


def test_of_several_labels_the_wrong_one_is_given() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((200, 3)) < 0.4).astype(np.float32)
    probabilities = np.clip(truth * 0.9 + 0.05 + rng.normal(0, 0.03, truth.shape), 0.01, 0.99)
    given = truth.copy()
    given[:6, 1] = 1 - given[:6, 1]
    given[50:, 2] = np.nan  # not asked
    queue = label_errors.find_multi_label_errors(
        range(200), "c", "abc", given, probabilities.astype(np.float32)
    )
    assert len(queue) >= 4
    assert {s.task for s in queue} <= set(range(6))
    assert all({s.given, s.suggested} == {"b", "not b"} for s in queue)


def contradicted(counts: Sequence[int], quality: float) -> list[int]:
    """Return the candidates where one image per label is predicted as the next label.

    Args:
        counts: number of examples by label.
        quality: probability of the annotated label in these images; it is 0.97 in all others.
    """
    answers = [label for label, count in enumerate(counts) for _ in range(count)]
    table = np.full((len(answers), len(counts)), 0.03 / (len(counts) - 1), dtype=np.float32)
    table[range(len(answers)), answers] = 0.97
    for label in range(len(counts)):
        row = answers.index(label)
        table[row] = 0
        table[row, [label, (label + 1) % len(counts)]] = quality, 1 - quality
    return [
        candidate.task
        for candidate in label_errors.find_single_label_errors(
            range(len(answers)), "c", NAMES[: len(counts)], answers, table
        )
    ]


@pytest.mark.parametrize(
    ("counts", "quality", "found"),
    [
        ([9, 60], 0.001, 0),  # a label with nine examples
        ([6, 7], 0.001, 0),  # thirteen labels
        ([10, 10], 0.001, 2),
        ([10, 10], 0.04, 0),  # less confident than where the model agrees
        ([60, 60], 0.001, 2),
        ([60, 60, 9], 0.001, 1),  # the two that are predicted as or annotated as the third
    ],
)
def test_a_label_is_listed_only_with_enough_examples_and_a_clear_contradiction(
    counts: list[int], quality: float, found: int
) -> None:
    assert len(contradicted(counts, quality)) == found


def test_right_labels_of_few_images_are_rarely_listed() -> None:
    """A model of 40 images is often wrong, and none of the labels is."""
    from sklearn.datasets import load_digits

    x, y = load_digits(n_class=4, return_X_y=True)
    x = x.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(len(x), -1)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    listed = disagreements = 0
    for seed in range(10):
        rows = np.random.default_rng(seed).permutation(len(x))[:40]
        targets = np.eye(4, dtype=np.float32)[y[rows]]
        head = fit_head(x[rows], targets, labels=NAMES[:4], multiple=False, pool=x[rows])
        probabilities = out_of_fold_probabilities(head, x[rows], targets)
        disagreements += int((probabilities.argmax(axis=1) != y[rows]).sum())
        listed += len(
            label_errors.find_single_label_errors(
                range(40), "digit", NAMES[:4], y[rows].tolist(), probabilities
            )
        )
    assert disagreements >= 40
    assert listed <= 4


def test_without_enough_answers_or_objects_there_are_no_candidates() -> None:
    few = np.full((5, 2), 0.5, dtype=np.float32)
    assert label_errors.find_single_label_errors(range(5), "c", "ab", [0] * 5, few) == []
    one_label = np.full((50, 2), 0.5, dtype=np.float32)
    assert label_errors.find_single_label_errors(range(50), "c", "ab", [0] * 50, one_label) == []
    assert label_errors.find_region_errors([1], "c", "ab", [DetectionSample((), (), ())]) == []


def box(label: str, x: float, y: float = 0.3, size: float = 0.2) -> Region:
    return Region(label, x, y, x + size, y + size)


def scene(number: int, truth: tuple[Region, ...]) -> DetectionSample:
    """Return an image in which two apples and a pear are detected."""
    shift = 0.002 * (number % 5)
    found = (box("apple", 0.1 + shift), box("apple", 0.4), box("pear", 0.7))
    return DetectionSample(found, (0.97, 0.96, 0.95), truth)


def test_overlooked_badly_placed_and_swapped_boxes_get_their_reason() -> None:
    good = (box("apple", 0.1), box("apple", 0.4), box("pear", 0.7))
    images = [scene(i, good) for i in range(30)]
    images.append(scene(30, good[:2]))
    images.append(scene(31, (good[0], box("apple", 0.47, 0.42), good[2])))
    images.append(scene(32, (good[0], good[1], box("apple", 0.7))))
    queue = label_errors.find_region_errors(range(33), "fruit", ["apple", "pear"], images)
    why = {s.task: s.why for s in queue}
    assert set(why) == {30, 31, 32}
    assert why == {30: "overlooked", 31: "badly placed", 32: "swapped label"}
    assert {s.task: s.suggested for s in queue}[30] == "2 × apple, 1 × pear"


def test_overlooked_objects_are_ordered_by_confidence() -> None:
    good = (box("apple", 0.1), box("apple", 0.4), box("pear", 0.7))
    images = [scene(i, good) for i in range(10)]
    for confidence in (0.55, 0.99, 0.75):
        images.append(
            DetectionSample((*good, box("pear", 0.4, 0.7)), (0.97, 0.96, 0.95, confidence), good)
        )
    queue = label_errors.find_region_errors(range(13), "fruit", ["apple", "pear"], images)
    assert [s.task for s in queue] == [11, 12, 10]
    assert {s.why for s in queue} == {"overlooked"}
    assert queue[0].quality < 0.02 < 0.4 < queue[2].quality


def test_a_badly_placed_box_comes_before_an_uncertain_overlooked_object() -> None:
    good = (box("apple", 0.1), box("apple", 0.4), box("pear", 0.7))
    shifted = (good[0], box("apple", 0.47, 0.42), good[2])
    images = [scene(i, good) for i in range(10)]
    images.append(DetectionSample((*good, box("pear", 0.4, 0.7)), (0.97, 0.96, 0.95, 0.52), good))
    images.append(scene(11, shifted))
    queue = label_errors.find_region_errors(range(12), "fruit", ["apple", "pear"], images)
    assert [(s.task, s.why) for s in queue] == [(11, "badly placed"), (10, "overlooked")]


def test_a_task_is_assigned_to_the_newest_version_not_trained_on_it() -> None:
    learned = [("v1", {1, 2}), ("v3", {1, 2, 3}), ("v4", {1, 3, 4})]
    assignments = label_errors.assign_judging_versions(learned, [1, 2, 3, 4, 5])
    assert assignments == {"v1": [3], "v3": [4], "v4": [5]}, (
        "v4 is fine-tuned from v1, which was trained on 2"
    )
    assert label_errors.assign_judging_versions([], [1]) == {}


class RepeatingDetector:
    """A detector that repeats its training annotations, and detects apples in other images."""

    def __init__(
        self, training_annotations: dict[int, tuple[Region, ...]], labels: tuple[str, ...]
    ) -> None:
        self.training_annotations = training_annotations
        self.class_mapping = ClassMapping(False, labels, {i: i for i in range(len(labels))}, {}, 64)

    def detect(self, images: Sequence[Image.Image], min_confidence: float) -> list[Detections]:
        return [self._found(image.width) for image in images]

    def _found(self, task: int) -> Detections:
        regions = self.training_annotations.get(task, (box("apple", 0.1), box("apple", 0.5)))
        corners = [(p.x0, p.y0, p.x1, p.y1) for p in regions]
        return Detections(
            np.array(corners, dtype=np.float32).reshape(-1, 4),
            np.full(len(regions), 0.97, dtype=np.float32),
            np.zeros(len(regions), dtype=np.int64),
        )

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def test_a_wrong_box_in_the_training_set_is_found_by_an_older_version() -> None:
    control = Control("fruit", "image", "image", (Label("apple"),), "boxes")
    good = (box("apple", 0.1), box("apple", 0.5))
    marks: dict[int, tuple[Region, ...]] = dict.fromkeys(range(1, 21), good)
    marks[15] = good[:1]
    samples = [
        RegionSample(t, lambda t=t: Image.new("RGB", (t, 8)), ImageSize(t, 8), regions)  # type: ignore[misc]
        for t, regions in marks.items()
    ]
    first = {task: marks[task] for task in range(1, 11)}
    detectors = {
        "v1": RepeatingDetector(first, ("apple",)),
        "v2": RepeatingDetector(marks, ("apple",)),
    }
    assignments = label_errors.assign_judging_versions(
        [("v1", first.keys()), ("v2", marks.keys())], marks
    )
    tasks, judged = detect_out_of_sample(control, samples, assignments, detectors.get)
    assert tasks == list(range(11, 21)), "no version can judge the training tasks of the first"
    queue = label_errors.find_region_errors(tasks, "fruit", ["apple"], judged)
    assert [(s.task, s.why) for s in queue] == [(15, "overlooked")]
    live = detect_out_of_sample(control, samples, {"v2": list(marks)}, detectors.get)
    assert label_errors.find_region_errors(live[0], "fruit", ["apple"], live[1]) == [], (
        "the live version agrees with its training labels"
    )
    old = {"v1": RepeatingDetector(first, ("pear",)), "v2": detectors["v2"]}
    assert detect_out_of_sample(control, samples, assignments, old.get) == ([], [])
