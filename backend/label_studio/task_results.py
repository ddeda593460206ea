"""Label Studio's regions ↔ answers and predictions: the one owner of that JSON."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from backend.domain import Answer, Choice, Control, Place, Places, Prediction, Task
from backend.label_studio.region_results import count_strangers, marked_by, place_regions

Json = dict[str, Any]
CAPTURED = "prelabel_captured"
"""In the data of a task that the endpoint kept: why."""
AT_ONCE = 5.0
"""Seconds between making and changing an annotation that nobody has changed: saving takes its time,
and nobody finds, changes and submits another's answer so soon."""


def result_of(prediction: Prediction, controls: Mapping[str, Control]) -> list[Json]:
    """The regions of a prediction, as ``result`` carries them.

    A label below its control's ``model_score_threshold`` is left out; a control with none left
    gives no region (a region with an empty list of choices would be shown as answered).
    """
    return _regions(prediction, controls)


def whole_of(prediction: Prediction, controls: Mapping[str, Control]) -> list[Json]:
    """The same with every label, however uncertain: what was judged, to be accepted as it is."""
    return _regions(prediction, {n: replace(c, threshold=0.0) for n, c in controls.items()})


def _regions(prediction: Prediction, controls: Mapping[str, Control]) -> list[Json]:
    regions = (_choices_region(prediction.task, c, controls[c.control]) for c in prediction.choices)
    chosen = [region for region in regions if region["value"]["choices"]]
    return chosen + [
        region
        for finding in prediction.findings
        for region in place_regions(prediction.task, finding, controls[finding.control])
    ]


def prediction_json(prediction: Prediction, controls: Mapping[str, Control], version: str) -> Json:
    """One entry of a bulk import or of ``/predict``'s results."""
    return {
        "task": prediction.task,
        "result": result_of(prediction, controls),
        "score": round(prediction.score, 6),
        "model_version": version,
    }


def _choices_region(task: int, choice: Choice, control: Control) -> Json:
    chosen = {n: c for n, c in choice.labels.items() if c >= control.threshold}
    return {
        "id": hashlib.sha256(f"{task}/{control.name}".encode()).hexdigest()[:10],
        "from_name": control.name,
        "to_name": control.to_name,
        "type": "choices",
        "original_width": choice.size.width,
        "original_height": choice.size.height,
        "image_rotation": 0,
        "value": {"choices": list(chosen)},
        "score": round(min(chosen.values(), default=0.0), 6),
    }


def read_task(
    row: Json,
    controls: Sequence[Control],
    added: Mapping[str, Mapping[str, str]],
    left: Counter[str],
    machine: int = 0,
) -> Task:
    """A task as Label Studio lists it.

    Args:
        row: with ``id``, ``data``, ``is_labeled`` and, where a person answered, ``annotations``.
        controls: the served controls.
        added: by control and label, when the label came into the config (ISO 8601); a label from
            the start is absent. An answer older than a label says nothing about it.
        left: counts what is left out, by reason.
        machine: the user that accepted predictions are signed by; 0: there is none.

    Returns:
        the task with the answer that stands for each control.
    """
    everything = row.get("annotations") or []
    own = [a for a in everything if machine and _untouched(a, machine)]
    annotations = [a for a in everything if a not in own and not _skipped(a, left)]
    for annotation in annotations:
        count_strangers(annotation.get("result") or [], (c.name for c in controls), left)
    answers: dict[str, Answer] = {}
    asked: dict[str, frozenset[str]] = {}
    for control in (c for c in controls if c.kind == "choices"):
        given = _answer(annotations, control, left)
        if given is not None:
            answers[control.name], when = given
            asked[control.name] = _labels_at(control, added.get(control.name, {}), when)
    return Task(
        id=row["id"],
        images=_images(row.get("data") or {}, controls),
        open=not row.get("is_labeled"),
        answers=answers or None,
        places=_all_places(annotations, controls, added, left) or None,
        asked=asked or None,
        accepted=bool(own) and not annotations,
        captured=str((row.get("data") or {}).get(CAPTURED) or ""),
        skipped=any(a.get("was_cancelled") for a in everything),
    )


def _untouched(annotation: Json, machine: int) -> bool:
    """Whether it is an accepted prediction that no person has submitted since."""
    if annotation.get("completed_by") != machine:
        return False
    made, changed = (
        datetime.fromisoformat(str(annotation.get(key))) for key in ("created_at", "updated_at")
    )
    return (changed - made).total_seconds() < AT_ONCE


