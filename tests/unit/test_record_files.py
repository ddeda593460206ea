"""Files are migrated, keep what they hold of newer releases, and are restored or set aside."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backend.card_records import AutoAcceptSection
from backend.errors import DamagedFileError, StoreError
from backend.json_records import JsonObject, json_field, unknown_keys, value_from_json
from backend.store import files, record_files
from backend.store.acceptance import AcceptanceState, AcceptanceStore, Suspension
from backend.store.api_keys import ApiKeyStore
from backend.store.captures import Capture, CaptureStore
from backend.store.projects import ProjectStore
from backend.store.record_files import (
    backup_path,
    read_backed_up,
    read_cache,
    read_record,
    write_backed_up,
    write_record,
)
from backend.store.webhook_secret import load_webhook_secret


@dataclass(frozen=True)
class Part:
    size: float
    unknown: JsonObject = unknown_keys()


@dataclass(frozen=True)
class Sample:
    name: str
    count: int = 0
    parts: tuple[Part, ...] = ()
    limits: dict[int, str] = field(default_factory=dict)
    strict: bool = json_field(False, required=True)
    unknown: JsonObject = unknown_keys()


SAMPLE = Sample("a", 3, (Part(1.5),), {7: "x"}, strict=True)


@pytest.fixture(autouse=True)
def _fresh_log() -> None:
    record_files._logged_messages.clear()


# -- types ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "value", "problem"),
    [
        (Sample, [], "it is a list, not an object"),
        (Sample, {"strict": True}, "name is missing"),
        (Sample, {"name": "a"}, "strict is missing"),
        (Sample, {"name": 3, "strict": True}, "name is a number, not a text"),
        (Sample, {"name": "a", "strict": 1}, "strict is a number, not a boolean"),
        (Sample, {"name": "a", "strict": True, "count": True}, "count is a boolean, not a number"),
        (Sample, {"name": "a", "strict": True, "count": 1.5}, "count is not a whole number"),
        (Sample, {"name": "a", "strict": True, "parts": "ab"}, "parts is a text, not a list"),
        (Sample, {"name": "a", "strict": True, "parts": [{"size": None}]},
         "parts.0.size is null, not a number"),
        (Sample, {"name": "a", "strict": True, "limits": {"x": "y"}}, "limits.x is not a number"),
        (Sample, {"name": "\ud800", "strict": True}, "name is not valid Unicode"),
        (float, float("nan"), "it is not a finite number"),
        (float, 10**400, "it is not a finite number"),
        (dict[str, list[int]], {"a": [1, "b"]}, "a.1 is a text, not a number"),
        (int | str, None, "it is null, not a text"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_with_its_path(
    hint: Any, value: Any, problem: str
) -> None:
    with pytest.raises(TypeError) as caught:
        value_from_json(hint, value)
    assert str(caught.value) == problem


def test_whole_numbers_and_floats_are_exchangeable() -> None:
    assert value_from_json(float, 3) == 3
    assert type(value_from_json(int, 3.0)) is int
    assert value_from_json(dict[str, Any], {"a": [None]}) == {"a": [None]}


# -- formats --------------------------------------------------------------------------------


def test_a_rewritten_file_keeps_the_fields_of_a_newer_release(tmp_path: Path) -> None:
    file = tmp_path / "sample.json"
    write_record(file, SAMPLE)
    newer = {**json.loads(file.read_text()), "format": 7, "colour": {"a": 1}}
    newer["parts"][0]["weight"] = 2
    file.write_text(json.dumps(newer))
    read = read_record(file, Sample)
    assert read == SAMPLE
    assert read is not None
    write_record(file, replace(read, name="b"))
    assert json.loads(file.read_text()) == {**newer, "name": "b"}


def test_an_unreadable_file_of_a_newer_release_asks_for_an_update(tmp_path: Path) -> None:
    file = tmp_path / "sample.json"
    file.write_text('{"format": 2, "title": "a"}')
    with pytest.raises(StoreError, match=r"newer Prelabel \(format 2\) .*: update Prelabel\."):
        read_record(file, Sample)


def test_older_formats_are_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(row: JsonObject) -> JsonObject:
        return {**row, "name": row["title"]}

    def add_strictness(row: JsonObject) -> JsonObject:
        return {**row, "strict": True}

    monkeypatch.setattr(record_files, "MIGRATIONS", {"Sample": (rename, add_strictness)})
    file = tmp_path / "sample.json"
    for row in ({"title": "a"}, {"format": 1, "title": "a"}, {"format": 2, "name": "a"}):
        file.write_text(json.dumps(row))
        read = read_record(file, Sample)
        assert read is not None
        assert (read.name, read.strict) == ("a", True)
    write_record(file, read)
    assert json.loads(file.read_text())["format"] == 3
    for number in (0, -1, True, "1", None):
        file.write_text(json.dumps({"format": number, "name": "a", "strict": True}))
        with pytest.raises(DamagedFileError, match="format is"):
            read_record(file, Sample)


def test_records_of_a_newer_release_survive_changes_by_their_stores(tmp_path: Path) -> None:
    projects = ProjectStore(tmp_path)
    projects.register("http://one", 3, 100)
    folder = projects.folder("3")
    keys, captures, accepted = ApiKeyStore(tmp_path), CaptureStore(folder), AcceptanceStore(folder)
    key, _ = keys.create("app")
    captures.add(Capture("c", 1.0, "random", "v0"), b"image")
    accepted.write(AcceptanceState(suspensions=(Suspension("2026", "Wrong.", 9),)))
    changed: dict[Path, Callable[[], object]] = {
        folder / "project.json": lambda: projects.set_title("3", "new"),
        tmp_path / "keys.json": lambda: keys.revoke(key.id),
        folder / "captures" / "c.json": lambda: captures.update(
            replace(next(captures.all()), superseded=True)
        ),
        folder / "acceptance.json": lambda: accepted.write(replace(accepted.read(), since=4)),
    }
    for file, change in changed.items():
        value = json.loads(file.read_text())
        (value[0] if isinstance(value, list) else value)["colour"] = "red"
        file.write_text(json.dumps(value))
        change()
        text = file.read_text()
        assert '"colour": "red"' in text, file
        assert text != json.dumps(value)


# -- damaged files --------------------------------------------------------------------------


def test_a_damaged_cache_is_logged_once_set_aside_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "sample.json"
    default = Sample("default", strict=True)
    assert read_cache(file, Sample, default) is default, "there is none yet"
    for content in ("{", "[]", "null"):
        file.write_text(content)
        assert read_cache(file, Sample, default) is default
        assert not file.exists()
        assert (tmp_path / "sample.json.damaged").read_text() == content, "the latest one"
        assert read_cache(file, Sample, default) is default
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    write_record(file, SAMPLE)
    assert read_cache(file, Sample, default) == SAMPLE


def test_the_second_copy_replaces_a_damaged_or_lost_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "sample.json"
    assert read_backed_up(file, Sample) is None
    write_backed_up(file, SAMPLE, private=True)
    assert stat.S_IMODE(backup_path(file).stat().st_mode) == 0o600
    file.write_text("{")
    assert read_backed_up(file, Sample) == SAMPLE
    assert "second copy is used: sample.json.backup" in caplog.text
    write_backed_up(file, replace(SAMPLE, count=4))
    assert (tmp_path / "sample.json.damaged").read_text() == "{"
    backup_path(file).write_text("{")
    assert read_backed_up(file, Sample) == replace(SAMPLE, count=4)
    file.unlink()
    with pytest.raises(DamagedFileError, match="is damaged"):
        read_backed_up(file, Sample)


def test_a_write_that_fails_leaves_a_readable_copy(tmp_path: Path) -> None:
    file = tmp_path / "sample.json"
    write_backed_up(file, SAMPLE)
    with pytest.raises(TypeError):
        write_backed_up(file, replace(SAMPLE, limits={1: object()}))  # type: ignore[dict-item]
    assert read_backed_up(file, Sample) == SAMPLE


def test_damaged_keys_never_open_the_endpoint(tmp_path: Path) -> None:
    keys = ApiKeyStore(tmp_path)
    key, text = keys.create("app", ("1",))
    keys.revoke(key.id)
    file = tmp_path / "keys.json"
    rows = json.loads(file.read_text())
    for lost in ("revoked", "functions", "quota", "rate"):
        file.write_text(json.dumps([{k: v for k, v in rows[0].items() if k != lost}]))
        assert ApiKeyStore(tmp_path).authenticate(text) is None, "the copy knows that it is revoked"
    for content in (b"", b"[]", b"null", b"{}", b"\xff"):
        for copy in (file, backup_path(file)):
            copy.write_bytes(content)
        for is_missing in (False, True):
            if is_missing:
                file.unlink()
            with pytest.raises(StoreError, match="requests are refused until it is restored"):
                ApiKeyStore(tmp_path).all()


def test_auto_accept_stays_suspended_while_its_file_is_damaged(tmp_path: Path) -> None:
    section = AutoAcceptSection(0.05, 0.8, "It holds.", audit=100)
    accepted = AcceptanceStore(tmp_path)
    assert not accepted.read().is_suspended(section)
    accepted.write(AcceptanceState(suspensions=(Suspension("2026", "Wrong.", 150),)))
    file = tmp_path / "acceptance.json"
    for content in ("{", "null", '{"given": {}}', '{"other": 1}'):
        file.write_text(content)
        assert accepted.read().min_audit_labels == 150
    for copy in (file, backup_path(file)):
        copy.write_text("{}")
    state = accepted.read()
    assert state.is_suspended(section)
    status = state.describe(section)
    assert status is not None
    assert "suspended until it is restored" in status.reason
    assert file.read_text() == "{}", "it stays until a person decides"


def test_a_damaged_webhook_secret_is_restored_or_made_again(tmp_path: Path) -> None:
    secret = load_webhook_secret(tmp_path)
    for content in (b"", b"\xff\xfe", secret[:9].encode()):
        (tmp_path / "webhook_secret").write_bytes(content)
        assert load_webhook_secret(tmp_path) == secret
    for copy in (tmp_path / "webhook_secret", tmp_path / "webhook_secret.backup"):
        copy.write_bytes(b"")
    renewed = load_webhook_secret(tmp_path)
    assert len(renewed) == len(secret)
    assert renewed != secret
    assert load_webhook_secret(tmp_path) == renewed


# -- temporary files ------------------------------------------------------------------------


def test_old_temporary_files_are_removed_and_recent_ones_kept(tmp_path: Path) -> None:
    folder = tmp_path / "projects" / "1"
    old = [
        folder / ".queue.json.0a1b2c3d",
        tmp_path / ".keys.json.01234567",
        folder / ".making-v1-x-00ff00ff",
        tmp_path / ".0a1b2c3d-fastest.json",
        tmp_path / ".probe-0a1b2c3d",
    ]
    kept = [
        folder / ".queue.json.ffffffff", folder / "queue.json", folder / ".hidden.json",
        folder / ".making-v2-x-00ff00ff", folder / ".queue.json.0a1b2c3", tmp_path / "a.0a1b2c3d",
    ]  # fmt: skip
    for path in (*old, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        if ".making" in path.name:
            path.mkdir()
            (path / "weights").write_text("x")
        else:
            path.write_text("x")
    hours_ago = time.time() - 2 * 3600
    for path in (*old, old[2] / "weights", *kept[1:4], kept[4], kept[5]):
        os.utime(path, (hours_ago, hours_ago))  # of the last folder a file is recent
    assert files.sweep_temporary_files(tmp_path) == len(old)
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in kept)
    assert files.sweep_temporary_files(tmp_path / "away") == 0


def test_a_write_is_not_disturbed_by_a_sweep(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "part").write_text("x")
        assert files.sweep_temporary_files(tmp_path) == 0

    files.write_folder(tmp_path / "v1", fill)
    assert (tmp_path / "v1" / "part").exists()
