"""Which apps on Modal were deployed from a home folder, and which secrets went along."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from backend.store.files import read_json, write_json

DEPLOYMENTS_FILENAME = "modal-deployed.json"


def read_deployments(home: Path) -> dict[str, list[str]]:
    """The apps by name, each with the names of its endpoint's secrets."""
    secrets_by_app: dict[str, list[str]] = read_json(home / DEPLOYMENTS_FILENAME) or {}
    return secrets_by_app


def record_deployment(home: Path, app: str, secrets: Iterable[str]) -> None:
    """An app was deployed from here.

    Args:
        home: the folder.
        app: its name.
        secrets: names of the endpoint's.
    """
    write_json(home / DEPLOYMENTS_FILENAME, {**read_deployments(home), app: sorted(secrets)})
