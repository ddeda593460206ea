"""Set the project's model version and task sampling, so that its queue follows the model."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backend.label_studio.client import UNCERTAINTY_SAMPLING
from backend.label_studio.label_results import IMPORTED_VERSION
from backend.label_studio.labeling_config import read_config
from backend.label_studio.project_details import ProjectDetails
from backend.loop.observe import ProjectFingerprint
from backend.records import SettingsReset
from backend.runtime.connection import Connection
from backend.store.queue_settings import (
    StoredQueueSettings,
    read_queue_settings,
    save_queue_settings,
)

log = logging.getLogger("prelabel")
RESET_SHOWN_FOR = timedelta(days=1)
"""How long the dashboard says that a person's choice was set back."""


def follow_version(
    connection: Connection,
    folder: Path,
    version: str,
    fingerprint: ProjectFingerprint,
    *,
    is_trained: bool,
    keeps_settings: bool,
) -> None:
    """Set the project's model version and uncertainty sampling, unless they are set already.

    Args:
        connection: connection to the project.
        folder: the project's folder.
        version: the live version.
        fingerprint: fingerprint of the project.
        is_trained: the version was trained on labels. Until then imported suggestions, if there are
            any, remain the pre-annotations.
        keeps_settings: the labeling config asks to set nothing.
    """
    stored = read_queue_settings(folder)
    if keeps_settings:
        if stored != StoredQueueSettings():
            save_queue_settings(folder, StoredQueueSettings())
        return
    client, number = connection.client, connection.project_number
    if not is_trained and client.prediction_counts(number).get(IMPORTED_VERSION):
        version = IMPORTED_VERSION
    reset = _find_reset(stored, fingerprint)
    if reset is not None:
        log.warning("project %s: %s", connection.record.id, reset.sentence)
        stored = replace(stored, reset=reset)
    if (fingerprint.model_version, fingerprint.sampling) != (version, UNCERTAINTY_SAMPLING):
        client.set_model_version(number, version)
    updated = replace(stored, model_version=version, sampling=UNCERTAINTY_SAMPLING)
    if reset is not None or updated != stored:
        save_queue_settings(folder, updated)


def recent_reset(folder: Path) -> SettingsReset | None:
    """Return what was set back in the last day; None if nothing was.

    Args:
        folder: the project's folder.
    """
    reset = read_queue_settings(folder).reset
    return reset if reset and reset.is_after(datetime.now(UTC) - RESET_SHOWN_FOR) else None


def kept_version(project: ProjectDetails) -> str:
    """Return the model version that a person chose to keep; empty if Prelabel chooses it.

    Its predictions must not be removed.
    """
    is_kept = read_config(project.get("label_config") or "").keeps_settings
    return (project.get("model_version") or "") if is_kept else ""


def _find_reset(
    stored: StoredQueueSettings, fingerprint: ProjectFingerprint
) -> SettingsReset | None:
    """Return what others changed since Prelabel set it; None if nothing was changed."""
    if not stored.sampling:  # Label Studio's defaults are nobody's choice
        return None
    sampling = "" if fingerprint.sampling == stored.sampling else fingerprint.sampling
    # Label Studio empties it when predictions are deleted; the other one is set by `import`
    is_own_version = fingerprint.model_version in ("", stored.model_version, IMPORTED_VERSION)
    version = "" if is_own_version else fingerprint.model_version
    if not sampling and not version:
        return None
    return SettingsReset(datetime.now(UTC).isoformat(), sampling, version)
