"""Process a ``/predict`` request: one result per task, even if an image is unreadable."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial

from backend.domain import Control, Task
from backend.errors import ConfigError, ImageError, StoreError, UsageError
from backend.inference.embed import EMPTY_EMBEDDINGS
from backend.inference.images import image_sources
from backend.inference.predict import count_unreadable, infer_tasks
from backend.inference.smart_tools import (
    Suggestions,
    drawn_by_control,
    repeat_drawn_regions,
    suggest,
)
from backend.label_studio import Json
from backend.label_studio.labeling_config import LabelingConfig, read_config
from backend.label_studio.ml_protocol import SUGGESTION_VERSION, parse_project
from backend.label_studio.task_results import format_prediction, parse_task
from backend.learning.audit import hash_rank
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord
from backend.store.record_files import log_once
from backend.store.smart_tool_answer import save_answer

log = logging.getLogger("prelabel")


def predict_tasks(resources: Resources, request: Json) -> Json | None:
    """Return the response to a ``/predict`` request.

    Args:
        resources: resources of this process.
        request: Label Studio's body with ``tasks``, ``project`` and ``label_config``. The server
            adds ``ahead``, the tasks of the next chunk, whose images are prefetched.

    Returns:
        ``{"results": [one per task], "model_version"}``; None while the project has no version.
    """
    tasks = request.get("tasks") or []
    record = _find_project(resources, request)
    if record is None:
        return None
    session = ProjectSession(resources, record)
    live_version = session.loadable_version()
    context = (request.get("params") or {}).get("context") or {}
    if live_version is None and not context.get("result"):
        return None
    config = _read_request_config(session, request)
    parsed_tasks, next_tasks = (
        [parse_task(row, config.controls, {}, Counter()) for row in rows]
        for rows in (tasks, request.get("ahead") or [])
    )
    if live_version is None or "result" in context:  # a smart tool was used
        results = [
            _suggest_regions(session, live_version, config.controls, t, context)
            for t in parsed_tasks
        ]
        return {"results": results, "model_version": live_version or SUGGESTION_VERSION}
    results = _predict(session, live_version, config.controls, parsed_tasks, next_tasks)
    return {"results": results, "model_version": live_version}


def _suggest_regions(
    session: ProjectSession,
    live_version: str | None,
    controls: tuple[Control, ...],
    task: Task,
    context: Json,
) -> Json:
    """Return the suggestions of a smart tool; only what was drawn if the image is unreadable."""
    model = session.model(live_version) if live_version else None
    try:
        drawn_regions = drawn_by_control(context, controls)
        suggestions = suggest(model, controls, task, drawn_regions, session.images)
    except ImageError as error:
        suggestions = Suggestions([], f"The image cannot be read: {error}.")
    if context.get("result"):  # it is empty after a drawn object was deleted
        if suggestions.empty_reason:
            message = "project %s: the smart tool suggested nothing for task %s. %s"
            log.info(message, session.id, task.id, suggestions.empty_reason)
        try:
            save_answer(session.folder, task.id, suggestions.empty_reason)
        except StoreError as error:  # the dashboard cannot explain it; the suggestions are fine
            log_once(f"project {session.id}: {error}")
    regions = suggestions.regions
    score = max((region["score"] for region in regions), default=0.0)
    return {
        "result": [*repeat_drawn_regions(context, controls), *regions],
        "score": score,
        "model_version": live_version or SUGGESTION_VERSION,
    }


def _find_project(resources: Resources, request: Json) -> ProjectRecord | None:
    records = resources.projects.find_by_number(*parse_project(request))
    if len(records) > 1:
        log.warning(
            "several Label Studio servers have a project %s: connect each of them again",
            records[0].number,
        )
        return None
    return records[0] if records else None


def _read_request_config(session: ProjectSession, request: Json) -> LabelingConfig:
    """Return the labeling config of a request; without one, that of the project.

    Raises:
        UsageError: the request's one is invalid.
        ConfigError: the project's one is invalid.
    """
    if not request.get("label_config"):
        project = session.connection.client.get_project(session.number)
        return read_config(str(project.get("label_config") or ""))
    try:
        return read_config(str(request["label_config"]))
    except ConfigError as error:
        raise UsageError(f"/predict cannot be read: {error}") from error


def _predict(
    session: ProjectSession,
    live_version: str,
    controls: tuple[Control, ...],
    tasks: list[Task],
    next_tasks: list[Task],
) -> list[Json]:
    encoder_setting = session.versions.card(live_version).encoder.setting
    model = session.model(live_version)
    choices = [control for control in controls if control.is_choices]
    embeddings = EMPTY_EMBEDDINGS
    if encoder_setting and choices:
        embedder = session.embedder(session.resources.encoder(encoder_setting))
        embeddings = embedder.embed(image_sources(tasks, choices), lambda done, total: None)
    inference = infer_tasks(
        model, controls, tasks, embeddings, session.images, next_tasks=next_tasks
    )
    errors = {**inference.errors, **embeddings.errors}
    for reason, count in count_unreadable(tasks, controls, errors).items():
        log.warning("project %s: %s without prediction: %s", session.id, count, reason)
    uncertainties = inference.uncertainties(partial(hash_rank, session.id))
    scores = {task: 1 - value for task, value in uncertainties.items()}
    controls_by_name = {control.name: control for control in controls}
    return [
        format_prediction(prediction, controls_by_name, live_version)
        for prediction in inference.predictions(tasks, scores)
    ]
