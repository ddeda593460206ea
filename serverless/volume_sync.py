"""A home folder on one's own machine and the home volume: what goes up, and what comes back.

Live versions, keys and alert rules go up; images that the endpoint kept come back. Labels and
tokens stay here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from backend.endpoint.alert_rules import read_rules
from backend.errors import UsageError
from backend.store.captures import DAY, Captures
from backend.store.files import read_json, write_bytes, write_json
from backend.store.projects import Projects
from backend.store.versions import Versions
from serverless.deployments import deployments
from serverless.modal_client import INSIDE, Explained

log = logging.getLogger("prelabel")
ALERTS = "alerts.toml"
PLAIN = ("keys.json", ALERTS)
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
        files = {
            name: (self._home / name).read_bytes()
            for name in PLAIN
            if (self._home / name).is_file() and (name != ALERTS or self._rules_hold())
        }
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
        known: dict[str, Any] = read_json(note) or {}
        now = self._state()
        if INSIDE or known.get(self._app) == now:
            return
        published = self.publish()
        write_json(note, {**known, self._app: now})
        log.info("Modal's endpoint has the live versions of %s", ", ".join(published) or "nothing")

    def collect(self) -> int:
        """Fetch the images that the endpoint on Modal kept; how many were new.

        What was fetched is known by its time and size there, as clocks differ.

        Raises:
            RoundError: Modal cannot be reached.
        """
        if INSIDE:
            return 0
        return sum(self._fetch(record.id) for record in self._projects.all())

    def forget(self, days: float) -> int:
        """Remove images that came back and are tasks since; how many.

        Args:
            days: that they stay. One that waits to become a task stays longer.
        """
        gone = 0
        for record in self._projects.all():
            captures = Captures(self._projects.folder(record.id))
            waiting = {capture.id for capture in captures.waiting()}
            for capture in list(captures.all()):
                if capture.at < time.time() - days * DAY and capture.id not in waiting:
                    image = captures.image(capture)
                    image.with_name(f"{capture.id}.json").unlink(missing_ok=True)
                    image.unlink(missing_ok=True)
                    gone += 1
        return gone

    def _fetch(self, id: str) -> int:
        """Fetch what one project's endpoint wrote since; how many images were new."""
        note = self._projects.folder(id) / "fetched.json"
        there = self._listed(f"projects/{id}/captures")
        before: dict[str, list[float]] = read_json(note) or {}
        known = {name: stamp for name, stamp in before.items() if name in there}
        new = 0
        try:
            for name in sorted(there, key=lambda name: name.endswith(".json")):  # images first
                if known.get(name) != there[name]:
                    content = self._read(f"projects/{id}/captures/{name}")
                    write_bytes(self._projects.folder(id) / "captures" / name, content)
                    new += name not in known and name.endswith(".json")
                    known[name] = there[name]
        finally:
            if known != before:
                write_json(note, known)
        return new

    def _rules_hold(self) -> bool:
        """Whether the alert rules can be read where the endpoint is; else it keeps those it has."""
        deployed = deployments(self._home).get(self._app)
        secrets = os.environ if deployed is None else dict.fromkeys(deployed, "there")
        try:
            read_rules(self._home / ALERTS, secrets)
        except UsageError as error:
            log.warning(
                "Modal's endpoint keeps the alert rules it has: %s A new secret gets there with "
                "`prelabel deploy`.",
                error,
            )
            return False
        return True

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

    def _listed(self, folder: str) -> dict[str, list[float]]:
        """Names in a folder: when each was written there, seconds since 1970, and its bytes."""
        volume = self._kept if folder.endswith("/captures") else self._up
        with Explained(self._app), _nothing_there():
            entries = volume.listdir(f"/{folder}")
            return {PurePosixPath(e.path).name: [float(e.mtime), float(e.size)] for e in entries}
        return {}


@contextlib.contextmanager
def _nothing_there() -> Iterator[None]:
    from modal.exception import NotFoundError

    with contextlib.suppress(NotFoundError, FileNotFoundError):
        yield


def _json(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()
