"""The queue settings that Prelabel last set in a project, to notice when somebody changes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.json_records import JsonObject, json_field, unknown_keys
from backend.records import SettingsReset
from backend.store.record_files import read_cache, write_record

QUEUE_SETTINGS_FILE = "queue_settings.json"


@dataclass(frozen=True)
class StoredQueueSettings:
    """What Prelabel last set in Label Studio.

    Attributes:
        model_version: the project's model version; empty before the first time.
        sampling: the project's task sampling.
        reset: the last change by others that was set back; None if there was none.
    """

    model_version: str = ""
    sampling: str = ""
    reset: SettingsReset | None = json_field(None, optional=True)
    unknown: JsonObject = unknown_keys()


def read_queue_settings(folder: Path) -> StoredQueueSettings:
    """Return what Prelabel last set; empty before the first time, and after the file was damaged.

    Args:
        folder: the project's folder.
    """
    return read_cache(folder / QUEUE_SETTINGS_FILE, StoredQueueSettings, StoredQueueSettings())


def save_queue_settings(folder: Path, settings: StoredQueueSettings) -> None:
    """Save what Prelabel set.

    Raises:
        StoreError: it cannot be written.
    """
    write_record(folder / QUEUE_SETTINGS_FILE, settings)
