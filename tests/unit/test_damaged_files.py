"""Whatever happens to the files of a home folder, no page, command or round fails for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.card_records import AutoAcceptSection
from backend.cli.main import main
from backend.dashboard.page_reader import DashboardReader
from backend.dashboard.rendering import PageRenderer
from backend.endpoint.access import AccessControl
from backend.endpoint.alerts import AlertSender
from backend.errors import PrelabelError, StoreError
from backend.loop.publish.queue_settings import recent_reset
from backend.loop.repair import repair_files
from backend.onboarding.backend_connection import PendingConnections
from backend.onboarding.folder_project import StartedFolder
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.scheduler.service import Service
from backend.server.app import create_app
from backend.settings import Settings
from backend.store import record_files
from backend.store.acceptance import AcceptanceStore
from backend.store.api_keys import ApiKeyStore
from backend.store.confirmed_labels import ConfirmedLabels
from backend.store.drift_reference import load_reference
from backend.store.label_tab import read_labeling_path
from backend.store.projects import ProjectStore, read_outcome
from backend.store.queue_front import QueueFront
from backend.store.record_files import read_record
from backend.store.usage import UsageCounters
from backend.store.versions import VersionStore
from backend.store.webhook_secret import load_webhook_secret
from tests.support.damaged_homes import (
    DAMAGES,
    HARMLESS_DAMAGES,
    LIVE,
    SERVER,
    STARTED_FILE,
    VERSIONS,
    damage_file,
    list_files,
    make_complete_home,
)

RANDOM_HOMES = int(os.environ.get("DAMAGED_HOMES", "50"))
FAKE_WORKER = Path(__file__).parents[1] / "support" / "fake_worker.py"
RENDERER = PageRenderer(10)
ACCEPTING = AutoAcceptSection(0.05, 0.8, "ok", audit=100)
BYTE_DAMAGES = ("empty", "half", "flipped", "missing")
"""Damages that make sense for files that are not JSON."""
VERSION_FILES = (
    "card.json", "labels.json", "heads.json", "finders.json", "thresholds.json", "controls.json",
    "head-0/head.json", "head-0/head.safetensors",
)  # fmt: skip
"""Files of a version that it cannot be used without."""


@dataclass(frozen=True)
class Template:
    """An intact home folder, which every test copies.

    Attributes:
        home: the folder.
        key: an API key of it.
        files: its files.
    """

    home: Path
    key: str
    files: list[str]

    @contextlib.contextmanager
    def copied(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder) / "home"
            shutil.copytree(self.home, home, copy_function=link_or_copy)
            yield home


def link_or_copy(source: str, target: str) -> None:
    """Link a file that is only ever replaced, and copy one that is changed in place."""
    if source.endswith((".jsonl", ".sqlite", ".txt")):
        shutil.copy2(source, target)
    else:
        os.link(source, target)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    home = tmp_path_factory.mktemp("template")
    key = make_complete_home(home)
    others = {f"{VERSIONS[0]}/{name}" for name in ("card.json", "labels.json")}
    files = [
        file
        for file in list_files(home)
        if "versions/" not in file or LIVE in file or file.split("versions/")[1] in others
    ]
    return Template(home, key, files)


# -- what works from the outside ------------------------------------------------------------


def fetch_pages(home: Path) -> dict[str, httpx.Response]:
    """Return the answers of a server that has just started; no round is run."""
    paths = ("/api/projects", "/api/projects/1", "/", "/projects/1", "/projects/1/now", "/versions")

    async def run() -> dict[str, httpx.Response]:
        worker = (sys.executable, str(FAKE_WORKER), str(home / "notes"), "0")
        service = Service(
            Settings(home=home, label_studio_url=SERVER, api_key="x"), worker_command=worker
        )
        transport = httpx.ASGITransport(create_app(service))
        await service.start()
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                headers = {"accept": "text/html"}
                return {path: await client.get(path, headers=headers) for path in paths}
        finally:
            await service.stop()

    return asyncio.run(run())


def run_command(*arguments: str) -> int:
    """Run a command in this process; PRELABEL_HOME is set."""
    return main([*arguments, "--json"])


def check_pages(home: Path, is_listed: bool) -> dict[str, httpx.Response]:
    """Check that all pages appear, and return them."""
    pages = fetch_pages(home)
    statuses = {path: page.status_code for path, page in pages.items()}
    project_status = 200 if is_listed else 404
    assert statuses == {
        path: project_status if "projects/1" in path else 200 for path in statuses
    }, {path: page.text for path, page in pages.items() if page.status_code == 500}
    assert len(pages["/api/projects"].json()) == is_listed
    if not is_listed:
        assert "project.json is damaged" in pages["/"].text
    return pages


def check_security(home: Path, key: str, is_open: bool = False) -> None:
    """Check that no damage opens the endpoint or resumes auto-accept."""
    keys, usage = ApiKeyStore(home), UsageCounters(home / "usage.json")
    try:
        access = AccessControl(keys, usage, allow_anonymous=False, open_until_key=True)
        assert access.is_open is is_open
        authenticated = keys.authenticate(key)
        assert authenticated is None or authenticated.functions == ("1",)
        assert keys.authenticate("plk_a_b") is None
    except StoreError as error:
        assert_is_sentence(str(error))
    acceptance = AcceptanceStore(home / "projects" / "1").read()
    assert acceptance.is_suspended(ACCEPTING)
    assert acceptance.describe(ACCEPTING) is not None


def check_other_files(home: Path) -> None:
    """Check that what other commands and processes read is read."""
    folder = home / "projects" / "1"
    captures = ProjectStore(home).captures("1")
    assert len([captures.task_status(capture) for capture in captures.all()]) <= 2
    assert len(list(captures.pending())) <= 2
    assert len(load_webhook_secret(home)) >= 20
    for name in VERSIONS:
        load_reference(folder / "versions" / name)
    AlertSender([], home / "alerts", httpx.AsyncClient(transport=httpx.MockTransport(None)))  # type: ignore[arg-type]
    PendingConnections(home).has_pending(SERVER)
    read_labeling_path(folder)
    recent_reset(folder)
    QueueFront(folder).record_labeled([41])
    with contextlib.suppress(PrelabelError):
        read_record(home / STARTED_FILE, StartedFolder)
    Resources(Settings(home=home)).embedding_cache.get_vectors("builtin", ["a" * 64])
    with contextlib.suppress(PrelabelError):
        ProjectStore(home).token("1")


def open_session(home: Path) -> ProjectSession:
    resources = Resources(Settings(home=home))
    return ProjectSession(resources, resources.projects.get("1"))


def repair(home: Path) -> str | None:
    """Repair a home as a round does, and return its live version, whose files are read."""
    session = open_session(home)
    repair_files(session)
    live = session.versions.live()
    if live:
        assert session.model(live).heads
        assert session.versions.labels(live)
        assert not VersionStore(session.folder).live_problem()
    return live


def assert_is_sentence(text: str) -> None:
    assert len(text) < 500
    assert text.endswith(".")


def check_reading(home: Path, key: str) -> str:
    """Check everything that reads files, without a server; return the project's page."""
    check_security(home, key)
    check_other_files(home)
    record = ProjectStore(home).get("1")
    status = record.status(read_outcome(home / "projects" / "1"))
    reader = DashboardReader(home, SERVER)
    RENDERER.cards([reader.summary(status)])
    page = RENDERER.render_project(reader.page(status), "")
    RENDERER.comparison(reader.summary(status), reader.comparison(reader.summary(status), "", ""))
    ConfirmedLabels(home / "projects" / "1").without_confirmed([])
    if VersionStore(home / "projects" / "1").live() not in (LIVE, None):
        assert "damaged" in page or "missing" in page
    return page


