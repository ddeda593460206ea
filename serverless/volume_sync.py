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

from backend.endpoint.alert_rules import read_alert_rules
from backend.errors import UsageError
from backend.store.captures import DAY_SECONDS, CaptureStore
from backend.store.files import read_json, write_bytes, write_json
from backend.store.projects import ProjectStore
from backend.store.versions import VersionStore
from serverless.deployments import read_deployments
from serverless.modal_client import RUNNING_ON_MODAL, ModalErrorTranslator

log = logging.getLogger("prelabel")
ALERTS_FILENAME = "alerts.toml"
SYNCED_FILENAMES = ("keys.json", ALERTS_FILENAME)
OWNER_FILENAME = "publisher.json"
"""In a project's folder on the volume: whose home it came from."""
UNSHARED_FILENAMES = frozenset({"labels.json"})
"""Files of a version that nobody needs to answer with."""


class VolumeSync:
    """One home folder and one app's volumes.

    Args:
        home: the folder.
        app: the app's name.
    """

    def __init__(self, home: Path, app: str) -> None:
        import modal

        self._home = home
        self._app = app
        self._projects = ProjectStore(home)
        names = (f"{app}-home", f"{app}-kept")
        self._home_volume, self._endpoint_volume = (
            modal.Volume.from_name(name, create_if_missing=True, version=2) for name in names
        )

    def upload_live_versions(self) -> list[str]:
        """Bring up what changed; the functions that the volume has from here.

        A version's files go first and the pointer to it last, in one batch that appears whole.

        Raises:
            RoundError: Modal cannot be reached.
        """
        if RUNNING_ON_MODAL:
            return []
        files = {
            name: (self._home / name).read_bytes()
            for name in SYNCED_FILENAMES
            if (self._home / name).is_file()
            and (name != ALERTS_FILENAME or self._has_valid_rules())
        }
        uploaded_ids = []
        for record in self._projects.all():
            live_version = VersionStore(self._projects.folder(record.id)).live()
            if live_version and self._is_owned(record.id):
                files |= self._project_files(record.id, live_version)
                uploaded_ids.append(record.id)
        self._upload(files)
        return uploaded_ids

    def upload_if_changed(self) -> None:
        """Bring up what changed since the last time, if anything did; cheap where nothing did."""
        state_file = self._home / "modal-published.json"
        last_states: dict[str, Any] = read_json(state_file) or {}
        current_state = self._upload_state()
        if RUNNING_ON_MODAL or last_states.get(self._app) == current_state:
            return
        uploaded_ids = self.upload_live_versions()
        write_json(state_file, {**last_states, self._app: current_state})
        log.info(
            "Modal's endpoint has the live versions of %s", ", ".join(uploaded_ids) or "nothing"
        )

    def download_captures(self) -> int:
        """Fetch the images that the endpoint on Modal kept; how many were new.

        What was fetched is known by its time and size there, as clocks differ.

        Raises:
            RoundError: Modal cannot be reached.
        """
        if RUNNING_ON_MODAL:
            return 0
        return sum(self._download_project_captures(record.id) for record in self._projects.all())

    def remove_imported_captures(self, days: float) -> int:
        """Remove images that came back and are tasks since; how many.

        Args:
            days: that they stay. One that waits to become a task stays longer.
        """
        removed_count = 0
        for record in self._projects.all():
            captures = CaptureStore(self._projects.folder(record.id))
            pending_ids = {capture.id for capture in captures.pending()}
            for capture in list(captures.all()):
                if capture.at < time.time() - days * DAY_SECONDS and capture.id not in pending_ids:
                    image = captures.image_path(capture)
                    image.with_name(f"{capture.id}.json").unlink(missing_ok=True)
                    image.unlink(missing_ok=True)
                    removed_count += 1
        return removed_count

    def _download_project_captures(self, project_id: str) -> int:
        """Fetch what one project's endpoint wrote since; how many images were new."""
        stamp_file = self._projects.folder(project_id) / "fetched.json"
        remote_stamps = self._list_folder(f"projects/{project_id}/captures")
        previous_stamps: dict[str, list[float]] = read_json(stamp_file) or {}
        fetched_stamps = {
            name: stamp for name, stamp in previous_stamps.items() if name in remote_stamps
        }
        new_count = 0
        try:
            for name in sorted(
                remote_stamps, key=lambda name: name.endswith(".json")
            ):  # images first
                if fetched_stamps.get(name) != remote_stamps[name]:
                    content = self._download(f"projects/{project_id}/captures/{name}")
                    write_bytes(self._projects.folder(project_id) / "captures" / name, content)
                    new_count += name not in fetched_stamps and name.endswith(".json")
                    fetched_stamps[name] = remote_stamps[name]
        finally:
            if fetched_stamps != previous_stamps:
                write_json(stamp_file, fetched_stamps)
        return new_count

    def _has_valid_rules(self) -> bool:
        """Whether the alert rules can be read where the endpoint is; else it keeps those it has."""
        secret_names = read_deployments(self._home).get(self._app)
        secret_values = os.environ if secret_names is None else dict.fromkeys(secret_names, "there")
        try:
            read_alert_rules(self._home / ALERTS_FILENAME, secret_values)
        except UsageError as error:
            log.warning(
                "Modal's endpoint keeps the alert rules it has: %s A new secret gets there with "
                "`prelabel deploy`.",
                error,
            )
            return False
        return True

    def _project_files(self, project_id: str, live_version: str) -> dict[str, bytes]:
        folder = self._projects.folder(project_id)
        version_folder = folder / "versions" / live_version
        version_files = {
            str(file.relative_to(self._home)): file.read_bytes()
            for file in sorted(version_folder.rglob("*"))
            if file.is_file() and file.name not in UNSHARED_FILENAMES
        }
        owner_file = {
            f"projects/{project_id}/{OWNER_FILENAME}": _encode_json({"home": self._home_id()})
        }
        pointers = ("project.json", "live.json")
        pointer_files = {
            f"projects/{project_id}/{name}": (folder / name).read_bytes() for name in pointers
        }
        return {**version_files, **owner_file, **pointer_files}

    def _is_owned(self, project_id: str) -> bool:
        """Whether a project's folder on the volume may be written: from here, or not there."""
        names = self._list_folder(f"projects/{project_id}")
        if not names:
            return True
        if OWNER_FILENAME in names:
            import json

            owner = json.loads(self._download(f"projects/{project_id}/{OWNER_FILENAME}"))
            if owner.get("home") == self._home_id():
                return True
        log.warning("Project %s on Modal belongs to another backend: it is left alone.", project_id)
        return False

    def _home_id(self) -> str:
        """Tells this home folder from all others."""
        file = self._home / "home-id.json"
        id_record = read_json(file)
        if id_record is None:
            id_record = {"id": secrets.token_hex(8)}
            write_json(file, id_record)
        return str(id_record["id"])

    def _upload_state(self) -> dict[str, Any]:
        """What is to be published, in a few numbers."""
        modified_times = {
            name: (self._home / name).stat().st_mtime
            for name in SYNCED_FILENAMES
            if (self._home / name).is_file()
        }
        live_by_project = {
            record.id: VersionStore(self._projects.folder(record.id)).live()
            for record in self._projects.all()
        }
        return {"live": live_by_project, "times": modified_times}

    def _upload(self, files: Mapping[str, bytes]) -> None:
        with ModalErrorTranslator(self._app), self._home_volume.batch_upload(force=True) as batch:
            for path, content in files.items():
                batch.put_file(io.BytesIO(content), f"/{path}")

    def _download(self, path: str) -> bytes:
        volume = self._endpoint_volume if "/captures/" in path else self._home_volume
        with ModalErrorTranslator(self._app):
            return b"".join(volume.read_file(path))

    def _list_folder(self, folder: str) -> dict[str, list[float]]:
        """Names in a folder: when each was written there, seconds since 1970, and its bytes."""
        volume = self._endpoint_volume if folder.endswith("/captures") else self._home_volume
        with ModalErrorTranslator(self._app), _suppress_not_found():
            entries = volume.listdir(f"/{folder}")
            return {PurePosixPath(e.path).name: [float(e.mtime), float(e.size)] for e in entries}
        return {}


@contextlib.contextmanager
def _suppress_not_found() -> Iterator[None]:
    from modal.exception import NotFoundError

    with contextlib.suppress(NotFoundError, FileNotFoundError):
        yield


def _encode_json(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()
