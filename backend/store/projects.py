"""The projects this backend knows: who named them, and where their files are."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from backend.errors import NotThere
from backend.store.files import read_json, write_json, write_text


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
    """

    id: str
    server: str
    number: int
    created: int = 0
    title: str = ""


class Projects:
    """All projects below one home folder. Safe with several threads of one process."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._root = home / "projects"
        self._lock = threading.Lock()

    def all(self) -> list[ProjectRecord]:
        """Every known project, by folder name."""
        files = sorted(self._root.glob("*/project.json"))
        records = (read_json(file) for file in files)
        return [ProjectRecord(**record) for record in records if record]

    def get(self, id: str) -> ProjectRecord:
        """One project.

        Raises:
            NotThere: no project has this id.
        """
        record = read_json(self.folder(id) / "project.json") if _plain(id) else None
        if record is None:
            raise NotThere(
                f"No project {id!r} is known here: connect it in Label Studio "
                "(Settings, Model), or with `prelabel connect`."
            )
        return ProjectRecord(**record)

    def folder(self, id: str) -> Path:
        """Where everything of one project is kept."""
        return self._root / id

    def find(self, number: int, created: int = 0) -> list[ProjectRecord]:
        """The projects with Label Studio's number, and its time of creation where both know it."""
        return [
            record
            for record in self.all()
            if record.number == number and (not created or record.created in (0, created))
        ]

    def register(
        self, server: str, number: int, created: int = 0, token: str = ""
    ) -> ProjectRecord:
        """Make a project known, or find it again; keeps the newest token that came with it.

        Raises:
            StoreError: the home folder cannot be written.
        """
        with self._lock:
            record = self._known(server, number, created) or self._new(server, number, created)
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
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def _token_file(self, id: str) -> Path:
        return self.folder(id) / "token"

    def _known(self, server: str, number: int, created: int) -> ProjectRecord | None:
        for record in self.all():
            same_time = not created or record.created in (0, created)
            if (record.server, record.number) == (server, number) and same_time:
                if created and not record.created:
                    record = self._write(replace(record, created=created))
                return record
        return None

    def _new(self, server: str, number: int, created: int) -> ProjectRecord:
        place = urlsplit(server)
        host = f"{number}-{place.netloc}{place.path}".replace(":", "-").replace("/", "-")
        names = (str(number), host, f"{host}-{created}")
        id = next(name for name in names if not self.folder(name).exists())
        return self._write(ProjectRecord(id=id, server=server, number=number, created=created))

    def _write(self, record: ProjectRecord) -> ProjectRecord:
        write_json(self.folder(record.id) / "project.json", asdict(record))
        return record


def _plain(id: str) -> bool:
    """No way out of the projects' folder."""
    return bool(id) and Path(id).name == id and not id.startswith(".")
