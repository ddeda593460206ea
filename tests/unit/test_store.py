"""Files, versions, projects and requests in the home folder."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from backend.card_records import ModelSource, Promotion, SplitSizes
from backend.errors import NotFoundError, StoreError
from backend.estimate import IntervalEstimate
from backend.store import files, wake
from backend.store.image_copies import ImageCopies
from backend.store.projects import ProjectStore
from backend.store.queue_front import QueuedTask, QueueFront
from backend.store.versions import VersionCard, VersionStore, content_hash
from backend.store.webhook_secret import load_webhook_secret

CARD = VersionCard(
    version="v0-aaaaaaaa",
    identity="a" * 64,
    number=0,
    parent=None,
    created="2026-01-01T00:00:00+00:00",
    labels=SplitSizes(1, 0),
    audit=IntervalEstimate(),
    controls={},
    encoder=ModelSource("builtin", "x", "builtin"),
    seconds={"total": 1.0},
    seed=0,
)


def test_files_are_replaced_atomically_and_tokens_are_private(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "f.json"
    files.write_json(file, {"a": "ä"})
    assert files.read_json(file) == {"a": "ä"}
    with pytest.raises(TypeError):
        files.write_json(file, {"a": object()})
    assert files.read_json(file) == {"a": "ä"}
    files.write_text(tmp_path / "token", "secret", private=True)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["f.json", "token"]


def test_a_damaged_file_raises_an_error_and_a_missing_one_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"a": ')
    assert files.read_json(tmp_path / "none.json") is None
    with pytest.raises(StoreError, match=r"bad\.json is damaged"):
        files.read_json(tmp_path / "bad.json")


def test_a_full_disk_leaves_no_partial_folder(tmp_path: Path) -> None:
    """Every write to /dev/full fails with ENOSPC."""

    def fill(folder: Path) -> None:
        (folder / "part").write_text("written")
        with Path("/dev/full").open("w") as full:
            full.write("no room")

    with pytest.raises(StoreError, match="is full: free some space"):
        files.write_folder(tmp_path / "versions" / "v1", fill)
    assert list((tmp_path / "versions").iterdir()) == []


def test_a_failed_save_keeps_the_live_version(tmp_path: Path) -> None:
    versions = VersionStore(tmp_path)
    versions.save(CARD, {}, lambda folder: None)
    versions.promote(CARD.version, "the loop", "first")

    def fill(folder: Path) -> None:
        with Path("/dev/full").open("w") as full:
            full.write("no room")

    with pytest.raises(StoreError):
        versions.save(replace(CARD, version="v1-b", number=1), {}, fill)
    assert versions.live() == CARD.version
    assert versions.names() == [CARD.version]


def test_partial_versions_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    versions = VersionStore(tmp_path)
    versions.save(CARD, {"1": {"c": ["a"]}}, lambda folder: None)
    half = tmp_path / "versions" / ".making-v1-b-1234"
    half.mkdir()
    (half / "card.json").write_text("{}")
    assert versions.names() == [CARD.version]
    versions.remove_leftovers()
    assert not half.exists()
    assert versions.labels(CARD.version) == {"1": {"c": ["a"]}}


def test_promotions_and_roll_backs_are_recorded(tmp_path: Path) -> None:
    versions = VersionStore(tmp_path)
    assert versions.live() is None
    for number in range(3):
        name = f"v{number}-x"
        versions.save(replace(CARD, version=name, number=number), {}, lambda folder: None)
        versions.promote(name, "the loop", "trained")
    assert versions.rollback_target() == "v1-x"
    versions.promote("v1-x", "a person", "rolled back")
    assert versions.live() == "v1-x"
    assert versions.rollback_target() == "v0-x"
    assert versions.newest() is not None
    assert versions.next_name("c" * 64) == (3, "v3-cccccccc")
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"cut off by a cr')
    assert [event.version for event in versions.history()] == ["v0-x", "v1-x", "v2-x", "v1-x"]
    with pytest.raises(NotFoundError, match="v2-x, v1-x, v0-x"):
        versions.promote("v9", "a person", "")
    versions.promote("v0-x", "a person", "rolled back")
    with pytest.raises(StoreError, match="no older version"):
        versions.rollback_target()


def test_a_content_hash_depends_on_the_value_only() -> None:
    assert content_hash({"a": 1, "b": [2]}) == content_hash(json.loads('{"b": [2], "a": 1}'))
    assert content_hash([1, 2]) != content_hash([2, 1])


def test_equal_project_numbers_on_two_servers_are_two_projects(tmp_path: Path) -> None:
    projects = ProjectStore(tmp_path)
    first = projects.register("http://one:8080", 3, 100, token="t1")
    second = projects.register("http://two:8080/ls", 3, 100, token="t2")
    later = projects.register("http://two:8080/ls", 3, 200)
    assert [first.id, second.id] == ["3", "3-two-8080-ls"]
    assert later.id == "3-two-8080-ls-200"
    assert projects.register("http://one:8080", 3, 100) == first
    assert projects.register("http://one:8080", 3, 0) == first
    assert [projects.token(p.id) for p in (first, second, later)] == ["t1", "t2", ""]
    assert {p.id for p in projects.find_by_number(3, 100)} == {first.id, second.id}
    assert len(ProjectStore(tmp_path).all()) == 3


def test_a_new_server_address_does_not_add_a_second_project(tmp_path: Path) -> None:
    """Two records of a project would overwrite each other's predictions."""
    projects = ProjectStore(tmp_path)
    first = projects.register("http://localhost:8080", 3, 100)
    assert projects.register("http://127.0.0.1:8080/", 3, 100) == first, (
        "loopback has several names"
    )
    asked: list[str] = []

    def silent(server: str) -> bool:
        asked.append(server)
        return False

    moved = projects.register("https://labels.example", 3, 100, "token", silent)
    assert asked == ["http://localhost:8080"]
    assert moved == replace(first, server="https://labels.example")
    assert projects.all() == [moved]
    assert projects.token(first.id) == "token"
    other = projects.register("http://two", 3, 100, is_server_alive=lambda server: True)
    assert other.id != first.id, "both servers answer, so the projects differ"
    assert projects.register("http://two", 3, 200, is_server_alive=silent).id not in (
        first.id,
        other.id,
    )
    nameless = projects.register("", 4, 100)
    named = projects.register("http://two", 4, 100)
    assert named == replace(nameless, server="http://two")
    assert projects.register("", 4, 100) == named


