"""The port of the backend that the connected projects call."""

from __future__ import annotations

from backend.onboarding.backend_connection import PendingConnections
from backend.settings import Settings
from backend.store.served_address import read_called_port

DEFAULT_PORT = 9090
"""Port of `prelabel serve` if no project is connected at another one."""


def registered_port(settings: Settings) -> int:
    """Return the port that projects call, or will call once the backend runs."""
    pending_port = PendingConnections(settings.home).port(settings.label_studio_url)
    return pending_port or read_called_port(settings.home) or DEFAULT_PORT


def default_backend_url(settings: Settings) -> str:
    """Return the address of the backend on this machine that projects call."""
    return f"http://127.0.0.1:{registered_port(settings)}"
