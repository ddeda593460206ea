"""The connected projects, and the folders of their files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backend.errors import NotFoundError, StoreError
from backend.json_records import JsonObject, json_field, unknown_keys
from backend.records import ProjectFigures, ProjectStatus, RoundOutcome
from backend.server_url import split_url, strip_credentials
from backend.store.captures import CaptureStore
from backend.store.files import disk_errors, read_text, write_text
from backend.store.record_files import (
    backup_path,
    damaged_file_error,
    has_equal_copies,
    read_backed_up,
    read_cache,
    write_backed_up,
    write_record,
)
from backend.store.servers import is_same_server

RECORD_FILE, OUTCOME_FILE = "project.json", "summary.json"
MISSING_PERIOD = timedelta(days=1)
"""Time for which a project must be missing before it is removed from the list: the answer may be a
mistake, such as that of a Label Studio that is restored from a backup."""
SETUP_TOKEN_FIX = "connect the project again"  # noqa: S105 - advice, not a token
RECORD_FIX = "restore it, or connect the project again, which trains it from scratch"


@dataclass(frozen=True)
class ProjectRecord:
    """A connected project.

    Attributes:
        id: the project's number in Label Studio, with the server's address appended if a project of
            another server has the same number.
        server: Label Studio's address as it reported it; empty for the configured one.
        number: the project's number in Label Studio.
        created: time of creation, whole seconds since 1970; 0 if unknown. It distinguishes a
            project from a later one with the same number.
        title: last known title.
        drawn: seed of the audit set if it was drawn before ``created`` was known.
        missing_since: when Label Studio first answered that the project does not exist, UTC, ISO
            8601; empty while it exists.
        is_removed: it was missing for so long that it is not listed or polled any more. Its files
            stay, and the endpoint serves its versions, until it is forgotten.
    """

    id: str
    server: str
    number: int
    created: int = 0
    title: str = ""
    drawn: str = ""
    missing_since: str = json_field("", optional=True)
    is_removed: bool = json_field(False, key="departed", optional=True)
    unknown: JsonObject = unknown_keys()

    @property
    def audit_identity(self) -> str:
        """Seed of the audit set; it never changes, so that no audit image is ever trained on."""
        return self.drawn or f"{self.number}.{self.created}"

    @property
    def removed_at(self) -> str:
        """When a missing project is removed from the list, UTC, ISO 8601; empty for others."""
        if not self.missing_since:
            return ""
        return (datetime.fromisoformat(self.missing_since) + MISSING_PERIOD).isoformat()

    def matches(self, number: object, created: int) -> bool:
        """Return whether the record has a number, and a time of creation if both are known."""
        is_same_time = not created or self.created in (0, created)
        return str(self.number) == str(number) and is_same_time

    def status(self, outcome: RoundOutcome) -> ProjectStatus:
        """Return the project's status from the outcome of its last round."""
        figures = {item.name: getattr(outcome, item.name) for item in fields(ProjectFigures)}
        return ProjectStatus(
            **figures | {"title": outcome.title or self.title},
            id=int(self.id) if self.id.isdigit() else self.id,
            server=self.server,
            number=self.number,
            version=outcome.version or None,
            removed_at=self.removed_at,
        )


