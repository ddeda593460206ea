"""What the containers must know and nobody else may."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

BACKEND_SECRET_NAMES = ("LABEL_STUDIO_API_KEY", "PRELABEL_USER", "PRELABEL_PASSWORD")


def backend_secrets(env: Mapping[str, str]) -> dict[str, str | None]:
    """The backend's: Label Studio's token, and who may call it."""
    return {name: env[name] for name in BACKEND_SECRET_NAMES if env.get(name)}


def endpoint_secrets(env: Mapping[str, str], alerts_file: Path) -> dict[str, str | None]:
    """The endpoint's: what signs its alerts.

    Args:
        env: of the machine that deploys; empty in a container, where nothing is to be read.
        alerts_file: the file of rules; checked elsewhere.
    """
    if not env or not alerts_file.is_file():
        return {}
    rows = tomllib.loads(alerts_file.read_text(encoding="utf-8")).get("alert", [])
    names = (str(row.get("secret_env", "")) for row in rows)
    return {name: env[name] for name in names if env.get(name)}
