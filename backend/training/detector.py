"""Marked images → a finder: the compute seam of boxes and points.

Nothing here knows where it runs: in a process of this machine, or elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backend.callbacks import ProgressCallback
from backend.domain import Control
from backend.inference.detections import Sample, _example, as_boxes, judged_on, sides_of
from backend.learning.detection_metrics import best_threshold, difficulty
from backend.learning.first_labels import FEWEST
from backend.vision.detection.class_matching import known_as
from backend.vision.detection.prompted_detector import PromptedFinder
from backend.vision.detection.trained_detector import SHOWN, Finder, Finds, Meaning, key_of_network

if TYPE_CHECKING:
    from backend.vision.detection.network import Network
    from backend.vision.detection.network_runner import Detector

FEWEST_OVER_KNOWN = 10
"""The same where the network knows some of the labels from before."""
SMALLEST, LARGEST = 320, 640
"""Pixels of the network's input where nobody set it."""
TUNED_ON = 40
"""Images that the shown confidence is tuned on."""


@dataclass(frozen=True)
class FindingJob:
    """Everything that one control's finder is made from.

    Attributes:
        control: of boxes or points.
        samples: its marked images.
        base: the network to start from.
        previous: the live version's finder.
        size: pixels of the network's input; 0: by the images.
        seconds: that training may take.
        seed: of everything random.
        load: makes detectors.
        prompts: finds by words or drawn boxes, where its files are there.
        report: told (done, of) after each epoch.
        cancelled: asked often.
        base_setting: what leads to the base, on any machine.
        steps: optimizer steps at most; 0: as the images ask for.
    """

    control: Control
    samples: Sequence[Sample]
    base: Network
    previous: Finds | None
    size: int
    seconds: float
    seed: int
    load: Callable[[Network, int, str], Detector]
    prompts: Prompts | None
    report: ProgressCallback
    cancelled: Callable[[], bool]
    base_setting: str = ""
    steps: int = 0


class Prompts(Protocol):
    """Finds without training, by words or by a few drawn boxes."""

    def finder(
        self, control: Control, samples: Sequence[Sample], meaning: Meaning
    ) -> PromptedFinder | None:
        """A finder of the control; None where nothing describes any of its labels."""
        ...


def fine_tunes(job: FindingJob) -> bool:
    """Whether training would learn from the images, and not only know the labels' names."""
    marked = sum(bool(sample.places) and not sample.audit for sample in job.samples)
    known = known_as(job.control.labels, job.base.plan.classes) if _knows(job.base) else {}
    if marked >= (FEWEST_OVER_KNOWN if known or job.prompts else FEWEST):
        return True
    return marked >= FEWEST and not known and job.prompts is None


def train_finder(job: FindingJob) -> Finds | None:
    """Fine-tune on all marked images but the audit slice.

    Returns:
        the finder; while there are too few marked images one that knows all labels by the names
        of the base's classes, or by words or drawn boxes, or some of them by name; None where
        nothing is known of any.

    Raises:
        Cancelled: it was.
        DetectorError: training did not work out.
    """
    trained = [sample for sample in job.samples if not sample.audit]
    marked = sum(bool(sample.places) for sample in trained)
    known = known_as(job.control.labels, job.base.plan.classes) if _knows(job.base) else {}
    if marked >= (FEWEST_OVER_KNOWN if known or job.prompts else FEWEST):
        return _fine_tuned(job, trained)
    if job.prompts and len(set(known.values())) < len(job.control.labels):
        prompted = job.prompts.finder(job.control, trained, _zero_shot(job, {}))
        if prompted is not None:
            return replace(prompted, named=_by_name_without(job, known, prompted))
    if marked >= FEWEST and not known:
        return _fine_tuned(job, trained)
    if not known:
        return None
    return Finder(job.base, _zero_shot(job, known), key_of_network(job.base), job.load)


def _by_name_without(
    job: FindingJob, known: Mapping[int, int], prompted: PromptedFinder
) -> Finder | None:
    """What the base knows by name of the labels that no words and no boxes describe."""
    described = set(prompted.meaning.classes.values())
    rest = {row: label for row, label in known.items() if label not in described}
    if not rest:
        return None
    return Finder(job.base, _zero_shot(job, rest), key_of_network(job.base), job.load)