class ProjectStore:
    """The projects of a home folder; thread-safe.

    Args:
        home: the home folder.
        endpoint_home: home folder that the endpoint writes to, if it is a different one.
    """

    def __init__(self, home: Path, endpoint_home: Path | None = None) -> None:
        self.home = home
        self._endpoint_home = endpoint_home
        self._root = home / "projects"
        self._lock = threading.Lock()

    def all(self) -> list[ProjectRecord]:
        """Return all projects by folder name, without damaged records."""
        return self.read_all()[0]

    def listed(self) -> list[ProjectRecord]:
        """Return all projects that were not removed from the list."""
        return [record for record in self.all() if not record.is_removed]

    def damaged_messages(self) -> list[str]:
        """Return an error message for each damaged record."""
        return list(self.read_all()[1].values())

    def read_all(self) -> tuple[list[ProjectRecord], dict[str, str]]:
        """Return all projects by folder name, and the errors of damaged records by id."""
        records: list[ProjectRecord] = []
        errors_by_id: dict[str, str] = {}
        for id in self.ids():
            try:
                record = _read_record(self.folder(id))
            except StoreError as error:
                errors_by_id[id] = str(error)
                continue
            records += [record] if record else []
        return records, errors_by_id

    def ids(self) -> list[str]:
        """Return the ids of all projects by number, also of those with a damaged record."""
        names = (RECORD_FILE, backup_path(Path(RECORD_FILE)).name)
        ids = {file.parent.name for name in names for file in self._root.glob(f"*/{name}")}
        return sorted(ids, key=_natural_order)

    def get(self, id: str) -> ProjectRecord:
        """Return a project.

        Raises:
            NotFoundError: no project has this id.
        """
        record = _read_record(self.folder(id)) if _is_safe_id(id) else None
        if record is None:
            raise NotFoundError(
                f"There is no project {id!r}: connect it in Label Studio "
                "(Settings, Model), or with `prelabel connect`."
            )
        return record

    def folder(self, id: str) -> Path:
        """Return the folder of a project's files."""
        return self._root / id

    def last_activity(self, id: str) -> float:
        """Return when a file of a project was last written, in seconds since 1970."""
        try:
            return self.folder(id).stat().st_mtime
        except OSError:  # removed meanwhile
            return 0.0

    def captures(self, id: str) -> CaptureStore:
        """Return the captured images of a project."""
        return CaptureStore(self.folder(id), self._endpoint_home)

    def find_by_number(self, number: int, created: int = 0) -> list[ProjectRecord]:
        """Return the projects with a number, and with a time of creation if it is known."""
        return [record for record in self.all() if record.matches(number, created)]

    def register(
        self,
        server: str,
        number: int,
        created: int = 0,
        token: str = "",
        is_server_alive: Callable[[str], bool] = lambda server: True,
    ) -> ProjectRecord:
        """Add a project or return the existing one, and store its latest token.

        A project keeps its record when its server moves to a new address: a record with the same
        number and time of creation is reused if no server answers at its old address.

        Args:
            server: Label Studio's address as it reports it; may be empty.
            number: the project's number in Label Studio.
            created: seconds since 1970; 0 if unknown.
            token: may be empty.
            is_server_alive: returns whether a server answers at an address.

        Raises:
            StoreError: the home folder cannot be written.
        """
        with self._lock:
            record = (
                self._find_by_server(server, number, created)
                or self._find_moved(server, number, created, is_server_alive)
                or self._create_record(server, number, created)
            )
            if token and token != self.readable_token(record.id):
                self.save_token(record.id, token)
        return record

    def save_token(self, id: str, token: str) -> None:
        """Save the token that Label Studio sent."""
        write_text(self._token_file(id), token, private=True)

    def forget(self, id: str) -> None:
        """Remove everything that is stored of a project.

        Raises:
            NotFoundError: no project has this id.
            StoreError: its folder cannot be removed.
        """
        folder = self.folder(self.get(id).id)
        with self._lock, disk_errors(folder):
            # both copies of the record go first, so that an interrupted removal leaves no half
            # project
            for copy in (folder / RECORD_FILE, backup_path(folder / RECORD_FILE)):
                copy.unlink(missing_ok=True)
            shutil.rmtree(folder)

    def set_title(self, id: str, title: str) -> None:
        """Save a project's title."""
        with self._lock:
            record = self.get(id)
            if record.title != title or not has_equal_copies(self.folder(id) / RECORD_FILE):
                self._write(replace(record, title=title))

    def set_missing(self, id: str, *, is_removed: bool = False) -> ProjectRecord:
        """Record that Label Studio does not have a project, and return the record.

        Args:
            id: the project.
            is_removed: remove it from the list now instead of after ``MISSING_PERIOD``.
        """
        with self._lock:
            record, now = self.get(id), datetime.now(UTC)
            since = record.missing_since or now.isoformat(timespec="seconds")
            record = replace(record, missing_since=since)
            is_over = now >= datetime.fromisoformat(record.removed_at)
            return self._write(replace(record, is_removed=is_removed or is_over))

    def set_present(self, id: str) -> ProjectRecord:
        """Record that Label Studio has a project again, and return the record."""
        with self._lock:
            return self._write(replace(self.get(id), missing_since="", is_removed=False))

    def token(self, id: str) -> str:
        """Return the token that Label Studio sent to ``/setup``; empty without one."""
        file = self._token_file(id)
        try:
            token = read_text(file) or ""
        except ValueError as error:
            raise damaged_file_error(file, error, SETUP_TOKEN_FIX) from error
        if not (token.isascii() and token.isprintable()):
            raise damaged_file_error(file, "it is not a token", SETUP_TOKEN_FIX)
        return token

    def readable_token(self, id: str) -> str:
        """Return the token; empty also if its file is damaged, so that a new one replaces it."""
        try:
            return self.token(id)
        except StoreError:
            return ""

    def _token_file(self, id: str) -> Path:
        return self.folder(id) / "token"

    def _find_by_server(self, server: str, number: int, created: int) -> ProjectRecord | None:
        """Find the record of a project by any address of its server."""
        for record in self.find_by_number(number, created):
            if is_same_server(record.server, server):
                return self._set_creation_time(record, created)
        for record in self.find_by_number(number, created):
            if created and record.created == created and not (record.server and server):
                renamed = replace(record, server=record.server or server)
                return record if renamed == record else self._write(renamed)
        return None

    def _find_moved(
        self, server: str, number: int, created: int, is_server_alive: Callable[[str], bool]
    ) -> ProjectRecord | None:
        """Find the record of a project whose server has a new address."""
        for record in self.find_by_number(number, created):
            if created and record.created == created and not is_server_alive(record.server):
                return self._write(replace(record, server=server))
        return None

    def _set_creation_time(self, record: ProjectRecord, created: int) -> ProjectRecord:
        """Add the time of creation, but keep the seed of an audit set that was drawn without it."""
        if not created or record.created:
            return record
        has_versions = any(self.folder(record.id).glob("versions/v*"))
        audit_seed = record.audit_identity if has_versions else ""
        return self._write(replace(record, created=created, drawn=audit_seed))

    def _create_record(self, server: str, number: int, created: int) -> ProjectRecord:
        url = split_url(server)
        server_slug = f"{number}-{url.netloc}{url.path}".replace(":", "-").replace("/", "-")
        names = (str(number), server_slug, f"{server_slug}-{created}")
        id = next(name for name in names if not self.folder(name).exists())
        return self._write(ProjectRecord(id=id, server=server, number=number, created=created))

    def _write(self, record: ProjectRecord) -> ProjectRecord:
        write_backed_up(self.folder(record.id) / RECORD_FILE, record)
        return record


