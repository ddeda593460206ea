"""Tasks → what the finders find in their images, part by part, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.callbacks import ProgressCallback
from backend.domain import Control, Finding, ImageSize, Places, Task
from backend.errors import ImageError
from backend.inference.confidence import find_certainty
from backend.inference.detections import found_in, shown
from backend.inference.images import Pictures, Source
from backend.inference.model import Model


@dataclass
class Looked:
    """What became of the images of some tasks.

    Attributes:
        findings: task → what is shown, an entry per control that has a finder.
        whole: the same without thresholds of single labels: what is judged, and may be accepted.
        beliefs: task → of everything found, shown or not, its confidence and how hard its label is.
        sure: task → the confidence that the whole is right, and nothing is missing; of tasks that
            every finder looked at.
        failed: image address → why it could not be read.
    """

    findings: dict[int, tuple[Finding, ...]] = field(default_factory=dict)
    whole: dict[int, tuple[Finding, ...]] = field(default_factory=dict)
    beliefs: dict[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    sure: dict[int, float] = field(default_factory=dict)
    failed: dict[str, ImageError] = field(default_factory=dict)


def look(
    model: Model,
    controls: Sequence[Control],
    tasks: Sequence[Task],
    pictures: Pictures,
    progress: ProgressCallback,
    ahead: Sequence[Task] = (),
) -> Looked:
    """Look at tasks.

    Args:
        model: with finders; controls without one find nothing.
        controls: of any kind.
        tasks: to look at.
        pictures: of the project.
        progress: told (done, of) in images.
        ahead: what the next call will look at.
    """
    looked = Looked()
    controls = [control for control in controls if control.name in model.finders]
    keys = {control.image_key for control in controls}
    coming = [Source(t.images[key], t.id) for t in ahead for key in keys & t.images.keys()]
    by_address: dict[str, list[tuple[Task, str]]] = {}
    for task in tasks:
        for key in keys & task.images.keys():
            by_address.setdefault(task.images[key], []).append((task, key))
    done = 0
    wanted = [Source(address, rows[0][0].id) for address, rows in by_address.items()]
    for batch in pictures.batches(wanted, coming):
        looked.failed |= batch.failed
        for control in controls:
            _look_at(model, control, batch.images, batch.sizes, by_address, looked)
        done += len(batch.images) + len(batch.failed)
        progress(done, len(by_address))
    every = {task for task, found in looked.whole.items() if len(found) == len(controls)}
    looked.sure = {task: sure for task, sure in looked.sure.items() if task in every}
    return looked


def _look_at(
    model: Model,
    control: Control,
    images: Mapping[str, object],
    sizes: Mapping[str, ImageSize],
    tasks: Mapping[str, Sequence[tuple[Task, str]]],
    looked: Looked,
) -> None:
    """One control, one batch of images."""
    finder = model.finders[control.name]
    addresses = [a for a in images if any(key == control.image_key for _, key in tasks[a])]
    found = found_in(finder, control, [images[a] for a in addresses])  # type: ignore[misc]
    for address, (places, confidence) in zip(addresses, found, strict=True):
        hard = finder.meaning.difficulty
        weights = (hard.get(place.label, 1.0) for place in places)
        beliefs = tuple(zip(confidence, weights, strict=True))
        every = dict.fromkeys(control.label_names, shown(finder, control))
        least = dict(every)
        for label, threshold in model.thresholds.get(control.name, {}).items():
            least[label] = max(least.get(label, 0.0), threshold)
        seen, whole = (
            _shown(control, places, confidence, floor, sizes[address]) for floor in (least, every)
        )
        for task, key in tasks[address]:
            if key == control.image_key:
                looked.findings[task.id] = (*looked.findings.get(task.id, ()), seen)
                looked.whole[task.id] = (*looked.whole.get(task.id, ()), whole)
                looked.beliefs[task.id] = (*looked.beliefs.get(task.id, ()), *beliefs)
                sure = find_certainty(confidence, shown(finder, control))
                looked.sure[task.id] = min(sure, looked.sure.get(task.id, 1.0))


def _shown(
    control: Control,
    places: Places,
    confidence: Sequence[float],
    least: Mapping[str, float],
    size: ImageSize,
) -> Finding:
    pairs = zip(places, confidence, strict=True)
    kept = [(place, belief) for place, belief in pairs if belief >= least[place.label]]
    return Finding(control.name, tuple(p for p, _ in kept), tuple(b for _, b in kept), size)