def _all_places(
    annotations: Sequence[Json],
    controls: Sequence[Control],
    added: Mapping[str, Mapping[str, str]],
    left: Counter[str],
) -> dict[str, Places]:
    """By control of boxes or points, the places of the annotation that stands.

    A control is absent where an object was marked that its places would lack. Points that nobody
    set where somebody drew boxes of the same labels are the boxes' centres.
    """
    served = [control.name for control in controls]
    controls = [control for control in controls if control.kind != "choices"]
    standing: dict[str, Places | None] = {}
    for control in controls:
        given = _given(annotations, control, served, added.get(control.name, {}), left)
        if given:
            standing[control.name] = max(given, key=lambda entry: entry[:2])[2]
    found = {
        control.name: places
        for control in controls
        if (places := standing.get(control.name)) is not None
        and not _lacks_boxes(control, places, controls, standing)
    }
    for name in standing.keys() - found.keys():
        left[f"image left out of {name}: not all its objects are known"] += 1
    for control in controls:
        if control.kind == "points" and standing.get(control.name, ()) == ():
            centres = tuple(_centres_of_boxes(control, controls, found))
            if centres:
                found[control.name] = centres
    return found


def _given(
    annotations: Sequence[Json],
    control: Control,
    served: Sequence[str],
    added: Mapping[str, str],
    left: Counter[str],
) -> list[tuple[bool, str, Places | None]]:
    """What each annotation marks for a control: a ground truth is larger, and then the latest.

    An annotation that is older than the control and marks nothing says nothing about it.
    """
    first = min((added.get(name, "") for name in control.label_names), default="")
    given: list[tuple[bool, str, Places | None]] = []
    for annotation in annotations:
        when = str(annotation.get("updated_at") or "")
        places = marked_by(annotation.get("result") or [], control, left, served)
        if places or not when or first <= when:
            given.append((bool(annotation.get("ground_truth")), when, places))
    return given


def _lacks_boxes(
    control: Control,
    places: Places,
    controls: Sequence[Control],
    standing: Mapping[str, Places | None],
) -> bool:
    """Whether somebody set a point on an object that nobody drew the box of."""
    if control.kind != "boxes":
        return False
    beside = (c for c in controls if c.kind == "points" and c.to_name == control.to_name)
    points = (point for other in beside for point in standing.get(other.name) or ())
    return any(
        point.label in control.label_names and not any(_covers(box, point) for box in places)
        for point in points
    )


def _covers(box: Place, point: Place) -> bool:
    x, y = point.centre
    return box.label == point.label and box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1


def _centres_of_boxes(
    control: Control, controls: Sequence[Control], found: Mapping[str, Places]
) -> Iterator[Place]:
    """Of the boxes on the same image that have a label of a control."""
    for other in controls:
        if other.kind == "boxes" and other.to_name == control.to_name:
            for box in found.get(other.name, ()):
                if box.label in control.label_names:
                    x, y = box.centre
                    yield Place(box.label, x, y, x, y)


def _skipped(annotation: Json, left: Counter[str]) -> bool:
    if annotation.get("was_cancelled"):
        left["skipped by the annotator"] += 1
        return True
    return False


def _images(data: Json, controls: Iterable[Control]) -> dict[str, str]:
    found = {control.image_key: data.get(control.image_key) for control in controls}
    return {key: value for key, value in found.items() if isinstance(value, str) and value}


def _answer(
    annotations: Sequence[Json], control: Control, left: Counter[str]
) -> tuple[Answer, str] | None:
    """The answer that stands, and when it was given.

    A ground truth outranks the others; else the answer most people gave; among equals the latest.
    """
    given = [
        (bool(a.get("ground_truth")), str(a.get("updated_at") or ""), answer)
        for a in annotations
        if (answer := _one_answer(a.get("result") or [], control, left)) is not None
    ]
    if not given:
        return None
    best = [entry for entry in given if entry[0]] or given
    votes = Counter(answer for _, _, answer in best)
    _, when, answer = max(best, key=lambda entry: (votes[entry[2]], entry[1]))
    return answer, when


def _one_answer(result: Sequence[Json], control: Control, left: Counter[str]) -> Answer | None:
    """What one annotation says of a control; None where it was left unanswered.

    For several-of-many, nothing chosen is an answer ("none of them").
    """
    chosen: list[str] = []
    for region in result:
        if region.get("from_name") == control.name and region.get("type") == "choices":
            chosen += region.get("value", {}).get("choices") or []
    known = frozenset(chosen) & frozenset(control.label_names)
    if len(known) < len(set(chosen)):
        left["label no longer in the labeling config"] += 1
        if not known:
            return None
    if control.multiple:
        return known
    return known if len(known) == 1 else None


def _labels_at(control: Control, added: Mapping[str, str], when: str) -> frozenset[str]:
    return frozenset(n for n in control.label_names if not when or added.get(n, "") <= when)
