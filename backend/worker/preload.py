"""Load what the first ``/predict`` request after a start needs."""

from __future__ import annotations

from backend.endpoint.functions import load_with_model, noise_image
from backend.runtime.project_session import ProjectSession


def preload_live_version(session: ProjectSession) -> None:
    """Load the live version of a project and make two test predictions.

    Label Studio is not called: requests would wait for one that does not answer.

    Raises:
        PrelabelError: the version cannot be loaded.
    """
    version = session.loadable_version()
    if version is None:
        return
    loaded = load_with_model(session.resources, session.record, version, session.model(version))
    loaded.predict([noise_image()] * 2)  # several images run in parallel, as those of tasks do
