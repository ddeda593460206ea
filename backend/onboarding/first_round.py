"""The backend's first look at a new project: its progress, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from backend.learning.first_labels import describe_first_labels
from backend.onboarding.backend_connection import address_with_auth, is_own_backend
from backend.settings import Settings
from backend.store.servers import is_same_server

STATE_POLL_SECONDS = 0.5
FIRST_ROUND_TIMEOUT_SECONDS = 900.0
"""That the first look is waited for."""
STATE_DESCRIPTIONS = {
    "idle": "waits for its first look",
    "observing": "looks at the labels",
    "training": "looks at the images",
    "evaluating": "looks at what it can tell already",
    "pushing": "writes into Label Studio",
}
"""What the states of a round mean before anything is labeled."""
BackendState = dict[str, Any]
StateCallback = Callable[[BackendState], None]


def wait_for_first_round(
    settings: Settings,
    backend: str,
    number: int,
    on_state: StateCallback,
    timeout_seconds: float = FIRST_ROUND_TIMEOUT_SECONDS,
) -> BackendState | None:
    """Wait until the backend has looked at a project.

    Args:
        settings: tell whether auth is on.
        backend: its address.
        number: the project's in Label Studio.
        on_state: told what the round does now, often.
        timeout_seconds: how long at most.

    Returns:
        the project as the backend shows it, also where the look failed; None where it takes longer.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        state = _fetch_project(settings, backend, number)
        round_state = state.get("round") or {}
        if state.get("version") and round_state.get("state") == "idle":
            return state
        if round_state.get("error"):
            return state
        on_state(round_state)
        time.sleep(STATE_POLL_SECONDS)
    return None


def format_progress(round_state: BackendState) -> str:
    """What a round does, in a line.

    Example:
        >>> format_progress({"state": "training", "progress": 0.25}), format_progress({})
        ('The backend looks at the images … 25%', 'The backend waits for its first look …')
    """
    state, progress = str(round_state.get("state", "idle")), float(round_state.get("progress") or 0)
    message = f"The backend {STATE_DESCRIPTIONS.get(state, state)} …"
    return f"{message} {progress:.0%}" if progress else message


def has_preannotations(state: BackendState) -> bool:
    """Whether there are pre-annotations before anybody labeled anything."""
    return any(control["kind"] != "none yet" for control in state["controls"])


def describe_first_round(state: BackendState, settings: Settings) -> list[str]:
    """What came of it, for people.

    Args:
        state: of :func:`wait_for_first_round`.
        settings: tell when it learns.
    """
    error = (state.get("round") or {}).get("error")
    if error:
        return [f"The first look failed, and is tried again: {error}"]
    if has_preannotations(state):
        return [f"All {state['tasks']} images are looked at and pre-annotated."]
    control_types = [control["type"] for control in state["controls"]]
    pause_text = f"a pause of {settings.quiet_seconds:.0f} seconds"
    advice = [control["advice"] for control in state["controls"] if control.get("advice")]
    return [
        f"All {state['tasks']} images are looked at. Nothing is known yet of what your labels "
        f"mean. {describe_first_labels(control_types, settings.retrain_after, pause_text)} Then every image is "
        "pre-annotated.",
        *advice[:1],
    ]


def fetch_states(settings: Settings, backend: str) -> list[BackendState]:
    """The projects as the backend shows them; none where no backend of this home answers."""
    return _fetch_projects(settings, backend) if is_own_backend(settings, backend) else []


def _fetch_project(settings: Settings, backend: str, number: int) -> BackendState:
    """The project as the backend shows it; of several with this number the one of our server."""
    matches = [row for row in _fetch_projects(settings, backend) if row["number"] == number]
    server_urls = (settings.label_studio_url, settings.label_studio_host)
    own_matches = [
        row
        for row in matches
        if any(is_same_server(row["server"], server) for server in server_urls)
    ]
    return [*matches, *own_matches][-1] if matches else {}


def _fetch_projects(settings: Settings, backend: str) -> list[BackendState]:
    import httpx

    url, auth = address_with_auth(settings, backend)
    try:
        rows = httpx.get(f"{url}/api/projects", auth=auth, timeout=10, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return []
    return rows if isinstance(rows, list) else []
