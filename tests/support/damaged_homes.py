"""A home folder with every file that Prelabel writes, and ways to damage one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from backend.card_records import AutoAcceptSection
from backend.endpoint.alerts import Alert
from backend.inference.model import save_model
from backend.onboarding.backend_connection import PendingConnections
from backend.onboarding.folder_project import StartedFolder, StoredLabelChoice
from backend.records import ControlStatus, RoundOutcome, SettingsReset
from backend.runtime.connection import parse_created_at
from backend.store.acceptance import AcceptanceState, AcceptanceStore, AcceptedAnswer, Suspension
from backend.store.annotation_times import record_annotation_times
from backend.store.api_keys import ApiKeyStore
from backend.store.audit_predictions import (
    AuditAnswer,
    AuditPredictions,
    AuditRegion,
    save_audit_predictions,
)
from backend.store.captures import Capture, CaptureStore
from backend.store.confirmed_labels import ConfirmedLabels
from backend.store.drift_reference import save_reference
from backend.store.label_changes import LabelChange, LabelChanges
from backend.store.label_examples import LabelExample, LabelExamples, save_label_examples
from backend.store.label_tab import save_labeling_path
from backend.store.projects import ProjectStore, save_outcome
from backend.store.queue_front import (
    QueuedTask,
    QueueFront,
    StoredLabelError,
    StoredLabelErrors,
)
from backend.store.queue_settings import StoredQueueSettings, save_queue_settings
from backend.store.record_files import write_backed_up, write_record
from backend.store.usage import UsageCounters
from backend.store.versions import VersionStore
from backend.store.webhook_secret import load_webhook_secret
from backend.vision.encoders.embedding_cache import EmbeddingCache
from tests.support.dashboard_homes import make_card, make_jpeg
from tests.support.published_models import train_colour_model

SERVER = "http://127.0.0.1:9"
VERSIONS = ("v0-0123abcd", "v1-0123abcd", "v2-0123abcd")
LIVE = VERSIONS[-1]
STARTED_FILE = Path("starts", "0f.json")
AUDIT_LABELS_AFTER_SUSPENSION = 1000
Damage = Callable[[bytes], bytes | None]
"""Turns the content of a file into a damaged one; None removes the file."""


def make_complete_home(home: Path) -> str:
    """Write every file of a home with three versions, and return an API key."""
    projects = ProjectStore(home)
    projects.register(SERVER, 1, parse_created_at("2026-01-01T00:00:00Z"), token="t0ken")
    projects.set_title("1", "Greenhouse")
    folder = projects.folder("1")
    _write_versions(VersionStore(folder))
    _write_round_files(folder)
    captures = CaptureStore(folder)
    for number in range(2):
        capture = Capture(f"req-{number}", 1.79e9 + number, "random", LIVE, look="0f")
        captures.add(capture, make_jpeg(number))
    captures.record_import(capture, 44, has_annotation=False)
    _, key = ApiKeyStore(home).create("app", ("1",), quota=100)
    usage = UsageCounters(home / "usage.json")
    usage.increment("key 1", 3)
    usage.flush()
    load_webhook_secret(home)
    PendingConnections(home).add(SERVER, 2)
    choice = StoredLabelChoice("annotations", "coco")
    write_record(home / STARTED_FILE, StartedFolder("prelabel-0f", "/images", choice))
    write_record(home / "alerts" / "pending" / "msg_1.json", Alert("msg_1", "rule", {}, "2026"))
    cache_file = EmbeddingCache(home / "embeddings.sqlite")
    cache_file.put_vectors("builtin", ["a" * 64], np.ones((1, 4), np.float32))
    cache_file.close()
    return key


def _write_versions(versions: VersionStore) -> None:
    model, reference = _colour_model()
    answer = AuditAnswer(("dead",), ("healthy",), (AuditRegion("missed", "leaf", 0, 0, 1, 1),))

    def fill(folder: Path) -> None:
        save_model(model, folder)
        save_reference(reference, folder)
        save_audit_predictions(AuditPredictions({5: {"plant": answer}}), folder)

    for number, name in enumerate(VERSIONS):
        card = make_card(number, 20 + 40 * number, accepting=AutoAcceptSection(0.05, 0.8, "ok"))
        assert card.version == name
        versions.save(card, {"1": {"colour": ["red"]}}, fill)
        versions.promote(name, "the loop", "Not worse.")


def _write_round_files(folder: Path) -> None:
    front = QueueFront(folder)
    front.save_tasks([QueuedTask(40, "uncertain", 0.8), QueuedTask(41, "audit")])
    front.record_labeled([40])
    save_labeling_path(folder, "data?tab=12&labeling=1")
    reset = SettingsReset("2026-11-01T10:00:00+00:00", "Sequential sampling")
    save_queue_settings(folder, StoredQueueSettings(LIVE, "Uncertainty sampling", reset))
    front.save_thumbnail("40", make_jpeg(40))
    suspect = StoredLabelError(7, "healthy", "dead", 0.08, "wrong label", "plant")
    front.save_label_errors(StoredLabelErrors(LIVE, (suspect,)))
    ConfirmedLabels(folder).add(suspect)
    LabelChanges(folder).add(LabelChange(suspect, (3,)))
    example = LabelExample(5, ((0.1, 0.1, 0.2, 0.2),))
    save_label_examples(LabelExamples({"plant": {"dead": (example,)}}), folder)
    control = ControlStatus(name="plant", type="Choices", labels=("healthy", "dead"))
    save_outcome(folder, RoundOutcome(title="Greenhouse", tasks=60, labels=20, controls=(control,)))
    given = {5: AcceptedAnswer(LIVE, {"plant": ["dead"]}, to_people=True, era=0)}
    suspension = Suspension("2026-01-01", "Too many are wrong.", AUDIT_LABELS_AFTER_SUSPENSION)
    AcceptanceStore(folder).write(AcceptanceState(given, (suspension,)))
    write_backed_up(folder / "label_times.json", {"plant": {"dead": "2026-01-01T00:00:00+00:00"}})
    record_annotation_times(folder, {7: ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")})
    write_record(folder / "unsure.json", {"version": LIVE, "tasks": {"40": 0.5}, "sure": {}})


@cache
def _colour_model() -> Any:
    return train_colour_model()


def list_files(home: Path) -> list[str]:
    """Return the files that hold something, relative to the home folder."""
    files = (file for file in home.rglob("*") if file.is_file() and file.suffix != ".lock")
    return sorted(str(file.relative_to(home)) for file in files)


def add_unknown_field(content: bytes) -> bytes | None:
    """Add a field that a newer release may write; other files stay as they are."""
    try:
        value = json.loads(content)
    except ValueError:
        return content
    if isinstance(value, dict):
        value = {**value, "of_a_newer_release": {"a": [1]}} if "format" in value else value
    elif all(isinstance(row, dict) for row in value):
        value = [{**row, "of_a_newer_release": {"a": [1]}} for row in value]
    return json.dumps(value).encode()


def raise_format(content: bytes) -> bytes | None:
    """Raise the format number as a newer release does; other files stay as they are."""
    try:
        value = json.loads(content)
    except ValueError:
        return content
    is_record = isinstance(value, dict) and "format" in value
    return json.dumps({**value, "format": 99}).encode() if is_record else content


def flip_bytes(content: bytes) -> bytes:
    """Flip a bit of three bytes."""
    flipped = bytearray(content)
    for position in {len(content) // 5, len(content) // 2, 4 * len(content) // 5}:
        if content:
            flipped[position] ^= 4
    return bytes(flipped)


HARMLESS_DAMAGES: Mapping[str, Damage] = {
    "an unknown field": add_unknown_field,
    "a newer format": raise_format,
}
DAMAGES: Mapping[str, Damage] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "flipped": flip_bytes,
    "missing": lambda content: None,
    "null": lambda content: b"null",
    "a list": lambda content: b"[]",
    "another object": lambda content: b'{"other": 1}',
    **HARMLESS_DAMAGES,
}


def damage_file(file: Path, damage: Damage) -> None:
    """Damage a file."""
    content = damage(file.read_bytes())
    file.unlink()  # it may be linked to the template
    if content is not None:
        file.write_bytes(content)