def test_the_audit_set_is_kept_when_the_time_of_creation_becomes_known(
    tmp_path: Path,
) -> None:
    """A new audit set would contain training images."""
    projects = ProjectStore(tmp_path)
    for number in (3, 4):
        projects.register("http://one", number)
    VersionStore(projects.folder("3")).save(CARD, {}, lambda folder: None)
    trained, new = (projects.register("http://one", number, 100) for number in (3, 4))
    assert (trained.created, trained.audit_identity) == (100, "3.0")
    assert (new.created, new.audit_identity) == (100, "4.100")
    assert projects.get("3") == trained


def test_a_damaged_record_does_not_hide_other_projects(tmp_path: Path) -> None:
    projects = ProjectStore(tmp_path)
    for number in (3, 4, 5):
        projects.register("http://one", number)
    for name in ("project.json", "project.json.backup"):
        (projects.folder("3") / name).write_text('{"id": "3"')
        (projects.folder("4") / name).write_text('{"nonsense": 1}')
    assert [record.id for record in projects.all()] == ["5"]
    first, second = projects.damaged_messages()
    assert "3/project.json is damaged" in first
    assert "4/project.json is damaged" in second


def test_requests_are_consumed_once_and_a_wake_does_not_replace_training(tmp_path: Path) -> None:
    assert wake.consume_wake(tmp_path / "away") == (False, False)
    wake.request_wake(tmp_path, train=True)
    wake.request_wake(tmp_path)
    assert wake.consume_wake(tmp_path) == (True, True)
    assert wake.consume_wake(tmp_path) == (False, False)
    wake.request_wake(tmp_path)
    assert wake.consume_wake(tmp_path) == (True, False)


