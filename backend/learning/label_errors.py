"""Labels that are probably wrong: a queue to look through, never a verdict.

The ranking is cleanlab's: confident learning for answers (Northcutt et al. 2021, arXiv 1911.00068),
ObjectLab for boxes (Tkachenko et al. 2023, arXiv 2309.00832). About half of what is flagged is a
real error. Only out-of-sample confidence may go in: a model believes what it was taught.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats
from backend.domain import Place
from backend.learning.detection_metrics import Judged

FEWEST = 10
"""Answers below which nothing is ranked."""
SURE = 0.5
"""Confidence from which a find speaks against a person. cleanlab's own 0.95 is for detectors that
saw thousands of images."""
FLAGGED = 0.5
"""Quality of an image's worst box below which it is looked through."""


@dataclass(frozen=True)
class Suspect:
    """An answer that is probably wrong.

    Attributes:
        task: its number.
        control: that was answered.
        given: what a person answered, for people.
        suggested: what the model believes, for people.
        quality: 0 (surely wrong) to 1.
        why: ``wrong label``, ``overlooked``, ``badly placed`` or ``swapped label``.
    """

    task: int
    control: str
    given: str
    suggested: str
    quality: float
    why: str = "wrong label"

    @property
    def mislabeling(self) -> float:
        """As Label Studio's predictions carry it: 1 − quality."""
        return round(1 - self.quality, 6)


def single(
    tasks: Sequence[int], control: str, labels: Sequence[str], given: Sequence[int], belief: Floats
) -> list[Suspect]:
    """Suspects among answers with one label each, the most suspicious first.

    Args:
        tasks: (n) task numbers.
        control: its name.
        labels: (K) label names.
        given: (n) index of the label that a person gave.
        belief: (n, K) float32 out-of-sample confidence; rows sum to 1.
    """
    if len(tasks) < FEWEST or len(set(given)) < 2:
        return []
    with _quiet():
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        truth, known = np.asarray(given), np.asarray(belief, dtype=np.float64)
        flagged = find_label_issues(truth, known, n_jobs=1, filter_by="prune_by_noise_rate")
        quality = get_label_quality_scores(truth, known, method="self_confidence")
    found = [
        Suspect(
            tasks[i],
            control,
            labels[int(truth[i])],
            labels[int(belief[i].argmax())],
            round(float(quality[i]), 6),
        )
        for i in map(int, np.flatnonzero(flagged & (belief.argmax(axis=1) != truth)))
    ]
    return sorted(found, key=lambda suspect: suspect.quality)


def several(
    tasks: Sequence[int], control: str, labels: Sequence[str], given: Floats, belief: Floats
) -> list[Suspect]:
    """Suspects among answers with several labels, each label for itself.

    Args:
        tasks: (n) task numbers.
        control: its name.
        labels: (K) label names.
        given: (n, K) float32, 1 chosen, 0 not, NaN nobody was asked.
        belief: (n, K) float32 out-of-sample confidence, 0 to 1 each.
    """
    found: list[Suspect] = []
    for k, label in enumerate(labels):
        rows = np.flatnonzero(~np.isnan(given[:, k]))
        answers = given[rows, k].astype(int)
        both = np.stack([1 - belief[rows, k], belief[rows, k]], axis=1)
        names = (f"not {label}", label)
        found += single([tasks[int(i)] for i in rows], control, names, answers.tolist(), both)
    first: dict[int, Suspect] = {}
    for suspect in sorted(found, key=lambda suspect: suspect.quality):
        first.setdefault(suspect.task, suspect)
    return list(first.values())


