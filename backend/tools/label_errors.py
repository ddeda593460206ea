"""Labels that are probably wrong: found, kept for people to see, and shown in Label Studio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict

import numpy as np

from backend.domain import Control, Prediction
from backend.inference.detect import Looked, look
from backend.inference.detections import Sample, as_boxes, judged_on
from backend.inference.embed import Embedded
from backend.inference.model import Model
from backend.inference.predict import confidences, predictions, sources
from backend.label_studio.task_results import prediction_json
from backend.learning import label_errors
from backend.learning.detection_metrics import Judged
from backend.learning.label_errors import Suspect
from backend.loop.evaluate.metrics import TRAINED
from backend.loop.fit import Fit
from backend.loop.label_table import label_table
from backend.loop.observe import Observation, observe, take_pulse
from backend.loop.publish.thumbnails import SUSPECTS as PICTURED
from backend.loop.publish.thumbnails import Showcase, addresses
from backend.runtime.connection import Connection
from backend.runtime.resources import Resources
from backend.store.files import write_json
from backend.store.projects import ProjectRecord
from backend.store.queue_front import SUSPECTS
from backend.training.head import targets
from backend.vision.detection.trained_detector import Finds

TAB = "Prelabel: check labels"
SHOWN = 50
"""Suspects that Label Studio shows; each is a call of its own."""


class Inspector:
    """Looks through the labels of one project. Never changes one.

    Args:
        resources: of this process.
        record: the project.

    Attributes:
        labeled: tasks with a person's answer, at the last look.
    """

    labeled = 0

    def __init__(self, resources: Resources, record: ProjectRecord) -> None:
        self._resources = resources
        self._record = record
        self._connection: Connection = resources.connection(record)
        self._live = resources.versions(record).live() or ""
        self._touched: set[int] = set()

    def inspect(self) -> list[Suspect]:
        """All suspects, the most suspicious first; Label Studio shows the first of them."""
        folder = self._resources.folder(self._record)
        seen = observe(self._connection, folder, take_pulse(self._connection))
        self.labeled = len(seen.labeled)
        encoder = self._resources.viewer(self._record)
        embedded = self._resources.embedder(self._record, encoder).embed(
            sources(seen.tasks, seen.config.controls), lambda done, of: None
        )
        fit = Fit(
            self._resources,
            self._record,
            seen,
            encoder,
            embedded,
            lambda state, progress, detail: None,
            lambda: False,
        )
        found = [s for control in seen.config.controls for s in self._of(control, fit, seen)]
        found.sort(key=lambda suspect: suspect.quality)
        write_json(
            folder / SUSPECTS, {"version": self._live, "suspects": [asdict(s) for s in found]}
        )
        self._show(found[:SHOWN], seen, fit.before, embedded)
        first = {suspect.task for suspect in found[:PICTURED]}
        Showcase(self._resources, self._record).keep_pictures(
            addresses(task for task in seen.tasks if task.id in first)
        )
        return found

    def our_changes(self, since: str) -> str:
        """The moment up to which nobody but this inspection changed a task, at least ``since``.

        Label Studio counts what is told of a task as a change of the task.
        """
        rows = list(self._connection.client.changed(self._record.number, since))
        if not all(row["id"] in self._touched for row in rows):
            return since
        return max((str(row["updated_at"]) for row in rows), default=since)

    def _of(self, control: Control, fit: Fit, seen: Observation) -> list[Suspect]:
        if control.kind == "choices":
            return self._answers(control, fit)
        return self._places(control, fit, seen)

    def _answers(self, control: Control, fit: Fit) -> list[Suspect]:
        """By cross-validation: every labeled image but the audit slice, which nobody learned."""
        head = fit.before.heads.get(control.name)
        if head is None or head.labels != control.label_names:
            return []
        examples = fit.examples(control)
        rows, table = fit.cross(control, head)
        audit = np.flatnonzero(examples.audit)
        if len(audit):
            unseen = fit.before.probabilities(control.name, examples.vectors[audit])
            rows, table = np.concatenate([rows, audit]), np.concatenate([table, unseen])
        tasks, given = [examples.tasks[i] for i in rows], targets(control, examples)[rows]
        if control.multiple:
            return label_errors.several(tasks, control.name, head.labels, given, table)
        return label_errors.single(
            tasks, control.name, head.labels, given.argmax(axis=1).tolist(), table
        )

    def _places(self, control: Control, fit: Fit, seen: Observation) -> list[Suspect]:
        """Each image by the newest finder that did not learn from it.

        That is the live one for the audit slice and for what is new, and an older one for what the
        live one learned from; only what the first one learned from is judged by none.
        """
        finder = fit.before.finders.get(control.name)
        if finder is None or not finder.meaning.learned:
            return []
        samples = fit.samples(control)
        learned = self._learned(control, {sample.task for sample in samples if sample.audit})
        changed = self._changed(control, seen)
        judges = label_errors.unseen_by(learned, (sample.task for sample in samples))
        judged = {task for its in judges.values() for task in its}
        judges[self._live] = [*judges.get(self._live, []), *sorted(changed - judged)]
        tasks, found = out_of_sample(
            control,
            samples,
            judges,
            lambda version: self._resources.model(self._record, version).finders.get(control.name),
        )
        return label_errors.marked(tasks, control.name, control.label_names, found)

    def _learned(self, control: Control, audit: Set[int]) -> list[tuple[str, set[int]]]:
        """The versions up to the live one whose finder was trained, and what each learned from."""
        versions = self._resources.versions(self._record)
        found = []
        for card in versions.cards():
            if card.number > versions.card(self._live).number:
                break
            if card.controls.get(control.name, {}).get("kind") == TRAINED:
                labels = versions.labels(card.version)
                its = {int(task) for task, given in labels.items() if control.name in given}
                found.append((card.version, its - audit))
        return found

    def _changed(self, control: Control, seen: Observation) -> set[int]:
        """Tasks whose places are others than those that the live version learned."""
        known, now = self._resources.versions(self._record).labels(self._live), label_table(seen)
        return {
            int(task)
            for task, given in now.items()
            if known.get(task, {}).get(control.name) != given.get(control.name)
        }

    # -- in Label Studio ----------------------------------------------------------------------

    def _show(
        self, found: Sequence[Suspect], seen: Observation, model: Model, embedded: Embedded
    ) -> None:
        """The model's answer beside the person's, with how suspicious that is, and a tab."""
        worst: dict[int, Suspect] = {}
        for suspect in found:
            worst.setdefault(suspect.task, suspect)
        tasks = [task for task in seen.tasks if task.id in worst]
        if not tasks:
            return
        client, number = self._connection.client, self._record.number
        there = client.places(number, self._live)
        controls = seen.config.controls
        pictures = self._resources.pictures(self._record)
        looked = (
            look(model, controls, tasks, pictures, lambda d, o: None) if model.finders else Looked()
        )
        beliefs = confidences(model, controls, tasks, embedded)
        quality = {task: suspect.quality for task, suspect in worst.items()}
        for made in predictions(model, controls, tasks, beliefs, quality, embedded, looked):
            self._touched.add(made.task)
            self._write(made, worst[made.task], seen.controls, there)
        client.keep_tab(number, TAB, _listing(sorted(worst)))

    def _write(
        self,
        made: Prediction,
        suspect: Suspect,
        controls: Mapping[str, Control],
        there: Mapping[int, tuple[int, float]],
    ) -> None:
        fields = {"score": suspect.quality, "mislabeling": suspect.mislabeling}
        if made.task in there:
            self._connection.client.change_prediction(there[made.task][0], fields)
        else:
            row = prediction_json(made, controls, self._live)
            self._connection.client.add_prediction(row | fields)


def out_of_sample(
    control: Control,
    samples: Sequence[Sample],
    judges: Mapping[str, Sequence[int]],
    finder_of: Callable[[str], Finds | None],
) -> tuple[list[int], list[Judged]]:
    """What finders find in images that they did not learn from.

    Args:
        control: of boxes or points.
        samples: its marked images.
        judges: by version, the tasks whose images it has to look at.
        finder_of: a version's finder of the control; one that lacks a label of today is not asked.

    Returns:
        the tasks, and what was found and is there, points as boxes.
    """
    tasks: list[int] = []
    found: list[Judged] = []
    for version, its in judges.items():
        wanted = [sample for sample in samples if sample.task in its]
        finder = finder_of(version) if wanted else None
        if finder is None or not set(control.label_names) <= set(finder.meaning.labels):
            continue
        judged = judged_on(finder, control, wanted)
        if control.kind == "points":
            judged = [as_boxes(one, finder.meaning.sides) for one in judged]
        tasks += [sample.task for sample in wanted]
        found += judged
    return tasks, found


def _listing(tasks: Sequence[int]) -> dict[str, object]:
    item = {"filter": "filter:tasks:id", "operator": "in_list", "type": "List", "value": tasks}
    filters = {"conjunction": "and", "items": [item]}
    return {"ordering": ["tasks:predictions_score"], "filters": filters}
