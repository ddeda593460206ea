"""Answers that need no person: given in the machine's name, checked by people now and then."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

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
from backend.learning.detection_metrics import DetectionSample, RegionKind, count_matches
from backend.loop.evaluate import metrics
from backend.loop.evaluate.metrics import ControlEvaluation
from backend.loop.observe import RANDOM_CAPTURE, Observation, region_rows
from backend.records import AutoAcceptSection
from backend.runtime.connection import Connection
from backend.store.acceptance import AcceptanceState, AcceptedAnswer, Suspension
from backend.store.versions import VersionCard

log = logging.getLogger("prelabel")
MAX_ACCEPTED_PER_ROUND = 500
"""Answers that one round gives: 50 ms each, and Label Studio is busy meanwhile."""
SKIP_CHECK_INTERVAL = 50
"""Answers that are given between two looks at what people skipped."""


def accept_error_bound(controls: Iterable[Control], default_error: float) -> float:
    """The error bound of a project, the smallest of its controls'; 0: nothing is accepted.

    Args:
        controls: all of them; one that allows nothing allows nothing of the whole task.
        default_error: of those that do not say.
    """
    bounds = [default_error if c.accept_error is None else c.accept_error for c in controls]
    return min(bounds, default=0.0)


def evaluate_acceptance(
    evaluations: Mapping[str, ControlEvaluation],
    error_bound: float,
    cards: Iterable[VersionCard],
    min_audit_labels: int,
) -> AutoAcceptSection:
    """From which confidence on a version's answers are accepted, as its card tells it.

    Args:
        evaluations: of all controls on the audit slice.
        error_bound: the bound.
        cards: of the versions before, oldest first; each tells whether it was a look.
        min_audit_labels: audit labels that are needed because accepting is suspended.
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
    """The state with what people answered by now, where something was given before.

    Nothing is counted twice: each answer that was given is right, wrong, or not looked at.

    Args:
        state: as it was kept.
        observation: what Label Studio holds.
        model: whose points' extents tell when two points are one.
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
    """The state, with a suspension more where people found too many errors.

    It ends when a version is proven on half as many audit labels again as any version saw.

    Args:
        state: just reviewed.
        error_bound: the bound that the project wants.
        cards: of all versions.
    """
    reason = explain_bound_violation(state.check_results, error_bound)
    if not reason:
        return state
    min_audit_labels = next_test_size(
        max((card.accepting.audit for card in cards if card.accepting), default=0)
    )
    reason += (
        f" Nothing is accepted until the bound is proven anew, on {min_audit_labels} audit images."
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
    """The open tasks whose answers need no person, those among them that go to people all the same.

    Only what the audit slice is a fair sample of: not what was captured because it was hard.
    Only by what was judged: not after the labeling config or the wanted bound changed.

    Args:
        card: of the live version.
        state: of the project.
        observation: what Label Studio holds.
        confidences: by task, confidence of the live version's whole answer.
        model: the live version's.
        error_bound: the bound that the project wants now.
    """
    section = card.accepting
    if section is None or section.level is None:
        return []
    if state.is_suspended(section) or section.error > error_bound:
        return []
    min_confidence = section.level
    if not _same_controls(model.controls, observation.config.controls):
        log.info("Nothing is accepted until a version of the present labeling config is live.")
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
    """The tasks of which :func:`plan_acceptance` needs to know the whole answer.

    Args:
        state: of the project.
        observation: what Label Studio holds.
        predictions: of acceptable tasks; their boxes and points may be missing.
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
    """Decide which answers are given and which tasks go to people, and remember both.

    Args:
        state: of the project.
        observation: what Label Studio holds.
        version: the live one.
        predictions: complete predictions of the acceptable tasks. Those that choose
            nothing were not judged and are left out.

    Returns:
        the state, to be kept before anything is given; and at most AT_ONCE answers to give.
    """
    for_review, to_accept = _split_for_review(observation, predictions)
    records, suspension_count = dict(state.given), len(state.suspensions)
    for prediction in for_review:
        if _needs_record(state, prediction.task_id):
            records[prediction.task_id] = AcceptedAnswer(
                version,
                _stored_labels(prediction),
                True,
                suspension_count,
                ratios=_aspect_ratios(prediction),
            )
    for prediction in to_accept:
        records[prediction.task_id] = AcceptedAnswer(
            version,
            _stored_labels(prediction),
            False,
            suspension_count,
            ratios=_aspect_ratios(prediction),
        )
    initial_label_count = state.since if state.given else len(observation.labeled)
    return replace(state, given=records, since=initial_label_count), to_accept


def spot_checks(state: AcceptanceState, observation: Observation) -> SpotChecks:
    """Which open tasks go to people although they could have been accepted."""
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
    """Give answers in the machine's name.

    Training and pushing take a while, and so does this; who labeled or skipped a task meanwhile has
    the last word.

    Args:
        connection: the project.
        controls: by name.
        predictions: of tasks that were open, everything that the model would answer.

    Returns:
        the tasks that were answered.
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
    log.info("%s answers were accepted without a person.", len(accepted_tasks))
    return accepted_tasks


def _split_for_review(
    observation: Observation, predictions: Sequence[Prediction]
) -> tuple[list[Prediction], list[Prediction]]:
    """Answers whose tasks go to people, and those to give; none that chooses nothing."""
    predictions = [
        prediction
        for prediction in predictions
        if all(choice.labels for choice in prediction.choices)
    ]
    for_review = [
        prediction
        for prediction in predictions
        if is_held_for_review(observation.identity, prediction.task_id)
    ]
    return for_review, [
        prediction
        for prediction in predictions
        if not is_held_for_review(observation.identity, prediction.task_id)
    ][:MAX_ACCEPTED_PER_ROUND]


def _needs_record(state: AcceptanceState, task: int) -> bool:
    """Whether no answer to a task that goes to people is remembered since the last suspension."""
    return task not in state.given or state.given[task].era < len(state.suspensions)


def _same_controls(evaluated: Sequence[Control], current: Sequence[Control]) -> bool:
    """Whether answers mean and show the same; who draws with which tool does not matter."""
    first, second = (
        [replace(control, smart=False) for control in each] for each in (evaluated, current)
    )
    return first == second


def _stored_labels(prediction: Prediction) -> dict[str, list[Any]]:
    """As a version remembers labels."""
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
    """Whether a person answered the same; None where they left a control unanswered."""
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
    """Whether all was found and nothing else, as the audit slice is judged."""
    predicted = tuple(Region(*row) for row in record.answer[control.name])
    detector = model.detectors.get(control.name)
    extents = dict(detector.class_mapping.sides) if detector else {}
    kind: RegionKind = "points" if control.is_points else "boxes"
    evaluated_image = DetectionSample(
        predicted, (1.0,) * len(predicted), truth, record.ratios.get(control.name, 1.0)
    )
    count = count_matches(evaluated_image, control.label_names, kind, extents, 0.0)
    return count.true_positives == count.predicted == count.actual
