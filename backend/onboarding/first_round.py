"""The backend's first look at a new project: its progress, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from backend.learning.first_labels import first_labels
from backend.onboarding.backend_connection import address, ours
from backend.settings import Settings
from backend.store.servers import same_server

POLL = 0.5
SECONDS = 900.0
"""That the first look is waited for."""
DOING = {
    "idle": "waits for its first look",
    "observing": "looks at the labels",
    "training": "looks at the images",
    "evaluating": "looks at what it can tell already",
    "pushing": "writes into Label Studio",
}
"""What the states of a round mean before anything is labeled."""
State = dict[str, Any]
Show = Callable[[State], None]


def first_look(
    settings: Settings, backend: str, number: int, show: Show, seconds: float = SECONDS
) -> State | None:
    """Wait until the backend has looked at a project.

    Args:
        settings: tell whether auth is on.
        backend: its address.
        number: the project's in Label Studio.
        show: told what the round does now, often.
        seconds: how long at most.

    Returns:
        the project as the backend shows it, also where the look failed; None where it takes longer.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = _ask(settings, backend, number)
        now = state.get("round") or {}
        if state.get("version") and now.get("state") == "idle":
            return state
        if now.get("error"):
            return state
        show(now)
        time.sleep(POLL)
    return None


def doing(now: State) -> str:
    """What a round does, in a line.

    Example:
        >>> doing({"state": "training", "progress": 0.25}), doing({})
        ('The backend looks at the images … 25%', 'The backend waits for its first look …')
    """
    state, progress = str(now.get("state", "idle")), float(now.get("progress") or 0)
    told = f"The backend {DOING.get(state, state)} …"
    return f"{told} {progress:.0%}" if progress else told


def known_before(state: State) -> bool:
    """Whether there are pre-annotations before anybody labeled anything."""
    return any(control["kind"] != "none yet" for control in state["controls"])


def outcome(state: State, settings: Settings) -> list[str]:
    """What came of it, for people.

    Args:
        state: of :func:`first_look`.
        settings: tell when it learns.
    """
    failed = (state.get("round") or {}).get("error")
    if failed:
        return [f"The first look failed, and is tried again: {failed}"]
    if known_before(state):
        return [f"All {state['tasks']} images are looked at and pre-annotated."]
    types = [control["type"] for control in state["controls"]]
    pause = f"a pause of {settings.quiet_seconds:.0f} seconds"
    advice = [control["advice"] for control in state["controls"] if control.get("advice")]
    return [
        f"All {state['tasks']} images are looked at. Nothing is known yet of what your labels "
        f"mean. {first_labels(types, settings.retrain_after, pause)} Then every image is "
        "pre-annotated.",
        *advice[:1],
    ]


def states(settings: Settings, backend: str) -> list[State]:
    """The projects as the backend shows them; none where no backend of this home answers."""
    return _rows(settings, backend) if ours(settings, backend) else []


def _ask(settings: Settings, backend: str, number: int) -> State:
    """The project as the backend shows it; of several with this number the one of our server."""
    found = [row for row in _rows(settings, backend) if row["number"] == number]
    names = (settings.label_studio_url, settings.label_studio_host)
    here = [row for row in found if any(same_server(row["server"], one) for one in names)]
    return [*found, *here][-1] if found else {}


def _rows(settings: Settings, backend: str) -> list[State]:
    import httpx

    url, auth = address(settings, backend)
    try:
        rows = httpx.get(f"{url}/api/projects", auth=auth, timeout=10, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return []
    return rows if isinstance(rows, list) else []