def _read_record(folder: Path) -> ProjectRecord | None:
    """Read a project's record; None if there is none."""

    def check(record: ProjectRecord) -> None:
        if record.id != folder.name:
            raise TypeError(f"it is that of project {record.id[:80]!a}")
        _check_time(record.missing_since)

    file = folder / RECORD_FILE
    record = read_backed_up(file, ProjectRecord, advice=RECORD_FIX, check=check)
    return record and replace(record, server=strip_credentials(record.server))


def _check_time(text: str) -> None:
    try:
        is_utc = not text or datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        is_utc = False
    if not is_utc:
        raise TypeError(f"{text[:40]!a} is not a time in UTC")


def read_outcome(folder: Path) -> RoundOutcome:
    """Read the outcome of a project's last round; it is empty before the first.

    Raises:
        StoreError: the file cannot be read.
    """
    return read_cache(folder / OUTCOME_FILE, RoundOutcome, RoundOutcome(), check=_check_outcome)


def save_outcome(folder: Path, outcome: RoundOutcome) -> None:
    """Save the outcome of a project's last round.

    Raises:
        StoreError: the file cannot be written.
    """
    write_record(folder / OUTCOME_FILE, outcome)


def _check_outcome(outcome: RoundOutcome) -> None:
    for control in outcome.controls:
        control.check_figures()


def _natural_order(id: str) -> tuple[int, str]:
    """Return the sort key of an id: by project number, then by id."""
    number = id.partition("-")[0]
    return int(number) if number.isdecimal() else 0, id


def _is_safe_id(id: str) -> bool:
    """Return whether an id stays inside the projects' folder."""
    return bool(id) and Path(id).name == id and not id.startswith(".")
