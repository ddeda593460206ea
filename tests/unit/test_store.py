"""What lasts: whole or not there."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import NotThere, StoreError
from backend.store import files
from backend.store.projects import Projects
from backend.store.secret import webhook_secret
from backend.store.versions import Card, Versions, identity_of

CARD = Card(
    version="v0-aaaaaaaa",
    identity="a" * 64,
    number=0,
    parent=None,
    created="2026-01-01T00:00:00+00:00",
    labels={"train": 1, "audit": 0},
    audit={"n": 0, "value": None, "low": 0.0, "high": 1.0, "metric": "accuracy"},
    controls={},
    encoder={"setting": "builtin", "id": "x", "name": "builtin"},
    seconds={"total": 1.0},
    seed=0,
)


def test_a_file_is_replaced_as_a_whole_and_tokens_are_private(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "f.json"
    files.write_json(file, {"a": "ä"})
    assert files.read_json(file) == {"a": "ä"}
    with pytest.raises(TypeError):
        files.write_json(file, {"a": object()})
    assert files.read_json(file) == {"a": "ä"}
    files.write_text(tmp_path / "token", "secret", private=True)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["f.json", "token"]


def test_a_damaged_file_is_one_sentence_and_a_missing_one_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"a": ')
    assert files.read_json(tmp_path / "none.json") is None
    with pytest.raises(StoreError, match=r"bad\.json is damaged"):
        files.read_json(tmp_path / "bad.json")


def test_a_full_disk_leaves_nothing_behind_and_is_named(tmp_path: Path) -> None:
    """/dev/full refuses every write with the system's own error."""

    def fill(folder: Path) -> None:
        (folder / "part").write_text("written")
        with Path("/dev/full").open("w") as full:
            full.write("no room")

    with pytest.raises(StoreError, match="is full: free some space"):
        files.write_folder(tmp_path / "versions" / "v1", fill)
    assert list((tmp_path / "versions").iterdir()) == []


def test_a_failed_save_keeps_the_live_version(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.save(CARD, {}, lambda folder: None)
    versions.promote(CARD.version, "the loop", "first")

    def fill(folder: Path) -> None:
        with Path("/dev/full").open("w") as full:
            full.write("no room")

    with pytest.raises(StoreError):
        versions.save(replace(CARD, version="v1-b", number=1), {}, fill)
    assert versions.live() == CARD.version
    assert versions.names() == [CARD.version]


def test_what_a_killed_process_left_half_made_is_swept(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.save(CARD, {"1": {"c": ["a"]}}, lambda folder: None)
    half = tmp_path / "versions" / ".making-v1-b-1234"
    half.mkdir()
    (half / "card.json").write_text("{}")
    assert versions.names() == [CARD.version]
    versions.sweep()
    assert not half.exists()
    assert versions.labels(CARD.version) == {"1": {"c": ["a"]}}


def test_promote_roll_back_and_their_record(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    assert versions.live() is None
    for number in range(3):
        name = f"v{number}-x"
        versions.save(replace(CARD, version=name, number=number), {}, lambda folder: None)
        versions.promote(name, "the loop", "trained")
    assert versions.before_live() == "v1-x"
    versions.promote("v1-x", "a person", "rolled back")
    assert versions.live() == "v1-x"
    assert versions.before_live() == "v0-x"
    assert versions.newest() is not None
    assert versions.next_name("c" * 64) == (3, "v3-cccccccc")
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"cut off by a cr')
    assert [event["version"] for event in versions.history()] == ["v0-x", "v1-x", "v2-x", "v1-x"]
    with pytest.raises(NotThere, match="v2-x, v1-x, v0-x"):
        versions.promote("v9", "a person", "")
    versions.promote("v0-x", "a person", "rolled back")
    with pytest.raises(StoreError, match="no older version"):
        versions.before_live()


def test_an_identity_depends_on_the_value_alone() -> None:
    assert identity_of({"a": 1, "b": [2]}) == identity_of(json.loads('{"b": [2], "a": 1}'))
    assert identity_of([1, 2]) != identity_of([2, 1])


def test_projects_with_one_number_on_two_servers_are_two(tmp_path: Path) -> None:
    projects = Projects(tmp_path)
    first = projects.register("http://one:8080", 3, 100, token="t1")
    second = projects.register("http://two:8080/ls", 3, 100, token="t2")
    later = projects.register("http://two:8080/ls", 3, 200)
    assert [first.id, second.id] == ["3", "3-two-8080-ls"]
    assert later.id == "3-two-8080-ls-200"
    assert projects.register("http://one:8080", 3, 100) == first
    assert projects.register("http://one:8080", 3, 0) == first
    assert [projects.token(p.id) for p in (first, second, later)] == ["t1", "t2", ""]
    assert {p.id for p in projects.find(3, 100)} == {first.id, second.id}
    assert len(Projects(tmp_path).all()) == 3


@pytest.mark.parametrize("id", ["", "..", "../3", ".hidden", "a/b", "9"])
def test_an_id_never_leads_out_of_the_home_folder(tmp_path: Path, id: str) -> None:
    with pytest.raises(NotThere):
        Projects(tmp_path).get(id)


def test_the_webhook_secret_is_made_once_and_private(tmp_path: Path) -> None:
    secret = webhook_secret(tmp_path)
    assert len(secret) >= 32
    assert webhook_secret(tmp_path) == secret
    assert stat.S_IMODE((tmp_path / "webhook_secret").stat().st_mode) == 0o600