def never_found(finder: Finds | None, control: Control) -> tuple[str, ...]:
    """The labels of a control that nothing finds, before any network has learned them.

    Args:
        finder: of the control; None finds nothing.
        control: of boxes or points.
    """
    names = control.label_names
    if finder is None:
        return names
    if finder.meaning.learned:
        return ()
    found = set(finder.meaning.classes.values())
    if isinstance(finder, PromptedFinder) and finder.named:
        found |= set(finder.named.meaning.classes.values())
    labels = finder.meaning.labels
    return tuple(name for name in names if name not in {labels[i] for i in found})


def _fine_tuned(job: FindingJob, samples: Sequence[Sample]) -> Finder:
    from backend.vision.detection.fine_tune import SHARE, between, learn, recipe

    size = job.size or _input_size(samples)
    sides = sides_of(job.control, samples, size)
    examples = [_example(sample, job.control, sides) for sample in samples]
    warm = _warm(job)
    left = _without_example(job, samples)
    start = starting_network(job, warm, left)
    known = _knows(job.base) and len(_meant(job)) == len(job.control.labels)
    how = recipe(start, examples, size, warm is not None, job.seconds, job.seed, known)
    steps = min(how.iterations, job.steps or how.iterations)
    how = replace(how, iterations=steps, left=left)
    network = learn(start, examples, how, job.report, job.cancelled)
    if known and warm is None:
        network = between(start, network, SHARE)
    names = job.control.label_names
    meaning = Meaning(
        points=job.control.kind == "points",
        labels=names,
        classes={i: i for i in range(len(names))},
        sides=sides,
        size=size,
    )
    finder = Finder(network, meaning, key_of_network(network), job.load)
    finder.meaning = _tuned(finder, job.control, samples)
    return finder


def starting_network(job: FindingJob, warm: Finder | None, left: Sequence[int]) -> Network:
    """The network to start from, whose classes are the labels.

    What the base knows of a label by name is kept, also of one that came into the config since the
    live version was trained, and of one that nobody marked: training says nothing about those, so
    that they would stay at whatever they start from.
    """
    from backend.vision.detection.network import adapted, same_names

    names, classes = job.control.label_names, job.base.plan.classes
    by_name = {**same_names(classes, names), **_meant(job)}
    if warm is None:
        return adapted(job.base, names, by_name)
    learned = same_names(warm.network.plan.classes, names)
    lent = {i: row for i, row in by_name.items() if i not in learned or i in left}
    return adapted(warm.network, names, learned, job.base, lent if _knows(job.base) else {})


def _without_example(job: FindingJob, samples: Sequence[Sample]) -> tuple[int, ...]:
    """Labels that the base knows by name and nobody marked yet: they go on being found."""
    marked = {place.label for sample in samples for place in sample.places}
    names = job.control.label_names
    known = _meant(job) if _knows(job.base) else {}
    return tuple(i for i in known if names[i] not in marked)


def _meant(job: FindingJob) -> dict[int, int]:
    """By label index, the class of the base that means it; the first where several do."""
    known = known_as(job.control.labels, job.base.plan.classes)
    return {label: index for index, label in reversed(known.items())}


def _warm(job: FindingJob) -> Finder | None:
    """The live version's finder where training can go on from it."""
    before = job.previous
    if not isinstance(before, Finder) or not before.meaning.learned:
        return None
    same = before.network.plan.base == job.base.plan.base
    return before if same and before.meaning.points == (job.control.kind == "points") else None


def _tuned(finder: Finder, control: Control, samples: Sequence[Sample]) -> Meaning:
    """The confidence from which finds are shown, by the F1 on images it learned from, and how
    hard each label is there.
    """
    some = [sample for sample in samples if sample.places][-TUNED_ON:]
    judged = judged_on(finder, control, some)
    if control.kind == "points":
        judged = [as_boxes(one, finder.meaning.sides) for one in judged]
    labels = control.label_names
    shown = round(min(SHOWN, best_threshold(judged, labels)), 4)
    return replace(finder.meaning, shown=shown, difficulty=difficulty(judged, labels))


def _zero_shot(job: FindingJob, known: Mapping[int, int]) -> Meaning:
    size = job.size or LARGEST
    return Meaning(
        points=job.control.kind == "points",
        labels=job.control.label_names,
        classes=known,
        sides={},
        size=size,
        learned=False,
    )


def _knows(base: Network) -> bool:
    return base.plan.pretrained


def _input_size(samples: Sequence[Sample]) -> int:
    longest = max(max(s.size.width, s.size.height) for s in samples)
    return int(np.clip(-(-longest // 32) * 32, SMALLEST, LARGEST))