def test_no_request_is_lost_while_others_are_consumed(tmp_path: Path) -> None:
    request_count = 60
    consumed, done = [], Event()

    def ask() -> None:
        for _ in range(request_count):
            wake.request_wake(tmp_path, train=True)
            wait_until_consumed(tmp_path)
        done.set()

    def wait_until_consumed(folder: Path) -> None:
        while (folder / wake.TRAIN_FILE).exists():
            pass

    requesting = Thread(target=ask)
    requesting.start()
    while not done.is_set():
        consumed.append(wake.consume_wake(tmp_path))
    assert sum(train for _, train in consumed) == request_count


def test_files_that_disappear_while_listed_are_skipped(tmp_path: Path) -> None:
    """Another process trims the same folder."""
    kept = tmp_path / "kept.jpg"
    kept.write_bytes(b"")
    found = files.stat_files([tmp_path / "gone.jpg", kept])
    assert [file for _, file in found] == [kept]
    front = QueueFront(tmp_path)
    for number in range(3):
        front.save_thumbnail(str(number), b"picture")
    (tmp_path / "thumbnails" / "dangling.jpg").symlink_to(tmp_path / "away")
    front.trim_thumbnails(())
    assert front.thumbnail_path("2").exists()
    pictures = ImageCopies(tmp_path, max_bytes=0)
    assert pictures.trim() == 3


@pytest.mark.parametrize("id", ["", "..", "../3", ".hidden", "a/b", "9"])
def test_a_project_id_cannot_leave_the_home_folder(tmp_path: Path, id: str) -> None:
    with pytest.raises(NotFoundError):
        ProjectStore(tmp_path).get(id)


def test_the_webhook_secret_is_created_once_and_private(tmp_path: Path) -> None:
    secret = load_webhook_secret(tmp_path)
    assert len(secret) >= 32
    assert load_webhook_secret(tmp_path) == secret
    assert stat.S_IMODE((tmp_path / "webhook_secret").stat().st_mode) == 0o600


def passed_card(number: int, parent: str | None) -> VersionCard:
    """Return the card of a version that passed the gate."""
    return replace(
        CARD,
        version=f"v{number}-x",
        identity=str(number) * 64,
        number=number,
        parent=parent,
        promotion=Promotion(True, "not worse"),
    )


def write_nothing(folder: Path) -> None:
    """Write no model."""


def test_a_promotion_that_a_crash_prevented_is_completed_later(
    tmp_path: Path,
) -> None:
    versions = VersionStore(tmp_path)
    versions.save(passed_card(0, None), {}, write_nothing)
    assert (versions.live(), versions.promote_pending("the loop")) == (None, passed_card(0, None))
    assert (versions.live(), versions.promote_pending("the loop")) == ("v0-x", None)
    versions.save(passed_card(1, "v0-x"), {}, write_nothing)
    assert versions.promote_pending("the loop") == passed_card(1, "v0-x")
    versions.promote("v0-x", "a person", "rolled back")
    assert versions.promote_pending("the loop") is None, "a person's choice is kept"
    versions.save(replace(passed_card(2, "v0-x"), promotion=Promotion(False)), {}, write_nothing)
    assert versions.promote_pending("the loop") is None, "a held version is not promoted"
    (tmp_path / "live.json").unlink()
    assert versions.live() == "v0-x", "the history has it too"
    (tmp_path / "history.jsonl").unlink()
    assert versions.promote_pending("the loop") == passed_card(1, "v0-x"), (
        "any version is better than none"
    )


