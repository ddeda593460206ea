"""A live ``/predict``: exactly one result per task, whatever happens to its image."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from backend.domain import Control, Places, Task
from backend.errors import ImageError
from backend.inference.detect import look
from backend.inference.embed import NO_IMAGES
from backend.inference.predict import (
    confidences,
    place_uncertainties,
    predictions,
    sources,
    task_uncertainty,
    unreadable,
)
from backend.inference.smart_tools import drawn_in, suggest
from backend.label_studio.labeling_config import read_config
from backend.label_studio.ml_protocol import project_of
from backend.label_studio.task_results import prediction_json, read_task
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord

log = logging.getLogger("prelabel")
FIRST = "suggestion"
"""Version of suggestions before the first version."""


def answer(resources: Resources, request: dict[str, Any]) -> dict[str, Any] | None:
    """The answer to a ``/predict`` request.

    Args:
        resources: of this process.
        request: Label Studio's body: ``tasks, project, label_config``; and, where it is one piece
            of a longer list, ``ahead``: the tasks of the next.

    Returns:
        ``{"results": [one per task], "model_version"}``; None while the project has no version.
    """
    tasks = request.get("tasks") or []
    record = _project(resources, request, tasks)
    if record is None:
        return None
    live = resources.versions(record).live()
    context = (request.get("params") or {}).get("context") or {}
    if live is None and not context.get("result"):
        return None
    config = read_config(str(request.get("label_config") or _config(resources, record)))
    read, ahead = (
        [read_task(row, config.controls, {}, Counter()) for row in rows]
        for rows in (tasks, request.get("ahead") or [])
    )
    drawn = drawn_in(context, config.controls)
    if live is None or drawn:
        results = [_suggestions(resources, record, live, config.controls, t, drawn) for t in read]
        return {"results": results, "model_version": live or FIRST}
    results = _results(resources, record, live, config.controls, read, ahead)
    return {"results": results, "model_version": live}


def _suggestions(
    resources: Resources,
    record: ProjectRecord,
    live: str | None,
    controls: tuple[Control, ...],
    task: Task,
    drawn: dict[str, Places],
) -> dict[str, Any]:
    """What a smart tool gets; nothing where the image cannot be read."""
    model = resources.model(record, live) if live else None
    regions: list[dict[str, Any]] = []
    try:
        regions = suggest(model, controls, task, drawn, resources.pictures(record))
    except ImageError as error:
        log.warning("project %s: no suggestion for task %s: %s", record.id, task.id, error)
    score = max((region["score"] for region in regions), default=0.0)
    return {"result": regions, "score": score, "model_version": live or FIRST}


def _project(
    resources: Resources, request: dict[str, Any], tasks: list[Any]
) -> ProjectRecord | None:
    found = resources.projects.find(*project_of(request))
    if len(found) > 1:
        log.warning("several servers have project %s: connect them anew", found[0].number)
        return None
    return found[0] if found else None


def _config(resources: Resources, record: ProjectRecord) -> str:
    project = resources.connection(record).client.project(record.number)
    return str(project.get("label_config") or "")


def _results(
    resources: Resources,
    record: ProjectRecord,
    live: str,
    controls: tuple[Any, ...],
    tasks: list[Task],
    ahead: list[Task],
) -> list[dict[str, Any]]:
    setting = resources.versions(record).card(live).encoder.get("setting", "")
    model = resources.model(record, live)
    choices = [control for control in controls if control.kind == "choices"]
    embedded = NO_IMAGES
    if setting and choices:
        embedder = resources.embedder(record, resources.encoder(setting))
        embedded = embedder.embed(sources(tasks, choices), lambda done, of: None)
    pictures = resources.pictures(record)
    looked = look(model, controls, tasks, pictures, lambda done, of: None, ahead)
    failed = {**looked.failed, **embedded.failed}
    for reason, count in unreadable(tasks, controls, failed).items():
        log.warning("project %s: %s without prediction: %s", record.id, count, reason)
    beliefs = confidences(model, controls, tasks, embedded)
    unsure = task_uncertainty(controls, beliefs)
    for task, value in place_uncertainties(record.id, looked).items():
        unsure[task] = max(unsure.get(task, 0.0), value)
    score = {task.id: 1 - unsure[task.id] for task in tasks if task.id in unsure}
    made = predictions(model, controls, tasks, beliefs, score, embedded, looked)
    named = {control.name: control for control in controls}
    return [prediction_json(prediction, named, live) for prediction in made]
