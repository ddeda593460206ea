"""The projects this backend knows: who named them, and where their files are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from backend.errors import NotThere, StoreError
from backend.store.captures import Captures
from backend.store.files import explained, read_json, write_json, write_text
from backend.store.servers import same_server


@dataclass(frozen=True)
class ProjectRecord:
    """A project of one Label Studio.

    Attributes:
        id: what people and addresses call it: Label Studio's number, with the server added where
            another server's project already has that number.
        server: Label Studio's address as it named itself; empty: the one of the settings.
        number: Label Studio's project number.
        created: when it was created, in whole seconds since 1970; 0 when unknown. Tells a
            project from a later one with the same number.
        title: as last seen.
        drawn: what the audit slice was drawn by before the time of creation was known; empty
            where it always was.
    """

    id: str
    server: str
    number: int
    created: int = 0
    title: str = ""
    drawn: str = ""

    @property
    def identity(self) -> str:
        """What the audit slice is drawn by: the same for ever, so that it stays unseen."""
        return self.drawn or f"{self.number}.{self.created}"


class Projects:
    """All projects below one home folder. Safe with several threads of one process.

    Args:
        home: the home folder.
        kept: the home folder that the endpoint writes to, where that is another one.
    """

    def __init__(self, home: Path, kept: Path | None = None) -> None:
        self.home = home
        self._kept = kept
        self._root = home / "projects"
        self._lock = threading.Lock()

    def all(self) -> list[ProjectRecord]:
        """Every known project, by folder name; without those whose record is damaged."""
        return self.readable()[0]

    def damaged(self) -> list[str]:
        """A sentence for every project whose record cannot be read: the others go on."""
        return list(self.readable()[1].values())

    def readable(self) -> tuple[list[ProjectRecord], dict[str, str]]:
        """Every known project, by folder name; and what is wrong with the others, by id."""
        found: list[ProjectRecord] = []
        damaged: dict[str, str] = {}
        for file in sorted(self._root.glob("*/project.json")):
            try:
                record = _read(file)
            except StoreError as error:
                damaged[file.parent.name] = str(error)
                continue
            found += [record] if record else []
        return found, damaged

    def get(self, id: str) -> ProjectRecord:
        """One project.

        Raises:
            NotThere: no project has this id.
        """
        record = _read(self.folder(id) / "project.json") if _plain(id) else None
        if record is None:
            raise NotThere(
                f"No project {id!r} is known here: connect it in Label Studio "
                "(Settings, Model), or with `prelabel connect`."
            )
        return record

    def folder(self, id: str) -> Path:
        """Where everything of one project is kept."""
        return self._root / id

    def captures(self, id: str) -> Captures:
        """What the endpoint kept for one project, wherever it writes."""
        return Captures(self.folder(id), self._kept)

    def find(self, number: int, created: int = 0) -> list[ProjectRecord]:
        """The projects with Label Studio's number, and its time of creation where both know it."""
        return [
            record
            for record in self.all()
            if record.number == number and (not created or record.created in (0, created))
        ]

    def register(
        self,
        server: str,
        number: int,
        created: int = 0,
        token: str = "",
        answers: Callable[[str], bool] = lambda server: True,
    ) -> ProjectRecord:
        """Make a project known, or find it again; keeps the newest token that came with it.

        A Label Studio that calls itself by another name than before brings no new projects: one
        with the same number and time of creation is the old one where nobody answers at the old
        name any more. Where somebody does, it is another Label Studio's.

        Args:
            server: Label Studio's address as it names itself; may be empty.
            number: of the project there.
            created: in seconds since 1970; 0 when unknown.
            token: may be empty.
            answers: asked about the server of a project that this one may be.

        Raises:
            StoreError: the home folder cannot be written.
        """
        with self._lock:
            record = (
                self._known(server, number, created)
                or self._moved(server, number, created, answers)
                or self._new(server, number, created)
            )
            if token and token != self.token(record.id):
                write_text(self._token_file(record.id), token, private=True)
        return record

    def rename(self, id: str, title: str) -> None:
        """Remember a project's title."""
        with self._lock:
            record = self.get(id)
            if record.title != title:
                self._write(replace(record, title=title))

    def token(self, id: str) -> str:
        """The token that Label Studio handed over at /setup; empty when there was none."""
        file = self._token_file(id)
        try:
            with explained(file):
                return file.read_text(encoding="utf-8")
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return ""
            raise
        except ValueError as error:
            raise StoreError(f"{file} is damaged: connect the project anew.") from error

    def _token_file(self, id: str) -> Path:
        return self.folder(id) / "token"

    def _known(self, server: str, number: int, created: int) -> ProjectRecord | None:
        """The record of a server by any of its names."""
        for record in self.find(number, created):
            if same_server(record.server, server):
                return self._dated(record, created)
        for record in self.find(number, created):
            if created and record.created == created and not (record.server and server):
                named = replace(record, server=record.server or server)
                return record if named == record else self._write(named)
        return None

    def _moved(
        self, server: str, number: int, created: int, answers: Callable[[str], bool]
    ) -> ProjectRecord | None:
        """The record of a server that goes by another name now."""
        for record in self.find(number, created):
            if created and record.created == created and not answers(record.server):
                return self._write(replace(record, server=server))
        return None

    def _dated(self, record: ProjectRecord, created: int) -> ProjectRecord:
        """With its time of creation; versions that were made without go on as they were."""
        if not created or record.created:
            return record
        trained = any(self.folder(record.id).glob("versions/v*"))
        drawn = record.identity if trained else ""
        return self._write(replace(record, created=created, drawn=drawn))

    def _new(self, server: str, number: int, created: int) -> ProjectRecord:
        place = urlsplit(server)
        host = f"{number}-{place.netloc}{place.path}".replace(":", "-").replace("/", "-")
        names = (str(number), host, f"{host}-{created}")
        id = next(name for name in names if not self.folder(name).exists())
        return self._write(ProjectRecord(id=id, server=server, number=number, created=created))

    def _write(self, record: ProjectRecord) -> ProjectRecord:
        write_json(self.folder(record.id) / "project.json", asdict(record))
        return record


def _read(file: Path) -> ProjectRecord | None:
    """A record; None where there is none.

    Raises:
        StoreError: it is damaged.
    """
    row = read_json(file)
    try:
        return ProjectRecord(**row) if row else None
    except TypeError as error:
        raise StoreError(f"{file} is damaged ({error}); delete it to start anew.") from error


def _plain(id: str) -> bool:
    """No way out of the projects' folder."""
    return bool(id) and Path(id).name == id and not id.startswith(".")
