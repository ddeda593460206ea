"""How good a model's answers are where a person's are known: figures, and what rests on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.arrays import Floats
from backend.domain import Answer, Control, ImageSize
from backend.inference.confidence import certainty, find_certainty
from backend.inference.detections import Sample, judged_on, shown
from backend.inference.model import Model, answer_of, choose
from backend.learning.classification_metrics import Figure, accuracy, figures, share
from backend.learning.detection_metrics import Judged, PlaceKind, Tally, judge, rights, tally
from backend.learning.thresholds import threshold
from backend.training.head import Examples
from backend.vision.detection.trained_detector import Finder, Finds

NO_SIZE = ImageSize(0, 0)
TRAINED = "fine-tuned"
Evidence = dict[str, tuple[list[float], list[bool]]]


@dataclass(frozen=True)
class Judgement:
    """How one control was answered.

    Attributes:
        figure: the share of right answers, or F1.
        told: all other figures, as plain JSON.
        right: task → whether the whole answer was right.
        sure: task → confidence of the whole answer, 0 to 1.
        tallies: of boxes and points: task → what was right, found, there.
        evidence: label → confidence of its predictions, and whether each was right.
        blank: tasks of which no label was chosen.
    """

    figure: Figure
    told: dict[str, Any]
    right: dict[int, bool] = field(default_factory=dict)
    sure: dict[int, float] = field(default_factory=dict)
    tallies: dict[int, Tally] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=dict)
    blank: frozenset[int] = frozenset()

    def thresholds(self, wanted: float) -> dict[str, float]:
        """By label, the confidence from which on it is shown; see ``threshold``."""
        return {label: threshold(*rows, wanted) for label, rows in self.evidence.items()}


def judge_choices(
    model: Model, control: Control, examples: Examples, rows: Iterable[int]
) -> Judgement:
    """Judge the answers to a control of choices.

    Args:
        model: whose answers; without a head for the control all are wrong.
        control: of choices.
        examples: with what a person answered.
        rows: of the examples, that the head did not learn from.
    """
    picked = list(rows)
    tasks, truths = [examples.tasks[i] for i in picked], [examples.answers[i] for i in picked]
    if control.name not in model.heads or not picked:
        given: list[Answer | None] = [None] * len(picked)
        table = np.zeros((len(picked), 0), dtype=np.float32)
    else:
        table = model.probabilities(control.name, examples.vectors[picked])
        labels = model.labels(control.name)
        given = [answer_of(choose(control, labels, row, NO_SIZE)) for row in table]
    pairs = list(zip(given, truths, strict=True))
    return Judgement(
        accuracy(pairs),
        figures(pairs, control.label_names),
        {task: one == truth for task, (one, truth) in zip(tasks, pairs, strict=True)},
        {task: certainty(row, control.multiple) for task, row in zip(tasks, table, strict=True)},
        evidence=_choice_evidence(model, control, table, truths),
        blank=frozenset(task for task, one in zip(tasks, given, strict=True) if not one),
    )


def sizes_of(
    control: Control, samples: Sequence[Sample], finders: Iterable[Finds | None]
) -> dict[str, float]:
    """How large a label's objects are, by which it is judged whether a point is near enough.

    Who compares finders judges all by the same sizes: a finder's own say how it was trained.

    Args:
        control: of boxes or points.
        samples: its images, whose real boxes tell best.
        finders: whose own sizes count where nothing better is known, the first that has one.

    Returns:
        label → 0 to 1 of the image's longer edge; nothing of boxes.
    """
    if control.kind != "points":
        return {}
    known: dict[str, float] = {}
    for finder in reversed([one for one in finders if one is not None]):
        known |= {label: side for label, side in finder.meaning.sides.items() if side}
    known |= {label.name: label.extent for label in control.labels if label.extent}
    return known | _real_sizes(samples)


def _real_sizes(samples: Sequence[Sample]) -> dict[str, float]:
    """By label that real boxes show, the median of their mean side."""
    sides: dict[str, list[float]] = {}
    for sample in samples:
        wide, high = min(sample.ratio, 1.0), min(1 / sample.ratio, 1.0)
        for box in sample.boxes:
            side = ((box.x1 - box.x0) * wide + (box.y1 - box.y0) * high) / 2
            sides.setdefault(box.label, []).append(side)
    return {label: float(np.median(found)) for label, found in sides.items()}


def judge_finds(
    finder: Finds | None,
    control: Control,
    samples: Sequence[Sample],
    sizes: Mapping[str, float] | None = None,
) -> Judgement:
    """Judge what a finder finds.

    Args:
        finder: None finds nothing.
        control: of boxes or points.
        samples: images that the finder did not learn from.
        sizes: of points, as :func:`sizes_of` tells them; by the finder's own when not given.
    """
    judged = judged_on(finder, control, samples)
    kind: PlaceKind = "points" if control.kind == "points" else "boxes"
    least = shown(finder, control) if finder else 1.0
    extents = sizes_of(control, samples, [finder]) if sizes is None else dict(sizes)
    figure, told = judge(judged, control.label_names, kind, extents, least)
    tallies = [tally(image, control.label_names, kind, extents, least) for image in judged]
    tasks = [sample.task for sample in samples]
    return Judgement(
        figure,
        told | {"shown": least} | ({"sizes": extents} if kind == "points" else {}),
        {task: t.right == t.found == t.there for task, t in zip(tasks, tallies, strict=True)},
        {t: find_certainty(i.confidence, least) for t, i in zip(tasks, judged, strict=True)},
        dict(zip(tasks, tallies, strict=True)),
        _find_evidence(judged, control.label_names, kind, extents, least),
    )


def finds_by_image(
    finder: Finds, control: Control, samples: Sequence[Sample], sizes: Mapping[str, float]
) -> list[list[tuple[float, bool]]]:
    """By image, the confidence of each find that is shown and whether a person marked it.

    Args:
        finder: of the control.
        control: of boxes or points.
        samples: images that the finder did not learn from.
        sizes: of points; see :func:`sizes_of`.
    """
    kind: PlaceKind = "points" if control.kind == "points" else "boxes"
    least = shown(finder, control)
    return [
        [
            pair
            for label in control.label_names
            for pair in rights(image, label, kind, sizes)
            if pair[0] >= least
        ]
        for image in judged_on(finder, control, samples)
    ]


def whole(judgements: Mapping[str, Judgement]) -> Figure:
    """The share of tasks whose every answered control of choices is right."""
    right: dict[int, bool] = {}
    for judgement in judgements.values():
        for task, one in judgement.right.items():
            right[task] = right.get(task, True) and one
    return share(sum(right.values()), len(right))


def together(judgements: Iterable[Judgement]) -> dict[int, tuple[float, bool]]:
    """Tasks that every control was answered of: confidence, and whether all is right.

    Not those where no label was chosen: nobody would know whether that is an answer.
    """
    each = list(judgements)
    tasks = set.intersection(*(set(one.sure) - one.blank for one in each)) if each else set()
    return {
        task: (min(one.sure[task] for one in each), all(one.right[task] for one in each))
        for task in sorted(tasks)
    }


def kind_of_head(model: Model, control: str, examples: Examples) -> str:
    """What answers a control of choices, in words."""
    if control not in model.heads:
        return "none yet"
    return "linear head" if (~examples.audit).any() else "zero-shot from the label names"


def kind_of_finder(finder: Finds | None) -> str:
    """What answers a control of boxes or points, in words."""
    if finder is None:
        return "none yet"
    if finder.meaning.learned:
        return TRAINED
    by_name = isinstance(finder, Finder)
    return "zero-shot from the class names" if by_name else "prompted by words or drawn boxes"


def answer_counts(control: Control, examples: Examples) -> dict[str, int]:
    """How often each label was given among what is learned from."""
    rows = zip(examples.answers, examples.audit, strict=True)
    trained = [answer for answer, audit in rows if not audit]
    return {name: sum(name in answer for answer in trained) for name in control.label_names}


def place_counts(control: Control, samples: Sequence[Sample]) -> dict[str, int]:
    """How many places of each label there are among what is learned from."""
    counts = dict.fromkeys(control.label_names, 0)
    for sample in samples:
        for place in sample.places if not sample.audit else ():
            counts[place.label] += 1
    return counts


def _choice_evidence(
    model: Model, control: Control, table: Floats, truths: Sequence[Answer]
) -> Evidence:
    found: Evidence = {}
    for row, truth in zip(table, truths, strict=True):
        choice = choose(control, model.labels(control.name), row, NO_SIZE) if len(row) else None
        for label, confidence in (choice.labels if choice else {}).items():
            sure, right = found.setdefault(label, ([], []))
            sure.append(confidence)
            right.append(label in truth)
    return found


def _find_evidence(
    images: Sequence[Judged],
    labels: Sequence[str],
    kind: PlaceKind,
    extents: Mapping[str, float],
    least: float,
) -> Evidence:
    found: Evidence = {}
    for image in images:
        for label in labels:
            sure, right = found.setdefault(label, ([], []))
            for confidence, hit in rights(image, label, kind, extents):
                if confidence >= least:
                    sure.append(confidence)
                    right.append(hit)
    return {label: rows for label, rows in found.items() if rows[0]}
