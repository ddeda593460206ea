"""Marked images → a finder: the compute seam of boxes and points.

Nothing here knows where it runs: in a process of this machine, or elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backend.domain import Control, ImageSize, Place, Places
from backend.learning.beginning import FEWEST
from backend.learning.detection import Judged, best_threshold, difficulty
from backend.vision.detection.example import Example
from backend.vision.detection.finder import SHOWN, Finder, Finds, Meaning, key_of_network
from backend.vision.detection.found import Floats, Found
from backend.vision.detection.names import known_as
from backend.vision.detection.points import boxes_around, side_of
from backend.vision.detection.prompted import PromptedFinder

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.detection.detector import Detector
    from backend.vision.detection.network import Network

Report = Callable[[int, int], None]
FEWEST_OVER_KNOWN = 10
"""The same where the network knows some of the labels from before."""
LEAST = 0.02
"""Confidence below which a find is of no use to anything."""
SMALLEST, LARGEST = 320, 640
"""Pixels of the network's input where nobody set it."""
TUNED_ON = 40
"""Images that the shown confidence is tuned on."""
PART = 32


@dataclass(frozen=True)
class Sample:
    """An image that a person looked through.

    Attributes:
        task: the task's number.
        read: gives the upright RGB image.
        size: of the original, pixels.
        places: all objects of the control.
        boxes: real boxes of the same labels, of other controls; for the size of points.
        audit: belongs to the audit slice: judged on, never trained on.
        digest: hash of the image's bytes, by which its copy is kept; empty where there is none.
    """

    task: int
    read: Callable[[], Image.Image]
    size: ImageSize
    places: Places
    boxes: Places = ()
    audit: bool = False
    digest: str = ""

    @property
    def ratio(self) -> float:
        """Width divided by height."""
        return self.size.width / self.size.height


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
    report: Report
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


def found_in(
    finder: Finds, control: Control, images: Sequence[Image.Image], least: float = LEAST
) -> list[tuple[Places, tuple[float, ...]]]:
    """Places and confidence by image, most certain first.

    Args:
        finder: of the control.
        control: as it stands in the config now; labels it no longer has are never found.
        images: RGB, upright.
        least: confidence below which nothing is reported.
    """
    known = frozenset(control.label_names)
    names = finder.meaning.labels
    return [_places(found, names, known) for found in finder.find(images, least)]


def shown(finder: Finds, control: Control) -> float:
    """The confidence from which a find is shown: the config's, else the finder's own."""
    return control.threshold or finder.meaning.shown


def judged_on(finder: Finds | None, control: Control, samples: Sequence[Sample]) -> list[Judged]:
    """What a finder finds in images whose truth is known."""
    judged: list[Judged] = []
    for start in range(0, len(samples), PART):
        part = samples[start : start + PART]
        images = [sample.read() for sample in part] if finder else []
        found = found_in(finder, control, images) if finder else [((), ())] * len(part)
        judged += [
            Judged(places, confidence, sample.places, sample.ratio)
            for sample, (places, confidence) in zip(part, found, strict=True)
        ]
    return judged


def _fine_tuned(job: FindingJob, samples: Sequence[Sample]) -> Finder:
    from backend.vision.detection.learn import SHARE, between, learn, recipe

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


def as_boxes(one: Judged, sides: Mapping[str, float]) -> Judged:
    """Points as squares of their label's size, in units of the longer edge."""
    return replace(
        one, found=_squares(one.found, sides, one), truth=_squares(one.truth, sides, one)
    )


def _squares(places: Places, sides: Mapping[str, float], image: Judged) -> Places:
    found = []
    for place in places:
        half = sides[place.label] / 2
        w, h = half / min(image.ratio, 1.0), half / min(1 / image.ratio, 1.0)
        x, y = place.centre
        found.append(Place(place.label, x - w, y - h, x + w, y + h))
    return tuple(found)


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


def boxes_of(sample: Sample, control: Control, sides: Mapping[str, float]) -> Example:
    """A sample as boxes: its own, or pseudo-boxes around its points."""
    return _example(sample, control, sides)


def sides_of(control: Control, samples: Sequence[Sample], size: int) -> dict[str, float]:
    """By label of a control of points, the side of its pseudo-boxes; see ``side_of``."""
    return _sides(control, samples, size) if control.kind == "points" else {}


def _sides(control: Control, samples: Sequence[Sample], size: int) -> dict[str, float]:
    return {
        label.name: side_of(
            [_units(s, s.places, label.name)[:, :2] for s in samples],
            [_extents(s, label.name) for s in samples],
            label.extent,
            size,
        )
        for label in control.labels
    }


def _units(sample: Sample, places: Places, label: str) -> Floats:
    """(n, 4) of one label, in units of the longer edge."""
    wide, high = min(sample.ratio, 1.0), min(1 / sample.ratio, 1.0)
    rows = [
        (p.x0 * wide, p.y0 * high, p.x1 * wide, p.y1 * high) for p in places if p.label == label
    ]
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def _extents(sample: Sample, label: str) -> Floats:
    boxes = _units(sample, sample.boxes, label)
    return boxes[:, 2:] - boxes[:, :2]


def _example(sample: Sample, control: Control, sides: Mapping[str, float]) -> Example:
    names = control.label_names
    labels = np.array([names.index(p.label) for p in sample.places], dtype=np.int64)
    corners = [(p.x0, p.y0, p.x1, p.y1) for p in sample.places]
    boxes = np.array(corners, dtype=np.float32).reshape(-1, 4)
    if control.kind == "points":
        widths = np.array([sides[p.label] for p in sample.places], dtype=np.float32)
        boxes = boxes_around(boxes[:, :2], widths, sample.ratio)
    return Example(sample.read, sample.size.width, sample.size.height, boxes, labels)


def _places(
    found: Found, names: Sequence[str], known: frozenset[str]
) -> tuple[Places, tuple[float, ...]]:
    rows = [
        (Place(names[label], *map(float, box)), float(confidence))
        for box, confidence, label in zip(found.boxes, found.confidence, found.labels, strict=True)
        if names[label] in known
    ]
    rows.sort(key=lambda row: -row[1])
    return tuple(place for place, _ in rows), tuple(belief for _, belief in rows)
