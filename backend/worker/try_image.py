"""Predict an image that a person tries on the dashboard, as the endpoint would."""

from __future__ import annotations

from backend.endpoint.functions import load_with_model
from backend.endpoint.problems import ProblemError
from backend.endpoint.rendering import invoke_locally
from backend.errors import UsageError
from backend.json_records import JsonObject
from backend.runtime.project_session import ProjectSession

NO_VERSION_MESSAGE = "The project has no version yet."


def predict_upload(session: ProjectSession, content: bytes) -> JsonObject:
    """Return the endpoint's response to an image, with the name of the live version.

    Raises:
        ImageError: the image cannot be read, or is too large.
        UsageError: the project has no version, or none of its controls has a model.
        PrelabelError: the version cannot be loaded.
    """
    version = session.loadable_version()
    if version is None:
        raise UsageError(NO_VERSION_MESSAGE)
    loaded = load_with_model(session.resources, session.record, version, session.model(version))
    try:
        answer = invoke_locally(loaded, content, session.settings.max_image_pixels)
    except ProblemError as problem:
        raise UsageError(problem.detail) from problem
    return {**answer.response, "version": version}
