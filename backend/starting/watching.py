"""The backend's first look at a new project: its progress, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from backend.settings import Settings
from backend.starting.connecting import address

POLL = 0.5
SECONDS = 900.0
"""That the first look is waited for."""
LEARNS_FROM = 4
"""Labels that a first model makes use of."""
State = dict[str, Any]
Show = Callable[[str], None]


def first_look(
    settings: Settings, backend: str, number: int, show: Show, seconds: float = SECONDS
) -> State | None:
    """Wait until the backend has looked at a project.

    Args:
        settings: tell whether auth is on.
        backend: its address.
        number: the project's in Label Studio.
        show: told what it does now, often.
        seconds: how long at most.

    Returns:
        the project as the backend shows it; None where it takes longer or failed.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = _ask(settings, backend, number)
        doing = state.get("round") or {}
        if doing.get("error"):
            show(f"The first look failed: {doing['error']}")
            return None
        if state.get("version") and doing.get("state") == "idle":
            return state
        show(f"{doing.get('state', 'waiting')} {doing.get('progress', 0):.0%}")
        time.sleep(POLL)
    return None


def known_before(state: State) -> bool:
    """Whether there are pre-annotations before anybody labeled anything."""
    return any(control["kind"] != "none yet" for control in state["controls"])


def outcome(state: State, quiet: float) -> list[str]:
    """What came of it, for people.

    Args:
        state: of :func:`first_look`.
        quiet: seconds without a label that start a round.
    """
    if known_before(state):
        return [f"All {state['tasks']} images are looked at and pre-annotated."]
    advice = [control["advice"] for control in state["controls"] if control.get("advice")]
    return [
        f"All {state['tasks']} images are looked at. Nothing is known yet of what your labels "
        f"mean: label {LEARNS_FROM} images or more, of different kinds, and wait {quiet:.0f} "
        "seconds (or press Start Training); then every image is pre-annotated.",
        *advice[:1],
    ]


def _ask(settings: Settings, backend: str, number: int) -> State:
    import httpx

    url, auth = address(settings, backend)
    try:
        rows = httpx.get(f"{url}/api/projects", auth=auth, timeout=10, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return {}
    found: list[State] = [row for row in rows if row["number"] == number]
    return found[-1] if found else {}