def marked(
    tasks: Sequence[int], control: str, labels: Sequence[str], images: Sequence[Judged]
) -> list[Suspect]:
    """Suspects among images with boxes (or points as boxes), the most suspicious first.

    Args:
        tasks: (n) task numbers.
        control: its name.
        labels: label names.
        images: (n) out-of-sample finds of any confidence, and what a person marked.
    """
    if not any(image.truth for image in images) or not any(image.found for image in images):
        return []
    both = {
        "labels": [_annotated(image, labels) for image in images],
        "predictions": [_predicted(image, labels) for image in images],
    }
    with _quiet():
        from cleanlab.object_detection.rank import (
            compute_badloc_box_scores,
            compute_overlooked_box_scores,
            compute_swap_box_scores,
        )

        parts = {
            "overlooked": _doubted(
                both["predictions"],
                compute_overlooked_box_scores(**both, high_probability_threshold=SURE),
            ),
            "badly placed": compute_badloc_box_scores(**both),
            "swapped label": compute_swap_box_scores(**both, high_probability_threshold=SURE),
        }
    found = []
    for i, image in enumerate(images):
        worst = {why: _least(scores[i]) for why, scores in parts.items()}
        why = min(worst, key=lambda name: worst[name])
        if worst[why] < FLAGGED:
            seen, sure = _counted(image.truth), _counted(_sure(image))
            found.append(Suspect(tasks[i], control, seen, sure, round(worst[why], 6), why))
    return sorted(found, key=lambda suspect: suspect.quality)


def unseen_by(
    learned: Sequence[tuple[str, Set[int]]], tasks: Iterable[int]
) -> dict[str, list[int]]:
    """Who may judge which label: the newest version that cannot have learned from it.

    Args:
        learned: by version, oldest first, the tasks it learned from. A version goes on from those
            before it, so that it knows what they learned as well.
        tasks: that are to be judged.

    Returns:
        by version, its tasks; those that the first version learned from are left out.

    Example:
        >>> unseen_by([("v1", {1}), ("v2", {1, 2})], [1, 2, 3])
        {'v1': [2], 'v2': [3]}
    """
    known: list[tuple[str, set[int]]] = []
    for version, new in learned:
        known.append((version, known[-1][1] | new if known else set(new)))
    found: dict[str, list[int]] = {version: [] for version, _ in known}
    for task in tasks:
        judge = next((v for v, seen in reversed(known) if task not in seen), None)
        if judge is not None:
            found[judge].append(task)
    return {version: its for version, its in found.items() if its}


def _annotated(image: Judged, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "bboxes": _corners(image.truth),
        "labels": np.array([labels.index(p.label) for p in image.truth], dtype=int),
    }


def _predicted(image: Judged, labels: Sequence[str]) -> Any:
    """As cleanlab takes finds: by label, (m, 5) corners and confidence."""
    table = np.empty(len(labels), dtype=object)
    for k, label in enumerate(labels):
        rows = [i for i, place in enumerate(image.found) if place.label == label]
        boxes = _corners([image.found[i] for i in rows])
        sure = np.array([[image.confidence[i]] for i in rows]).reshape(-1, 1)
        table[k] = np.concatenate([boxes, sure], axis=1).astype(np.float32)
    return table


def _doubted(predictions: Sequence[Any], scores: Sequence[Any]) -> list[Any]:
    """Quality of finds without a box, not below their doubt, 1 − confidence.

    cleanlab's is all but 0 for each of them, because it looks only at finds above 0.95: from SURE
    on a weak find would come before a certain one, and before every box that is badly placed.
    """
    doubts = [1 - np.concatenate([rows[:, 4] for rows in table]) for table in predictions]
    return [np.maximum(s, doubt) for s, doubt in zip(scores, doubts, strict=True)]


def _corners(places: Sequence[Place]) -> npt.NDArray[np.float32]:
    """In thousandths of the image, because cleanlab counts pixels."""
    rows = [(p.x0, p.y0, p.x1, p.y1) for p in places]
    return np.asarray(1000 * np.array(rows, dtype=np.float32).reshape(-1, 4), dtype=np.float32)


def _least(scores: Any) -> float:
    known = np.asarray(scores, dtype=float)
    known = known[~np.isnan(known)]
    return float(known.min()) if len(known) else 1.0


def _sure(image: Judged) -> list[Place]:
    pairs = zip(image.found, image.confidence, strict=True)
    return [place for place, confidence in pairs if confidence >= SURE]


def _counted(places: Sequence[Place]) -> str:
    names = sorted({place.label for place in places})
    counts = (f"{sum(p.label == name for p in places)} × {name}" for name in names)
    return ", ".join(counts) or "nothing"


@contextmanager
def _quiet() -> Iterator[None]:
    """cleanlab warns of label sets that are small or lopsided, which ours often are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
