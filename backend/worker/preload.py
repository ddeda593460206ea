"""Load what the first ``/predict`` request after a start needs."""

from __future__ import annotations

from contextlib import suppress

from backend.endpoint.functions import load_with_model, noise_image
from backend.errors import LabelStudioError
from backend.runtime.project_session import ProjectSession


def preload_live_version(session: ProjectSession) -> None:
    """Load the live version of a project, make two test predictions, and connect to Label Studio.

    Raises:
        PrelabelError: the version cannot be loaded.
    """
    version = session.loadable_version()
    if version is None:
        return
    loaded = load_with_model(session.resources, session.record, version, session.model(version))
    loaded.predict([noise_image()] * 2)  # several images run in parallel, as those of tasks do
    with suppress(LabelStudioError):  # the round reports it
        _ = session.images