def test_a_promotion_by_a_person_during_training_wins(tmp_path: Path) -> None:
    versions = VersionStore(tmp_path)
    for number in range(2):
        versions.save_and_promote(
            passed_card(number, versions.live()), {}, write_nothing, "the loop"
        )
    assert versions.live() == "v1-x"
    VersionStore(tmp_path).promote("v0-x", "a person", "rolled back")
    kept = versions.save_and_promote(passed_card(2, "v1-x"), {}, write_nothing, "the loop")
    assert versions.live() == "v0-x"
    assert kept == versions.card("v2-x")
    assert kept.is_held
    assert "v0-x was promoted while this version was compared" in kept.promotion_reason
    assert versions.promote_pending("the loop") is None


def test_promotions_wait_while_a_version_is_saved(tmp_path: Path) -> None:
    versions = VersionStore(tmp_path)
    versions.save_and_promote(passed_card(0, None), {}, write_nothing, "the loop")
    versions.save(passed_card(1, "v0-x"), {}, write_nothing)
    person = Thread(target=VersionStore(tmp_path).promote, args=("v1-x", "a person", ""))

    def fill(folder: Path) -> None:
        person.start()
        person.join(0.2)
        assert person.is_alive(), "the promotion waits"

    versions.save_and_promote(passed_card(2, "v0-x"), {}, fill, "the loop")
    person.join(10)
    assert [event.version for event in versions.history()] == ["v0-x", "v2-x", "v1-x"]


def test_an_event_missing_from_the_history_after_a_crash_is_restored(tmp_path: Path) -> None:
    versions = VersionStore(tmp_path)
    for number in range(3):
        versions.save(passed_card(number, None), {}, write_nothing)
    versions.promote("v0-x", "the loop", "first")
    written = (tmp_path / "history.jsonl").read_text()
    versions.promote("v1-x", "the loop", "second")
    (tmp_path / "history.jsonl").write_text(written)
    assert [event.version for event in versions.history()] == ["v0-x", "v1-x"]
    versions.promote("v2-x", "the loop", "third")
    assert [event.version for event in versions.history()] == ["v0-x", "v1-x", "v2-x"]
    (tmp_path / "history.jsonl").write_text(written)  # as in home folders of old releases
    assert versions.rollback_target() == "v1-x"


def test_a_version_with_a_damaged_card_is_left_out_and_keeps_its_number(tmp_path: Path) -> None:
    versions = VersionStore(tmp_path)
    versions.save_and_promote(passed_card(0, None), {}, write_nothing, "the loop")
    versions.save(passed_card(1, "v0-x"), {}, write_nothing)
    with pytest.raises(NotFoundError):
        versions.card("v0-x/../v0-x")
    (versions.path("v1-x") / "card.json").write_text('{"a": 1}')
    assert versions.card("v0-x") == passed_card(0, None), "only the requested card is read"
    with pytest.raises(StoreError, match=r"card\.json is damaged \(version is missing\)"):
        versions.card("v1-x")
    assert versions.names() == ["v0-x"]
    assert list(versions.damaged()) == ["v1-x"]
    assert versions.next_name("c" * 64) == (2, "v2-cccccccc")
    assert versions.lacks_newest(), "so another one is trained"
    versions.save(passed_card(2, "v0-x"), {}, write_nothing)
    assert not versions.lacks_newest()
    with pytest.raises(StoreError, match="card"):
        versions.promote("v1-x", "a person", "")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"version": ""}', b"\xff", None])
def test_a_damaged_pointer_is_restored_from_the_history(
    tmp_path: Path, content: bytes | None
) -> None:
    versions = VersionStore(tmp_path)
    for number in range(3):
        versions.save_and_promote(
            passed_card(number, versions.live()), {}, write_nothing, "the loop"
        )
    versions.promote("v1-x", "a person", "rolled back")
    pointer = tmp_path / "live.json"
    if content is None:
        pointer.unlink()
    else:
        pointer.write_bytes(content)
    assert versions.live() == "v1-x"
    assert "live.json is" in versions.live_problem()
    assert versions.restore_live("the loop")
    assert not versions.restore_live("the loop"), "it is whole now"
    assert not versions.live_problem()
    assert VersionStore(tmp_path).live() == "v1-x"
    assert "is the last good version" in versions.history()[-1].reason
    if content is not None:
        assert (tmp_path / "live.json.damaged").read_bytes() == content


