"""Convert tasks and predictions from and to Label Studio's JSON; no other module reads it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from backend.domain import ChoicePrediction, Control, LabelSet, Prediction, Region, Regions, Task
from backend.label_studio import Json
from backend.label_studio.json_values import (
    read_field,
    read_object,
    read_objects,
    read_strings,
)
from backend.label_studio.region_results import complete_regions, count_unserved, format_regions

CAPTURE_REASON_FIELD = "prelabel_captured"
"""Field in the data of a captured task with the reason of the capture."""
SAVE_DELAY_SECONDS = 5.0
"""Seconds between ``created_at`` and ``updated_at`` below which an annotation counts as unchanged:
Label Studio takes a moment to save, and a person needs longer to open, change and submit it."""


def visible_result(prediction: Prediction, controls: Mapping[str, Control]) -> list[Json]:
    """Format the ``result`` of a prediction without labels below ``model_score_threshold``.

    A control of choices without a remaining label is omitted, because Label Studio would display
    an empty list of choices as an answer.
    """
    return _format_result(prediction, controls)


def full_result(prediction: Prediction, controls: Mapping[str, Control]) -> list[Json]:
    """Format the ``result`` with all labels, as it was evaluated, for auto-accept."""
    return _format_result(prediction, {n: replace(c, threshold=0.0) for n, c in controls.items()})


def _format_result(prediction: Prediction, controls: Mapping[str, Control]) -> list[Json]:
    items = (
        _format_choices(prediction.task_id, c, controls[c.control]) for c in prediction.choices
    )
    choice_items = [item for item in items if item["value"]["choices"]]
    return choice_items + [
        item
        for region_prediction in prediction.regions
        for item in format_regions(
            prediction.task_id, region_prediction, controls[region_prediction.control]
        )
    ]


def format_prediction(
    prediction: Prediction, controls: Mapping[str, Control], version: str
) -> Json:
    """Format a prediction for a bulk import or for the response of ``/predict``."""
    return {
        "task": prediction.task_id,
        "result": visible_result(prediction, controls),
        "score": round(prediction.score, 6),
        "model_version": version,
    }


def choice_confidences(result: Sequence[Json]) -> dict[str, float]:
    """Return control of choices → confidence, from the ``result`` of a prediction."""
    return {
        str(item.get("from_name")): float(item.get("score") or 0.0)
        for item in result
        if item.get("type") == "choices"
    }


def _format_choices(task: int, choice: ChoicePrediction, control: Control) -> Json:
    visible_labels = {n: c for n, c in choice.labels.items() if c >= control.threshold}
    return {
        "id": hashlib.sha256(f"{task}/{control.name}".encode()).hexdigest()[:10],
        "from_name": control.name,
        "to_name": control.to_name,
        "type": "choices",
        "original_width": choice.size.width,
        "original_height": choice.size.height,
        "image_rotation": 0,
        "value": {"choices": list(visible_labels)},
        "score": round(min(visible_labels.values(), default=0.0), 6),
    }


def parse_task(
    row: Json,
    controls: Sequence[Control],
    label_added_at: Mapping[str, Mapping[str, str]],
    skipped_counts: Counter[str],
    machine_user: int = 0,
) -> Task:
    """Parse a task that Label Studio lists.

    Args:
        row: task with ``id``, ``data``, ``is_labeled`` and, if annotated, ``annotations``.
        controls: served controls.
        label_added_at: control → label → when the label was added to the config (ISO 8601); labels
            of the first config are missing. An older annotation implies nothing about a label.
        skipped_counts: receives the number of skipped annotations and regions by reason.
        machine_user: id of the user that auto-accept annotates as; 0 if there is none.

    Returns:
        the task, with the selected annotation of each control.
    """
    data = read_object(row, "data")
    all_annotations = read_objects(row, "annotations")
    accepted_annotations = [a for a in all_annotations if is_machine_annotation(a, machine_user)]
    annotations = [
        a
        for a in all_annotations
        if a not in accepted_annotations and not _is_skipped(a, skipped_counts)
    ]
    for annotation in annotations:
        count_unserved(
            read_objects(annotation, "result"), (c.name for c in controls), skipped_counts
        )
    label_sets: dict[str, LabelSet] = {}
    available_labels: dict[str, frozenset[str]] = {}
    for control in (c for c in controls if c.kind == "choices"):
        selected = _select_label_set(annotations, control, skipped_counts)
        if selected is not None:
            label_sets[control.name], answered_at = selected
            available_labels[control.name] = _labels_existing_at(
                control, label_added_at.get(control.name, {}), answered_at
            )
    unanswered = frozenset(
        control.name
        for control in controls
        if control.is_choices
        and not control.multiple
        and _is_unanswered(annotations, control, label_added_at.get(control.name, {}))
    )
    for name in unanswered:
        skipped_counts[f"submitted without a choice for {name}"] += 1
    return Task(
        id=row["id"],
        images=_image_addresses(data, controls),
        open=not row.get("is_labeled"),
        choices=label_sets or None,
        regions=_parse_all_regions(annotations, controls, label_added_at, skipped_counts) or None,
        available_labels=available_labels or None,
        auto_accepted=bool(accepted_annotations) and not annotations,
        capture_reason=str(data.get(CAPTURE_REASON_FIELD) or ""),
        skipped=any(a.get("was_cancelled") for a in all_annotations),
        unanswered=unanswered,
    )


def _is_unanswered(
    annotations: Sequence[Json], control: Control, label_added_at: Mapping[str, str]
) -> bool:
    """Whether people submitted a task without any answer, although it asks for a single choice.

    Annotations that are older than the control's labels do not count. Neither do those that answer
    another control: not every control has to be answered.
    """
    answered_at = [str(annotation.get("updated_at") or "") for annotation in annotations]
    has_answer = any(read_objects(annotation, "result") for annotation in annotations)
    return not has_answer and any(
        _labels_existing_at(control, label_added_at, at) for at in answered_at
    )


def is_machine_annotation(annotation: Json, machine_user: int) -> bool:
    """Return whether an annotation was auto-accepted and not submitted by a person since."""
    if not machine_user or annotation.get("completed_by") != machine_user:
        return False
    try:
        created_at, updated_at = (
            datetime.fromisoformat(str(annotation.get(key))) for key in ("created_at", "updated_at")
        )
        return (updated_at - created_at).total_seconds() < SAVE_DELAY_SECONDS
    except (TypeError, ValueError):  # a missing time, or only one with a time zone
        return False


def _parse_all_regions(
    annotations: Sequence[Json],
    controls: Sequence[Control],
    label_added_at: Mapping[str, Mapping[str, str]],
    skipped_counts: Counter[str],
) -> dict[str, Regions]:
    """Return control of boxes or points → regions of the selected annotation.

    A control is missing if its regions are incomplete. If a control of points has no point, it gets
    the centres of the boxes with its labels.
    """
    served_names = [control.name for control in controls]
    controls = [control for control in controls if control.kind != "choices"]
    current_regions: dict[str, Regions | None] = {}
    for control in controls:
        candidates = _annotated_regions(
            annotations, control, served_names, label_added_at.get(control.name, {}), skipped_counts
        )
        if candidates:
            current_regions[control.name] = max(candidates, key=lambda entry: entry[:2])[2]
    known_regions = {
        control.name: regions
        for control in controls
        if (regions := current_regions.get(control.name)) is not None
        and not _has_unboxed_point(control, regions, controls, current_regions)
    }
    for name in current_regions.keys() - known_regions.keys():
        skipped_counts[f"image left out of {name}: not all its objects are known"] += 1
    for control in controls:
        if control.kind == "points" and current_regions.get(control.name, ()) == ():
            centres = tuple(_box_centres(control, controls, known_regions))
            if centres:
                known_regions[control.name] = centres
    return known_regions


def _annotated_regions(
    annotations: Sequence[Json],
    control: Control,
    served_names: Sequence[str],
    label_added_at: Mapping[str, str],
    skipped_counts: Counter[str],
) -> list[tuple[bool, str, Regions | None]]:
    """Return (is ground truth, updated at, regions) of each annotation for a control.

    The largest tuple has priority. Annotations without a region that are older than the control are
    left out, because their author could not use it.
    """
    control_added_at = min(
        (label_added_at.get(name, "") for name in control.label_names), default=""
    )
    candidates: list[tuple[bool, str, Regions | None]] = []
    for annotation in annotations:
        updated_at = str(annotation.get("updated_at") or "")
        regions = complete_regions(
            read_objects(annotation, "result"), control, skipped_counts, served_names
        )
        if regions or not updated_at or control_added_at <= updated_at:
            candidates.append((bool(annotation.get("ground_truth")), updated_at, regions))
    return candidates


def _has_unboxed_point(
    control: Control,
    regions: Regions,
    controls: Sequence[Control],
    current_regions: Mapping[str, Regions | None],
) -> bool:
    """Return whether a point lies in no box of its label, so that boxes are missing."""
    if control.kind != "boxes":
        return False
    point_controls = (c for c in controls if c.kind == "points" and c.to_name == control.to_name)
    points = (
        point
        for point_control in point_controls
        for point in current_regions.get(point_control.name) or ()
    )
    return any(
        point.label in control.label_names and not any(_contains(box, point) for box in regions)
        for point in points
    )


def _contains(box: Region, point: Region) -> bool:
    x, y = point.center
    return box.label == point.label and box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1


def _box_centres(
    control: Control, controls: Sequence[Control], known_regions: Mapping[str, Regions]
) -> Iterator[Region]:
    """Yield the centres of boxes on the same image with a label of a control."""
    for box_control in controls:
        if box_control.kind == "boxes" and box_control.to_name == control.to_name:
            for box in known_regions.get(box_control.name, ()):
                if box.label in control.label_names:
                    x, y = box.center
                    yield Region(box.label, x, y, x, y)


def _is_skipped(annotation: Json, skipped_counts: Counter[str]) -> bool:
    if annotation.get("was_cancelled"):
        skipped_counts["skipped by the annotator"] += 1
        return True
    return False


def _image_addresses(data: Json, controls: Iterable[Control]) -> dict[str, str]:
    addresses = {control.image_key: read_field(data, control.image_key) for control in controls}
    return {key: value for key, value in addresses.items() if isinstance(value, str) and value}


def _select_label_set(
    annotations: Sequence[Json], control: Control, skipped_counts: Counter[str]
) -> tuple[LabelSet, str] | None:
    """Select the label set of a control, and return it with the time of its annotation.

    Ground truths have priority, then the majority of the annotations, then the latest one.
    """
    candidates = [
        (bool(a.get("ground_truth")), str(a.get("updated_at") or ""), label_set)
        for a in annotations
        if (label_set := _parse_label_set(read_objects(a, "result"), control, skipped_counts))
        is not None
    ]
    if not candidates:
        return None
    preferred = [entry for entry in candidates if entry[0]] or candidates
    votes = Counter(label_set for _, _, label_set in preferred)
    _, answered_at, label_set = max(preferred, key=lambda entry: (votes[entry[2]], entry[1]))
    return label_set, answered_at


def _parse_label_set(
    result: Sequence[Json], control: Control, skipped_counts: Counter[str]
) -> LabelSet | None:
    """Parse the label set of one annotation; None if the control was left unanswered.

    For several-of-many, an empty choice means that no label applies.
    """
    chosen_labels: list[str] = []
    for item in result:
        if item.get("from_name") == control.name and item.get("type") == "choices":
            chosen_labels += read_strings(read_object(item, "value"), "choices")
    known_labels = frozenset(chosen_labels) & frozenset(control.label_names)
    if len(known_labels) < len(set(chosen_labels)):
        skipped_counts["label no longer in the labeling config"] += 1
        if not known_labels:
            return None
    if control.multiple:
        return known_labels
    return known_labels if len(known_labels) == 1 else None


def _labels_existing_at(
    control: Control, label_added_at: Mapping[str, str], answered_at: str
) -> frozenset[str]:
    return frozenset(
        n
        for n in control.label_names
        if not answered_at or label_added_at.get(n, "") <= answered_at
    )
