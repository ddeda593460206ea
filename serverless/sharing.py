"""A home folder on one's own machine and the home volume: what goes up, and what comes back.

Live versions, keys and alert rules go up; images that the endpoint kept come back. Labels and
tokens stay here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from backend.store.files import read_json, write_bytes, write_json
from backend.store.projects import Projects
from backend.store.versions import Versions
from serverless.cloud import INSIDE, Explained

log = logging.getLogger("prelabel")
PLAIN = ("keys.json", "alerts.toml")
PUBLISHER = "publisher.json"
"""In a project's folder on the volume: whose home it came from."""
PRIVATE = frozenset({"labels.json"})
"""Files of a version that nobody needs to answer with."""


class Sharing:
    """One home folder and one app's volumes.

    Args:
        home: the folder.
        app: the app's name.
    """

    def __init__(self, home: Path, app: str) -> None:
        import modal

        self._home = home
        self._app = app
        self._projects = Projects(home)
        names = (f"{app}-home", f"{app}-kept")
        self._up, self._kept = (
            modal.Volume.from_name(name, create_if_missing=True, version=2) for name in names
        )

    def publish(self) -> list[str]:
        """Bring up what changed; the functions that the volume has from here.

        A version's files go first and the pointer to it last, in one batch that appears whole.

        Raises:
            RoundError: Modal cannot be reached.
        """
        if INSIDE:
            return []
        files: dict[str, bytes] = {}
        for name in PLAIN:
            if (self._home / name).is_file():
                files[name] = (self._home / name).read_bytes()
        published = []
        for record in self._projects.all():
            live = Versions(self._projects.folder(record.id)).live()
            if live and self._ours(record.id):
                files |= self._project(record.id, live)
                published.append(record.id)
        self._write(files)
        return published

    def publish_if_new(self) -> None:
        """Bring up what changed since the last time, if anything did; cheap where nothing did."""
        note = self._home / "modal-published.json"
        now = self._state()
        if INSIDE or read_json(note) == now:
            return
        published = self.publish()
        write_json(note, now)
        log.info("Modal's endpoint has the live versions of %s", ", ".join(published) or "nothing")

    def collect(self) -> int:
        """Fetch the images that the endpoint on Modal kept; how many were new.

        Raises:
            RoundError: Modal cannot be reached.
        """
        if INSIDE:
            return 0
        new = 0
        for record in self._projects.all():
            folder = self._projects.folder(record.id) / "captures"
            names = self._listed(f"projects/{record.id}/captures")
            for name in sorted(names, key=lambda name: name.endswith(".json")):  # images first
                here = folder / name
                if not here.exists() or here.stat().st_mtime < names[name]:
                    new += not here.exists() and name.endswith(".json")
                    write_bytes(here, self._read(f"projects/{record.id}/captures/{name}"))
        return new

    def _project(self, id: str, live: str) -> dict[str, bytes]:
        folder = self._projects.folder(id)
        version = folder / "versions" / live
        found = {
            str(file.relative_to(self._home)): file.read_bytes()
            for file in sorted(version.rglob("*"))
            if file.is_file() and file.name not in PRIVATE
        }
        publisher = {f"projects/{id}/{PUBLISHER}": _json({"home": self._id()})}
        pointers = ("project.json", "live.json")
        last = {f"projects/{id}/{name}": (folder / name).read_bytes() for name in pointers}
        return {**found, **publisher, **last}

    def _ours(self, id: str) -> bool:
        """Whether a project's folder on the volume may be written: from here, or not there."""
        names = self._listed(f"projects/{id}")
        if not names:
            return True
        if PUBLISHER in names:
            import json

            known = json.loads(self._read(f"projects/{id}/{PUBLISHER}"))
            if known.get("home") == self._id():
                return True
        log.warning("Project %s on Modal belongs to another backend: it is left alone.", id)
        return False

    def _id(self) -> str:
        """Tells this home folder from all others."""
        file = self._home / "home-id.json"
        known = read_json(file)
        if known is None:
            known = {"id": secrets.token_hex(8)}
            write_json(file, known)
        return str(known["id"])

    def _state(self) -> dict[str, Any]:
        """What is to be published, in a few numbers."""
        times = {
            name: (self._home / name).stat().st_mtime
            for name in PLAIN
            if (self._home / name).is_file()
        }
        live = {
            record.id: Versions(self._projects.folder(record.id)).live()
            for record in self._projects.all()
        }
        return {"live": live, "times": times}

    def _write(self, files: Mapping[str, bytes]) -> None:
        with Explained(self._app), self._up.batch_upload(force=True) as batch:
            for path, content in files.items():
                batch.put_file(io.BytesIO(content), f"/{path}")

    def _read(self, path: str) -> bytes:
        volume = self._kept if "/captures/" in path else self._up
        with Explained(self._app):
            return b"".join(volume.read_file(path))

    def _listed(self, folder: str) -> dict[str, float]:
        """Names in a folder, and when each was written, seconds since 1970."""
        volume = self._kept if folder.endswith("/captures") else self._up
        with Explained(self._app), _nothing_there():
            return {PurePosixPath(e.path).name: e.mtime for e in volume.listdir(f"/{folder}")}
        return {}


@contextlib.contextmanager
def _nothing_there() -> Iterator[None]:
    from modal.exception import NotFoundError

    with contextlib.suppress(NotFoundError, FileNotFoundError):
        yield


def _json(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()
