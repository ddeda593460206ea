"""Read the labels of a project for an export, one page of tasks at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend.card_records import TAG_BY_KIND
from backend.domain import Control, ImageSize, Task
from backend.label_studio import Json
from backend.label_studio.json_values import read_field, read_objects
from backend.label_studio.labeling_config import LabelingConfig
from backend.label_studio.task_results import choice_confidences, parse_task
from backend.learning.audit import AUDIT_SHARE, hash_rank
from backend.loop.observe import is_audit_task, load_label_times, read_task
from backend.runtime.project_session import ProjectSession
from backend.store.annotation_times import AnnotationTimes
from backend.tools.dataset.file_names import (
    EXPORTED_IMAGE_SUFFIXES,
    FileNames,
    original_name,
    split_suffix,
)
from backend.tools.dataset.labels import PREDICTED_SPLIT, Dataset, LabeledImage, Split

ORIGINAL_PATH_FIELD = "file"
"""In the data of a task that `prelabel init` made: path of its image in the imported folder."""


@dataclass(frozen=True)
class _TaskImage:
    """An image of a labeled task, before the tasks are split, or of a predicted one."""

    task: Task
    image_key: str
    original_name: str
    size: ImageSize | None
    split: Split | None = None
    confidence: Mapping[str, float] = field(default_factory=dict)


def read_dataset(
    session: ProjectSession,
    config: LabelingConfig,
    title: str,
    controls: Sequence[Control],
    version: str = "",
) -> Dataset:
    """Read the labels of a project, and the predictions of a version for the other images.

    Args:
        session: session of the project.
        config: its labeling config.
        title: title of the project.
        controls: controls to export; images without a label of any of them are left out.
        version: the version; no predictions are read without one. They hold choices only.

    Raises:
        LabelStudioError: Label Studio refused a request or cannot be reached.
    """
    left_out: Counter[str] = Counter(
        f"control {name} ({reason})" for name, reason in config.unserved.items()
    )
    left_out.update(
        f"control {control.name} ({TAG_BY_KIND[control.kind]}: not part of this format)"
        for control in config.controls
        if control not in controls
    )
    task_images = list(_iter_task_images(session, config, controls, left_out))
    tasks = {image.task.id: image.task for image in task_images}
    identity = session.record.audit_identity
    audit = {id for id, task in tasks.items() if is_audit_task(identity, task)}
    validation = choose_validation_tasks(tasks, audit, lambda task: hash_rank(identity, task))
    if version:
        task_images += _iter_predicted_images(session, controls, version, tasks.keys(), left_out)
        task_images.sort(key=lambda image: image.task.id)
    names = FileNames()
    images = tuple(
        LabeledImage(
            image.task,
            image.image_key,
            names.assign(image.original_name, fallback=f"task-{image.task.id}"),
            image.split or ("val" if image.task.id in validation else "train"),
            image.size,
            image.confidence,
        )
        for image in task_images
    )
    is_val_audit = bool(audit) and validation == audit
    return Dataset(title, tuple(controls), images, left_out, is_val_audit, bool(version))


def choose_validation_tasks(
    tasks: Collection[int], audit: Collection[int], rank: Callable[[int], float]
) -> set[int]:
    """Return the tasks of the split ``val``; a single task is none.

    The labeled audit tasks, on which no version was trained. Without any, or with nothing else, a
    tenth of all tasks.

    Args:
        tasks: all labeled tasks.
        audit: those of the audit set.
        rank: a task's random number, which is fixed.

    Example:
        >>> choose_validation_tasks([1, 2, 3], [2], rank=float)
        {2}
        >>> choose_validation_tasks([1, 2, 3], [], rank=float)
        {1}
    """
    if 0 < len(audit) < len(tasks):
        return set(audit)
    count = max(1, round(AUDIT_SHARE * len(tasks))) if len(tasks) > 1 else 0
    return set(sorted(tasks, key=rank)[:count])


def _iter_task_images(
    session: ProjectSession,
    config: LabelingConfig,
    controls: Sequence[Control],
    left_out: Counter[str],
) -> Iterator[_TaskImage]:
    client = session.connection.client
    label_times = load_label_times(session.folder)
    times = AnnotationTimes(session.folder)
    machine_user = client.find_machine_user()
    for listed in client.iter_labeled_tasks(session.number):
        row = {**listed, "annotations": times.restore(read_objects(listed, "annotations"))}
        task = read_task(row, config, label_times, left_out, machine_user)
        if task.auto_accepted:
            accepted = parse_task(row, config.controls, label_times, Counter())
            task = replace(accepted, auto_accepted=True)
        for key in _labeled_image_keys(task, controls):
            if key in task.images:
                yield _read_image(session, task, key, row)
            else:
                left_out["labeled task without the address of its image"] += 1


def _iter_predicted_images(
    session: ProjectSession,
    controls: Sequence[Control],
    version: str,
    labeled: Collection[int],
    left_out: Counter[str],
) -> Iterator[_TaskImage]:
    """Yield the images of open tasks with the choices that a version predicts.

    A task that has an annotation and waits for another one is not open here.
    """
    client = session.connection.client
    results = client.prediction_results(session.number, version)
    for row in client.iter_tasks(session.number):
        if row.get("is_labeled") or row["id"] in labeled:
            continue
        result = results.get(row["id"])
        if result is None:
            left_out[f"open task without a prediction of {version}"] += 1
            continue
        task = parse_task({**row, "annotations": [{"result": result}]}, controls, {}, Counter())
        keys = _labeled_image_keys(task, controls)
        if not keys:
            left_out["open task without a predicted label above the minimum confidence"] += 1
        for key in keys:
            if key in task.images:
                yield replace(
                    _read_image(session, task, key, row),
                    split=PREDICTED_SPLIT,
                    confidence=choice_confidences(result),
                )


def _labeled_image_keys(task: Task, controls: Sequence[Control]) -> list[str]:
    """Return the fields of a task's images that have a label, in the order of the config."""
    known: Collection[str] = {*(task.choices or {}), *(task.regions or {})}
    return list(dict.fromkeys(c.image_key for c in controls if c.name in known))


def _read_image(session: ProjectSession, task: Task, key: str, row: Json) -> _TaskImage:
    address = task.images[key]
    facts = session.images.cached_facts([address]).get(address)
    is_inline = address[:5].lower() == "data:"
    return _TaskImage(
        replace(task, images=_without_inline(task.images)),
        key,
        ("" if is_inline else _imported_name(row)) or original_name(address, task.id),
        ImageSize(facts.width, facts.height) if facts else None,
    )


def _without_inline(images: Mapping[str, str]) -> dict[str, str]:
    """Return the addresses without data URIs: 10,000 of them would fill the memory."""
    return {key: "" if a[:5].lower() == "data:" else a for key, a in images.items()}


def _imported_name(row: Json) -> str:
    """Return the path of an image that `prelabel init` imported; empty for others.

    Label Studio removes spaces and other characters from the names of uploads.
    """
    path = read_field(row["data"], ORIGINAL_PATH_FIELD)
    if not isinstance(path, str) or split_suffix(path)[1].lower() not in EXPORTED_IMAGE_SUFFIXES:
        return ""
    return path.replace("\\", "/").rpartition("/")[2]
