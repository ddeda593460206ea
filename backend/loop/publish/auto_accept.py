"""Auto-accept: submit confident predictions as annotations, with spot checks by people."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from backend.card_records import AutoAcceptSection
from backend.domain import Control, Prediction, Region, Regions, Task
from backend.inference.model import Model
from backend.label_studio.task_results import full_result
from backend.learning.auto_accept import (
    SpotChecks,
    ThresholdTest,
    explain_bound_violation,
    find_budgeted_threshold,
    is_held_for_review,
    next_test_size,
)
from backend.learning.detection_metrics import DetectionSample, count_matches
from backend.loop.evaluate import metrics
from backend.loop.evaluate.metrics import ControlEvaluation
from backend.loop.observe import RANDOM_CAPTURE, Observation, region_rows
from backend.runtime.connection import Connection
from backend.store.acceptance import AcceptanceState, AcceptedAnswer, Suspension
from backend.store.versions import VersionCard

log = logging.getLogger("prelabel")
MAX_ACCEPTED_PER_ROUND = 500
"""Maximum number of annotations submitted per round; each takes Label Studio 50 ms."""
SKIP_CHECK_INTERVAL = 50
"""Number of annotations after which the tasks skipped by people are fetched again."""


def accept_error_bound(controls: Iterable[Control], default_error: float) -> float:
    """Return the maximum error rate of a project: the smallest of its controls; 0: off.

    Args:
        controls: all controls.
        default_error: maximum error rate of controls without their own.
    """
    bounds = [default_error if c.accept_error is None else c.accept_error for c in controls]
    return min(bounds, default=0.0)


def evaluate_acceptance(
    evaluations: Mapping[str, ControlEvaluation],
    error_bound: float,
    cards: Iterable[VersionCard],
    min_audit_labels: int,
) -> AutoAcceptSection:
    """Find the confidence threshold from which a version's predictions are accepted.

    Args:
        evaluations: evaluations of all controls on the audit set.
        error_bound: maximum error rate of accepted predictions.
        cards: cards of earlier versions, oldest first; their tests have spent significance.
        min_audit_labels: number of audit labels required after a suspension.
    """
    pairs = list(metrics.task_correctness(evaluations.values()).values())
    sections = [card.accepting for card in cards]
    previous_tests = [
        ThresholdTest(section.audit, section.chance, section.level is not None)
        for section in sections
        if section and section.chance
    ]
    accept_level = find_budgeted_threshold(
        [confidence for confidence, _ in pairs],
        [correct for _, correct in pairs],
        error_bound,
        previous_tests,
        min_audit_labels,
    )
    log.info("%s", accept_level.reason)
    return AutoAcceptSection(
        error=error_bound,
        level=accept_level.value,
        reason=accept_level.reason,
        missing=accept_level.missing_labels,
        proven=accept_level.error_bound,
        images=accept_level.images,
        audit=len(pairs),
        chance=accept_level.alpha,
    )


def record_reviews(
    state: AcceptanceState, observation: Observation, model: Model
) -> AcceptanceState:
    """Return the state with the results of people's reviews.

    Args:
        state: the project's auto-accept state.
        observation: the current tasks and labels.
        model: model whose object sizes are the tolerance for matching points.
    """
    records = dict(state.given)
    for task in observation.labeled:
        if task.id in records:
            correct = _matches_annotation(
                task, records[task.id], observation.config.controls, model
            )
            records[task.id] = replace(records[task.id], right=correct)
    return replace(state, given=records)


def suspend_if_broken(
    state: AcceptanceState, error_bound: float, cards: Iterable[VersionCard]
) -> AcceptanceState:
    """Suspend auto-accept if reviews show too many errors.

    The suspension ends when a version passes on 1.5 times as many audit labels as any before.

    Args:
        state: auto-accept state with the latest reviews.
        error_bound: maximum error rate of accepted predictions.
        cards: cards of all versions.
    """
    reason = explain_bound_violation(state.check_results, error_bound)
    if not reason:
        return state
    min_audit_labels = next_test_size(
        max((card.accepting.audit for card in cards if card.accepting), default=0)
    )
    reason += (
        f" Auto-accept is suspended until a version passes on {min_audit_labels} audit images."
    )
    log.warning("%s", reason)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(
        state, suspensions=(*state.suspensions, Suspension(now, reason, min_audit_labels))
    )


def acceptable_tasks(
    card: VersionCard,
    state: AcceptanceState,
    observation: Observation,
    confidences: Mapping[int, float],
    model: Model,
    error_bound: float,
) -> list[Task]:
    """Return the open tasks above the auto-accept threshold, including those for spot checks.

    Images captured because they are uncertain or rare are left out, because the audit set does not
    represent them. The result is empty if the labeling config changed, or the maximum error rate
    was lowered, after the version was trained.

    Args:
        card: card of the live version.
        state: the project's auto-accept state.
        observation: the current tasks and labels.
        confidences: task → confidence of the complete prediction.
        model: model of the live version.
        error_bound: maximum error rate of accepted predictions.
    """
    section = card.accepting
    if section is None or section.level is None:
        return []
    if state.is_suspended(section) or section.error > error_bound:
        return []
    min_confidence = section.level
    if not _same_controls(model.controls, observation.config.controls):
        log.info("Auto-accept waits for a version of the current labeling config.")
        return []
    return [
        task
        for task in observation.tasks
        if task.open
        and not task.labeled
        and not task.skipped
        and confidences.get(task.id, 0.0) >= min_confidence
        and task.capture_reason in ("", RANDOM_CAPTURE)
        and not observation.is_audit(task)
    ]


def tasks_needing_predictions(
    state: AcceptanceState, observation: Observation, predictions: Sequence[Prediction]
) -> set[int]:
    """Return the tasks for which `plan_acceptance` needs complete predictions.

    Args:
        state: the project's auto-accept state.
        observation: the current tasks and labels.
        predictions: predictions of acceptable tasks; boxes and points may be missing.
    """
    for_review, to_accept = _split_for_review(observation, predictions)
    return {
        prediction.task_id for prediction in for_review if _needs_record(state, prediction.task_id)
    } | {prediction.task_id for prediction in to_accept}


def plan_acceptance(
    state: AcceptanceState,
    observation: Observation,
    version: str,
    predictions: Sequence[Prediction],
) -> tuple[AcceptanceState, list[Prediction]]:
    """Choose the predictions to accept and those to spot-check, and record both in the state.

    Args:
        state: the project's auto-accept state.
        observation: the current tasks and labels.
        version: the live version.
        predictions: complete predictions of acceptable tasks. Those without a chosen label are
            left out.

    Returns:
        the state, to be stored before submitting; and the predictions to accept, at most
        ``MAX_ACCEPTED_PER_ROUND``.
    """
    for_review, to_accept = _split_for_review(observation, predictions)
    records, suspension_count = dict(state.given), len(state.suspensions)
    due_reviews = [p for p in for_review if _needs_record(state, p.task_id)]
    for selected, to_people in ((due_reviews, True), (to_accept, False)):
        for prediction in selected:
            records[prediction.task_id] = AcceptedAnswer(
                version,
                _stored_labels(prediction),
                to_people,
                suspension_count,
                ratios=_aspect_ratios(prediction),
            )
    initial_label_count = state.since if state.given else len(observation.labeled)
    return replace(state, given=records, since=initial_label_count), to_accept


def spot_checks(state: AcceptanceState, observation: Observation) -> SpotChecks:
    """Return the spot checks: acceptable tasks that are left to people."""
    check_tasks = {task for task, record in state.given.items() if record.to_people}
    return SpotChecks(
        project=observation.identity,
        pending={task.id for task in observation.tasks if task.open and task.id in check_tasks},
        labeled=max(0, len(observation.labeled) - state.since),
        completed=sum(task.id in check_tasks for task in observation.labeled),
    )


def auto_accept(
    connection: Connection, controls: Mapping[str, Control], predictions: Sequence[Prediction]
) -> set[int]:
    """Submit predictions as annotations of the machine user.

    Tasks that a person labeled or skipped in the meantime are left unchanged.

    Args:
        connection: connection to the project.
        controls: controls by name.
        predictions: complete predictions of open tasks.

    Returns:
        the annotated tasks.
    """
    if not predictions:
        return set()
    client, accepted_tasks = connection.client, set()
    machine_user = client.ensure_machine_user()
    skipped_tasks: set[int] = set()
    for index, prediction in enumerate(predictions):
        if index % SKIP_CHECK_INTERVAL == 0:
            skipped_tasks = client.skipped_task_ids(connection.project_number)
        if prediction.task_id not in skipped_tasks and not client.task_annotations(
            prediction.task_id
        ):
            client.create_annotation(
                prediction.task_id, full_result(prediction, controls), machine_user
            )
            accepted_tasks.add(prediction.task_id)
    log.info("%s predictions were accepted as annotations.", len(accepted_tasks))
    return accepted_tasks


def _split_for_review(
    observation: Observation, predictions: Sequence[Prediction]
) -> tuple[list[Prediction], list[Prediction]]:
    """Return the predictions for review and those to accept, without empty choices."""
    predictions = [
        prediction
        for prediction in predictions
        if all(choice.labels for choice in prediction.choices)
    ]
    for_review: list[Prediction] = []
    to_accept: list[Prediction] = []
    for prediction in predictions:
        held = is_held_for_review(observation.identity, prediction.task_id)
        (for_review if held else to_accept).append(prediction)
    return for_review, to_accept[:MAX_ACCEPTED_PER_ROUND]


def _needs_record(state: AcceptanceState, task: int) -> bool:
    """Return whether a spot check has no record since the last suspension."""
    return task not in state.given or state.given[task].era < len(state.suspensions)


def _same_controls(evaluated: Sequence[Control], current: Sequence[Control]) -> bool:
    """Return whether controls are equal except for smart tools."""
    first, second = (
        [replace(control, smart=False) for control in each] for each in (evaluated, current)
    )
    return first == second


def _stored_labels(prediction: Prediction) -> dict[str, list[Any]]:
    """Return the labels of a prediction in the format of label snapshots."""
    choices = {choice.control: sorted(choice.labels) for choice in prediction.choices}
    return choices | {
        detections.control: region_rows(detections.regions) for detections in prediction.regions
    }


def _aspect_ratios(prediction: Prediction) -> dict[str, float]:
    sizes = {detections.control: detections.size for detections in prediction.regions}
    return {name: size.width / size.height for name, size in sizes.items()}


def _matches_annotation(
    task: Task, record: AcceptedAnswer, controls: Iterable[Control], model: Model
) -> bool | None:
    """Return whether an annotation matches the prediction; None if a control is unlabeled."""
    choices, regions = task.choices or {}, task.regions or {}
    correct = True
    for control in (c for c in controls if c.name in record.answer):
        if control.name not in (choices if control.is_choices else regions):
            return None
        if control.is_choices:
            correct &= choices[control.name] == frozenset(record.answer[control.name])
        else:
            correct &= _matches_regions(control, record, regions[control.name], model)
    return correct


def _matches_regions(
    control: Control, record: AcceptedAnswer, truth: Regions, model: Model
) -> bool:
    """Return whether the predicted regions match the annotated ones, as on the audit set."""
    predicted = tuple(Region(*row) for row in record.answer[control.name])
    detector = model.detectors.get(control.name)
    extents = dict(detector.class_mapping.sides) if detector else {}
    evaluated_image = DetectionSample(
        predicted, (1.0,) * len(predicted), truth, record.ratios.get(control.name, 1.0)
    )
    count = count_matches(
        evaluated_image, control.label_names, metrics.region_kind(control), extents, 0.0
    )
    return count.true_positives == count.predicted == count.actual