def test_the_version_before_a_damaged_live_one_is_live_and_not_one_rolled_back_from(
    tmp_path: Path,
) -> None:
    versions = VersionStore(tmp_path)
    for number in range(3):
        versions.save_and_promote(
            passed_card(number, versions.live()), {}, write_nothing, "the loop"
        )
    versions.promote("v1-x", "a person", "rolled back from v2-x")
    versions.set_aside("v1-x", "A file is damaged.")
    assert versions.live() == "v0-x"
    with pytest.raises(StoreError, match="set aside"):
        versions.card("v1-x")
    versions.set_aside("v0-x", "A file is damaged.")
    assert versions.live() == "v2-x", "better than none"
    assert versions.restore_live("the loop")
    assert [event.version for event in versions.history()[-2:]] == ["v1-x", "v2-x"]
    assert versions.next_name("c" * 64)[0] == 3
    (versions.path("v1-x") / "unreadable.txt").unlink()
    assert versions.card("v1-x") == passed_card(1, "v0-x"), "its files were restored"


def test_labels_that_cannot_be_read_set_their_version_aside(tmp_path: Path) -> None:
    """With no labels instead, all labels would count as new ones in comparisons."""
    versions = VersionStore(tmp_path)
    versions.save_and_promote(passed_card(0, None), {"1": {"c": ["a"]}}, write_nothing, "the loop")
    (versions.path("v0-x") / "labels.json").write_text('{"1": {"c": "a"}}')
    with pytest.raises(StoreError, match=r"labels\.json is damaged \(1\.c is a text, not a list\)"):
        versions.labels("v0-x")
    assert versions.live() is None
    assert versions.names() == []
    versions.save(passed_card(1, None), {}, write_nothing)
    (versions.path("v1-x") / "labels.json").unlink()
    (tmp_path / "publisher.json").write_text("{}")
    assert versions.labels("v1-x") == {}, "uploaded versions have no labels"


def test_only_labels_of_uncertain_tasks_that_came_next_are_recorded(tmp_path: Path) -> None:
    front = QueueFront(tmp_path)
    front.record_labeled([1, 2])
    assert front.uncertain_labeled() == set(), "imported labels came before the queue"
    front.save_tasks(
        [
            QueuedTask(3, "uncertain", 0.7),
            QueuedTask(4, "uncertain", 0.05),
            QueuedTask(5, "audit"),
            QueuedTask(6, "typical"),
            QueuedTask(7, "uncertain", 0.9),
        ]
    )
    front.record_labeled([1, 2, 3, 4, 5, 6, 40])
    assert front.uncertain_labeled() == {3}
    front.save_tasks([QueuedTask(8, "uncertain", 0.6)])
    front.record_labeled([3, 8])
    assert front.uncertain_labeled() == {3, 8}
    file = tmp_path / "labeled_from_queue.json"
    file.write_text("[3,")
    assert QueueFront(tmp_path).uncertain_labeled() == {3, 8}, "from the second copy"
    front.record_labeled([])
    assert json.loads(file.read_text()) == [3, 8], "the file is whole again"


@pytest.mark.parametrize(
    ("train", "uncertain", "is_hard"), [(0, 0, False), (9, 4, False), (10, 5, True), (10, 9, True)]
)
def test_labels_are_called_hard_if_half_of_them_were_uncertain(
    train: int, uncertain: int, is_hard: bool
) -> None:
    card = replace(CARD, labels=SplitSizes(train, 0), uncertain_labels=uncertain)
    assert card.has_hard_labels is is_hard
