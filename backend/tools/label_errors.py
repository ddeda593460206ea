"""Find labels that are probably wrong, store them, and list them in Label Studio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np

from backend.domain import Control, Prediction
from backend.errors import DamagedFileError
from backend.inference.detections import RegionSample, points_to_boxes, predict_samples
from backend.inference.embed import EmbeddingResult
from backend.inference.images import image_sources
from backend.inference.model import Model
from backend.inference.predict import infer_tasks
from backend.label_studio.tab_views import task_list_view
from backend.label_studio.tabs import LABEL_ERRORS_TAB, ProjectTabs
from backend.label_studio.task_results import format_prediction
from backend.learning import label_errors
from backend.learning.detection_metrics import DetectionSample
from backend.learning.label_errors import LabelErrorCandidate
from backend.loop.evaluate.metrics import FINE_TUNED_KIND
from backend.loop.model_trainer import ModelTrainer
from backend.loop.observe import Observation, fetch_fingerprint, label_table, observe
from backend.loop.publish.thumbnails import (
    MAX_LABEL_ERROR_THUMBNAILS,
    ThumbnailPublisher,
    first_image_addresses,
)
from backend.runtime.connection import Connection
from backend.runtime.project_session import ProjectSession
from backend.store.queue_front import QueueFront, StoredLabelError, StoredLabelErrors
from backend.training.head import target_matrix
from backend.vision.detection.trained_detector import Detector

MAX_SHOWN_SUSPECTS = 50
"""Maximum number of label errors listed in Label Studio; each needs an API request."""

TOO_FEW_CHOICES = (
    "There are too few labels to look for errors: two labels with "
    f"{label_errors.MIN_LABEL_EXAMPLES} examples each are needed."
)
TOO_FEW_REGIONS = (
    "There are too few labels to look for errors: "
    f"{label_errors.MIN_DETECTOR_IMAGES} labeled images are needed."
)
NOT_TRAINED = "Labels are checked once a version is trained on them."
NOTHING_TO_COMPARE = (
    "No label can be checked yet, because all labeled images were used to train the first version: "
    "label a few more."
)


class LabelErrorFinder:
    """Finds probable label errors of one project, without changing a label.

    Args:
        session: session of the project.

    Attributes:
        labeled_count: number of labeled tasks in the last search.
        unchecked: sentences on the controls that the last search could not check.
    """

    labeled_count = 0
    unchecked: tuple[str, ...] = ()

    def __init__(self, session: ProjectSession) -> None:
        self._session = session
        self._connection: Connection = session.connection
        self._live_version = session.versions.live() or ""
        self._changed_tasks: set[int] = set()
        self._unchecked_texts: dict[str, str] = {}

    def find_label_errors(self) -> list[LabelErrorCandidate]:
        """Return all probable label errors, worst first, and list the worst in Label Studio."""
        folder = self._session.folder
        front = QueueFront(folder)
        known = front.label_errors()  # before the labels are read, see save_label_errors
        observation = observe(self._connection, folder, fetch_fingerprint(self._connection))
        self.labeled_count = len(observation.labeled)
        self._unchecked_texts.clear()
        encoder = self._session.live_encoder()
        embeddings = self._session.embedder(encoder).embed(
            image_sources(observation.tasks, observation.config.controls)
        )
        fit = ModelTrainer(self._session, observation, encoder, embeddings)
        label_errors = [
            s
            for control in observation.config.controls
            for s in self._control_suspects(control, fit, observation)
        ]
        label_errors.sort(key=lambda suspect: suspect.quality)
        self.unchecked = _name_controls(self._unchecked_texts, observation.config.controls)
        by_record = {
            StoredLabelError(s.task, s.given, s.suggested, s.quality, s.why, s.control): s
            for s in label_errors
        }
        found = StoredLabelErrors(self._live_version, tuple(by_record), self.unchecked)
        label_errors = [by_record[record] for record in front.save_label_errors(found, known)]
        self._publish(label_errors[:MAX_SHOWN_SUSPECTS], observation, fit.live_model, embeddings)
        thumbnail_tasks = {suspect.task for suspect in label_errors[:MAX_LABEL_ERROR_THUMBNAILS]}
        ThumbnailPublisher(self._session).save_thumbnails(
            first_image_addresses(task for task in observation.tasks if task.id in thumbnail_tasks)
        )
        return label_errors

    def last_own_change(self, since: str) -> str:
        """Return the time of the last change if only this search changed tasks, else ``since``.

        Label Studio updates the change time of a task when its predictions change.
        """
        rows = list(self._connection.client.iter_changed_tasks(self._session.number, since))
        if not all(row["id"] in self._changed_tasks for row in rows):
            return since
        return max((str(row["updated_at"]) for row in rows), default=since)

    def _control_suspects(
        self, control: Control, fit: ModelTrainer, observation: Observation
    ) -> list[LabelErrorCandidate]:
        if control.is_choices:
            return self._choice_suspects(control, fit)
        return self._region_suspects(control, fit, observation)

    def _choice_suspects(self, control: Control, fit: ModelTrainer) -> list[LabelErrorCandidate]:
        """Check training labels by cross-validation, and audit labels with the live head."""
        head = fit.live_model.heads.get(control.name)
        examples = fit.examples(control)
        targets = target_matrix(control, examples)
        can_check = (
            label_errors.can_check_choice_sets(targets)
            if control.multiple
            else label_errors.can_check_choices(targets.argmax(axis=1).tolist())
        )
        if not can_check:
            self._unchecked_texts[control.name] = TOO_FEW_CHOICES
            return []
        if head is None or head.labels != control.label_names:
            self._unchecked_texts[control.name] = NOT_TRAINED
            return []
        rows, probabilities = fit.cross_validate(control, head)
        audit = np.flatnonzero(examples.audit_mask)
        if len(audit):
            audit_probabilities = fit.live_model.probabilities(
                control.name, examples.vectors[audit]
            )
            rows, probabilities = (
                np.concatenate([rows, audit]),
                np.concatenate([probabilities, audit_probabilities]),
            )
        tasks, label_targets = (
            [examples.task_ids[i] for i in rows],
            targets[rows],
        )
        if control.multiple:
            return label_errors.find_multi_label_errors(
                tasks, control.name, head.labels, label_targets, probabilities
            )
        return label_errors.find_single_label_errors(
            tasks, control.name, head.labels, label_targets.argmax(axis=1).tolist(), probabilities
        )

    def _region_suspects(
        self, control: Control, fit: ModelTrainer, observation: Observation
    ) -> list[LabelErrorCandidate]:
        """Check each image with the newest detector that was not trained on it.

        Audit images and new images use the live detector, and its training images an older one.
        The training images of the first detector cannot be checked.
        """
        detector = fit.live_model.detectors.get(control.name)
        samples = fit.samples(control)
        if len(samples) < label_errors.MIN_DETECTOR_IMAGES:
            self._unchecked_texts[control.name] = TOO_FEW_REGIONS
            return []
        if detector is None or not detector.class_mapping.learned:
            self._unchecked_texts[control.name] = NOT_TRAINED
            return []
        learned_tasks = self._training_tasks(
            control, {sample.task_id for sample in samples if sample.is_audit}
        )
        relabeled = self._relabeled_tasks(control, observation)
        tasks_by_version = label_errors.assign_judging_versions(
            learned_tasks, (sample.task_id for sample in samples)
        )
        assigned_tasks = {
            task for version_tasks in tasks_by_version.values() for task in version_tasks
        }
        tasks_by_version[self._live_version] = [
            *tasks_by_version.get(self._live_version, []),
            *sorted(relabeled - assigned_tasks),
        ]
        tasks, evaluated_images = detect_out_of_sample(
            control,
            samples,
            tasks_by_version,
            lambda version: self._session.model(version).detectors.get(control.name),
        )
        if not tasks:
            self._unchecked_texts[control.name] = NOTHING_TO_COMPARE
        return label_errors.find_region_errors(
            tasks, control.name, control.label_names, evaluated_images
        )

    def _training_tasks(
        self, control: Control, audit_tasks: Set[int]
    ) -> list[tuple[str, set[int]]]:
        """Return version → training tasks of its detector, up to the live version."""
        versions = self._session.versions
        training_tasks = []
        for card in versions.cards():
            if card.number > versions.card(self._live_version).number:
                break
            if card.control(control.name).kind == FINE_TUNED_KIND:
                try:
                    labels = versions.labels(card.version)
                except DamagedFileError:  # the version is set aside
                    continue
                version_tasks = {
                    int(task)
                    for task, labels_by_control in labels.items()
                    if control.name in labels_by_control
                }
                training_tasks.append((card.version, version_tasks - audit_tasks))
        return training_tasks

    def _relabeled_tasks(self, control: Control, observation: Observation) -> set[int]:
        """Return the tasks whose regions changed since the live version was trained."""
        live_labels, current_labels = (
            self._session.versions.labels(self._live_version),
            label_table(observation),
        )
        return {
            int(task)
            for task, labels_by_control in current_labels.items()
            if live_labels.get(task, {}).get(control.name) != labels_by_control.get(control.name)
        }

    # -- in Label Studio ----------------------------------------------------------------------

    def _publish(
        self,
        label_errors: Sequence[LabelErrorCandidate],
        observation: Observation,
        model: Model,
        embeddings: EmbeddingResult,
    ) -> None:
        """Write predictions with the label quality to the tasks, and update the tab."""
        worst_by_task: dict[int, LabelErrorCandidate] = {}
        for suspect in label_errors:
            worst_by_task.setdefault(suspect.task, suspect)
        tasks = [task for task in observation.tasks if task.id in worst_by_task]
        client, number = self._connection.client, self._session.number
        tabs = ProjectTabs(client, number)
        if not tasks:
            tabs.update(LABEL_ERRORS_TAB, task_list_view(()))
            return
        existing = client.queue_scores(number, self._live_version)
        controls = observation.config.controls
        inference = infer_tasks(model, controls, tasks, embeddings, self._session.images)
        quality = {task: suspect.quality for task, suspect in worst_by_task.items()}
        for prediction in inference.predictions(tasks, quality):
            self._changed_tasks.add(prediction.task_id)
            self._write_prediction(
                prediction, worst_by_task[prediction.task_id], observation.controls, existing
            )
        tabs.ensure(LABEL_ERRORS_TAB, task_list_view(sorted(worst_by_task), by_score=True))

    def _write_prediction(
        self,
        prediction: Prediction,
        suspect: LabelErrorCandidate,
        controls: Mapping[str, Control],
        existing: Mapping[int, tuple[int, float]],
    ) -> None:
        fields = {"score": suspect.quality, "mislabeling": suspect.mislabeling}
        if prediction.task_id in existing:
            self._connection.client.update_prediction(existing[prediction.task_id][0], fields)
        else:
            row = format_prediction(prediction, controls, self._live_version)
            self._connection.client.add_prediction(row | fields)


def _name_controls(texts: Mapping[str, str], controls: Sequence[Control]) -> tuple[str, ...]:
    """Return the texts, with the name of the control if there are several."""
    if len(controls) == 1:
        return tuple(texts.values())
    return tuple(f"{control}: {text}" for control, text in texts.items())


def detect_out_of_sample(
    control: Control,
    samples: Sequence[RegionSample],
    tasks_by_version: Mapping[str, Sequence[int]],
    detector_of: Callable[[str], Detector | None],
) -> tuple[list[int], list[DetectionSample]]:
    """Run detectors of past versions on images that they were not trained on.

    Args:
        control: control of boxes or points.
        samples: labeled images of the control.
        tasks_by_version: version → tasks to run its detector on.
        detector_of: returns the detector of a version; skipped if it lacks a current label.

    Returns:
        the tasks, and their detections and labels; points are converted to boxes.
    """
    tasks: list[int] = []
    evaluated_images: list[DetectionSample] = []
    for version, version_tasks in tasks_by_version.items():
        version_samples = [sample for sample in samples if sample.task_id in version_tasks]
        detector = detector_of(version) if version_samples else None
        if detector is None or not set(control.label_names) <= set(detector.class_mapping.labels):
            continue
        version_images = predict_samples(detector, control, version_samples)
        if control.is_points:
            version_images = [
                points_to_boxes(evaluated_image, detector.class_mapping.sides)
                for evaluated_image in version_images
            ]
        tasks += [sample.task_id for sample in version_samples]
        evaluated_images += version_images
    return tasks, evaluated_images
