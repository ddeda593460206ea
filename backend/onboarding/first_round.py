"""Wait for the backend's first round on a new project, and describe its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypedDict

from backend.card_records import NO_MODEL_KIND
from backend.estimate import MIN_FIGURE_IMAGES
from backend.learning.audit import labels_until
from backend.learning.first_labels import describe_first_labels, describe_submitting
from backend.onboarding.backend_connection import address_with_auth, is_own_backend
from backend.settings import Settings
from backend.store.servers import is_same_server

STATE_POLL_SECONDS = 0.5
NEXT_STEPS = (
    "Next, add images to the project, check labels with `prelabel label-errors`, or use the model "
    "in applications with `prelabel endpoint`."
)
"""What to do when every image is labeled."""
FIRST_ROUND_TIMEOUT_SECONDS = 900.0
STATE_DESCRIPTIONS = {
    "idle": "is waiting for the first round",
    "observing": "is reading the labels",
    "training": "is embedding the images",
    "evaluating": "is evaluating its predictions",
    "pushing": "is writing predictions to Label Studio",
}
"""What a round does in each state before anything is labeled."""


class RoundStateJson(TypedDict, total=False):
    """The state of a round in the response of ``/api/projects``."""

    state: str
    progress: float
    detail: str
    error: str


class FirstRoundControl(TypedDict):
    """A control in the response of ``/api/projects``."""

    kind: str
    type: str
    advice: str


class BackendProject(TypedDict, total=False):
    """A project in the response of ``/api/projects``, with the fields that are read here."""

    id: int | str
    number: int
    server: str
    version: str | None
    tasks: int
    labels: int
    round: RoundStateJson
    controls: Sequence[FirstRoundControl]


def wait_for_first_round(
    settings: Settings,
    backend: str,
    number: int,
    on_state: Callable[[RoundStateJson], None],
    timeout_seconds: float = FIRST_ROUND_TIMEOUT_SECONDS,
) -> BackendProject | None:
    """Wait until the backend has finished a round on a project.

    Args:
        settings: settings of this process, which the backend shares.
        backend: address of the backend.
        number: project number in Label Studio.
        on_state: called with the state of the round at each poll.
        timeout_seconds: maximum time to wait.

    Returns:
        the project after the round, even if it failed; None after the timeout.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        project = _fetch_project(settings, backend, number)
        progress = project.get("round") or {}
        if project.get("version") and progress.get("state") == "idle":
            return project
        if progress.get("error"):
            return project
        on_state(progress)
        time.sleep(STATE_POLL_SECONDS)
    return None


FIRST_FIGURE_TEXT = (
    "The dashboard shows the first accuracy after about {labels} labels: it is measured on one "
    "image in ten, which is never used for training."
)


def format_progress(progress: RoundStateJson) -> str:
    """Describe the state of a round in one line.

    Example:
        >>> format_progress({"state": "training", "progress": 0.25})
        'The backend is embedding the images … 25%'
    """
    state, fraction = progress.get("state", "idle"), progress.get("progress") or 0.0
    message = f"The backend {STATE_DESCRIPTIONS.get(state, state)} …"
    return f"{message} {fraction:.0%}" if fraction else message


def has_preannotations(project: BackendProject) -> bool:
    """Return whether the project has pre-annotations before anything is labeled."""
    return any(control["kind"] != NO_MODEL_KIND for control in project["controls"])


def describe_first_round(project: BackendProject, settings: Settings) -> list[str]:
    """Return lines for the user about the result of the first round.

    Args:
        project: project returned by :func:`wait_for_first_round`.
        settings: settings of the backend, which decide when it trains.
    """
    from backend.vision.detection.yoloe import PROMPTS_HINT

    error = (project.get("round") or {}).get("error")
    if error:
        return [f"The first round failed and will be retried: {error}"]
    types = [control["type"] for control in project["controls"]]
    open_count = project["tasks"] - project.get("labels", 0)
    if project["tasks"] and open_count <= 0:
        return [f"All {project['tasks']} images are labeled. {NEXT_STEPS}"]
    if has_preannotations(project) and project.get("labels"):
        count = f"{open_count} image{' is' if open_count == 1 else 's are'}"
        return [f"The other {count} pre-annotated.", describe_submitting(types)]
    if has_preannotations(project):
        return [f"All {project['tasks']} images are pre-annotated.", describe_submitting(types)]
    first_labels = describe_first_labels(
        types,
        settings.retrain_after,
        f"a pause of {settings.quiet_seconds:.0f} seconds",
    )
    advice = [str(control.get("advice") or "") for control in project["controls"]]
    hint = f"{PROMPTS_HINT} `prelabel status {project.get('id')}` shows how to get it."
    return [
        f"All {project['tasks']} images are embedded. The model cannot predict your labels yet. "
        f"{first_labels} Then every image is pre-annotated.",
        describe_submitting(types),
        FIRST_FIGURE_TEXT.format(labels=labels_until(MIN_FIGURE_IMAGES)),
        *([hint] if any(PROMPTS_HINT in text for text in advice) else []),
    ]


def fetch_states(settings: Settings, backend: str) -> list[BackendProject]:
    """Return the projects that the backend of this home folder reports; [] if it is not running."""
    return _fetch_projects(settings, backend) if is_own_backend(settings, backend) else []


def _fetch_project(settings: Settings, backend: str, number: int) -> BackendProject:
    """Return the project with a number, preferably of the configured Label Studio."""
    matches = [row for row in _fetch_projects(settings, backend) if row["number"] == number]
    server_urls = (settings.label_studio_url, settings.label_studio_host)
    own_matches = [
        row for row in matches if any(is_same_server(row["server"], url) for url in server_urls)
    ]
    return [*matches, *own_matches][-1] if matches else {}


def _fetch_projects(settings: Settings, backend: str) -> list[BackendProject]:
    import httpx

    url, auth = address_with_auth(settings, backend)
    try:
        rows = httpx.get(f"{url}/api/projects", auth=auth, timeout=10, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return []
    return rows if isinstance(rows, list) else []
