"""A live ``/predict``: exactly one result per task, whatever happens to its image."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from backend.domain import Task
from backend.label_studio.config import read_config
from backend.label_studio.protocol import project_of
from backend.label_studio.regions import prediction_json, read_task
from backend.loop.embedding import NO_IMAGES
from backend.loop.looking import look
from backend.loop.predicting import (
    confidences,
    place_uncertainties,
    predictions,
    sources,
    task_uncertainty,
    unreadable,
)
from backend.loop.resources import Resources
from backend.store.projects import ProjectRecord

log = logging.getLogger("prelabel")


def answer(resources: Resources, request: dict[str, Any]) -> dict[str, Any] | None:
    """The answer to a ``/predict`` request.

    Args:
        resources: of this process.
        request: Label Studio's body: ``tasks, project, label_config``.

    Returns:
        ``{"results": [one per task], "model_version"}``; None while the project has no version.
    """
    tasks = request.get("tasks") or []
    record = _project(resources, request, tasks)
    live = resources.versions(record).live() if record else None
    if record is None or live is None:
        return None
    config = read_config(str(request.get("label_config") or _config(resources, record)))
    read = [read_task(row, config.controls, {}, Counter()) for row in tasks]
    results = _results(resources, record, live, config.controls, read)
    return {"results": results, "model_version": live}


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
) -> list[dict[str, Any]]:
    setting = resources.versions(record).card(live).encoder.get("setting", "")
    model = resources.model(record, live)
    choices = [control for control in controls if control.kind == "choices"]
    embedded = NO_IMAGES
    if setting and choices:
        embedder = resources.embedder(record, resources.encoder(setting))
        embedded = embedder.embed(sources(tasks, choices), lambda done, of: None)
    pictures = resources.pictures(record)
    looked = look(model, controls, tasks, pictures, lambda done, of: None)
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