def check_server(home: Path, key: str, is_listed: bool = True) -> None:
    """Check the answers of a server, and commands."""
    check_security(home, key)
    check_pages(home, is_listed)
    assert run_command("status") == 0
    assert run_command("versions", "1") == (0 if is_listed else 1)


@pytest.fixture
def use_home(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    monkeypatch.setenv("LABEL_STUDIO_URL", SERVER)
    record_files._logged_messages.clear()
    return lambda home: monkeypatch.setenv("PRELABEL_HOME", str(home))


# -- one file -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGES)
def test_one_damaged_file_stops_nothing(template: Template, name: str) -> None:
    for file in template.files:
        if name not in BYTE_DAMAGES and not file.removesuffix(".backup").endswith(".json"):
            continue
        with template.copied() as home:
            damage_file(home / file, DAMAGES[name])
            check_reading(home, template.key)
            live = repair(home)
        is_live_file = any(file.endswith(f"{LIVE}/{part}") for part in VERSION_FILES)
        if name == "flipped" and is_live_file:  # a flipped bit may leave valid JSON
            assert live in VERSIONS[1:], file
        else:
            is_lost = is_live_file and name not in HARMLESS_DAMAGES and not is_default(file, name)
            assert live == (VERSIONS[1] if is_lost else LIVE), (file, name)


def is_default(file: str, name: str) -> bool:
    """Return whether a damaged file is what another release wrote."""
    return name in ("missing", "a list") and file.endswith(("finders.json", "controls.json"))


SERVER_FILES = {
    "the record": ["project.json"],
    "both copies of the record": ["project.json", "project.json.backup"],
    "the pointer": ["live.json"],
    "the card of the live version": [f"versions/{LIVE}/card.json"],
    "everything else": [
        "summary.json", "queue.json", "suspects.json", "unsure.json", "label_times.json",
        "label_times.json.backup", "annotation_times.json", "annotation_times.json.backup",
        "label_tab.json", "label_examples.json", "label_changes.json",
        "confirmed_labels.json", "confirmed_labels.json.backup",
        f"versions/{LIVE}/audit_predictions.json", "labeled_from_queue.json",
        "labeled_from_queue.json.backup", "acceptance.json", "acceptance.json.backup",
        "history.jsonl", "token", "captures/req-0.json", "returned/req-1.json",
        f"versions/{VERSIONS[0]}/card.json", "../../webhook_secret", "../../starts/0f.json",
    ],
}  # fmt: skip


@pytest.mark.parametrize("files", SERVER_FILES)
@pytest.mark.parametrize("name", ["half", "null", "another object", "a newer format"])
def test_a_server_and_commands_survive_damage(
    template: Template, name: str, files: str, use_home: Callable[[Path], None]
) -> None:
    with template.copied() as home:
        use_home(home)
        for file in SERVER_FILES[files]:
            damage_file(home / "projects" / "1" / file, DAMAGES[name])
        is_kept = files != "both copies of the record" or name in HARMLESS_DAMAGES
        check_server(home, template.key, is_kept)


# -- several files --------------------------------------------------------------------------


def mutate_json(content: bytes, data: st.DataObject) -> bytes:
    """Replace a random value in JSON."""
    try:
        value = json.loads(content)
    except ValueError:
        return content[: data.draw(st.integers(0, len(content)))]
    parent, key = {"": value}, ""
    inner: Any = parent
    for _ in range(data.draw(st.integers(0, 6))):
        child = inner[key]
        keys = list(child) if isinstance(child, dict) else []
        keys = list(range(len(child))) if isinstance(child, list) else keys
        if not keys:
            break
        inner, key = child, data.draw(st.sampled_from(keys))
    inner[key] = data.draw(VALUES)
    return json.dumps(parent[""]).encode()


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([10**400, "\ud800", -1, 1e200, [], {}, [None], {"a": {}}]),
)  # fmt: skip
SECURITY_FILES = ("acceptance.json", "keys.json")


@settings(max_examples=RANDOM_HOMES, deadline=None)
@given(st.data())
def test_any_files_may_be_damaged_together(template: Template, data: st.DataObject) -> None:
    files = st.lists(st.sampled_from(template.files), min_size=1, max_size=8, unique=True)
    with template.copied() as home:
        for file in data.draw(files):
            kind = data.draw(st.sampled_from([*DAMAGES, "mutated"]))
            is_security_file = file.removesuffix(".backup").endswith(SECURITY_FILES)
            if is_security_file and kind in ("missing", "mutated"):
                kind = "half"  # valid content with other values, and two lost files, look whole
            damage = DAMAGES.get(kind) or partial(mutate_json, data=data)
            damage_file(home / file, damage)
        check_security(home, template.key)
        try:
            ProjectStore(home).get("1")
        except PrelabelError as error:
            assert_is_sentence(str(error))
            return
        check_reading(home, template.key)
        live = repair(home)
        assert live is None or live in VERSIONS
