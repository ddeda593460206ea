"""Synchronize ``PRELABEL_HOME`` on this machine with the app's volumes on Modal.

Live versions, API keys and alert rules are uploaded. Captured images are downloaded. Labels and
tokens stay on this machine.
"""

from __future__ import annotations

import io
import json
import logging
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from backend.endpoint.alert_rules import ALERT_RULES_FILENAME, read_alert_rules
from backend.errors import UsageError
from backend.store.audit_predictions import AUDIT_PREDICTIONS_FILE
from backend.store.captures import DAY_SECONDS, CaptureStore
from backend.store.files import write_bytes, write_json
from backend.store.projects import ProjectStore
from backend.store.record_files import (
    has_equal_copies,
    read_backed_up,
    read_cache,
    read_record,
    write_backed_up,
)
from backend.store.versions import PUBLISHER_FILE, VersionStore
from serverless.modal_client import RUNNING_ON_MODAL
from serverless.modal_errors import suppress_not_found, translate_modal_errors

log = logging.getLogger("prelabel")
DEPLOYMENTS_FILENAME = "modal-deployed.json"
SYNCED_FILENAMES = ("keys.json", ALERT_RULES_FILENAME)
OWNER_FILENAME = PUBLISHER_FILE
"""File in a project's folder on the volume, with the id of the PRELABEL_HOME that uploaded it."""
UNSHARED_FILENAMES = frozenset({"labels.json", AUDIT_PREDICTIONS_FILE})
"""Files of a version that are not needed for predictions."""


def read_deployments(home: Path) -> dict[str, list[str]]:
    """Return the apps deployed from a folder, with the names of each endpoint's secrets."""
    return read_record(home / DEPLOYMENTS_FILENAME, dict[str, list[str]]) or {}


def record_deployment(home: Path, app: str, secret_names: Iterable[str]) -> None:
    """Record the deployment of an app from a folder, and the names of its endpoint's secrets."""
    write_json(home / DEPLOYMENTS_FILENAME, {**read_deployments(home), app: sorted(secret_names)})


class VolumeSync:
    """Synchronize one ``PRELABEL_HOME`` with the volumes of one app.

    Args:
        home: the folder.
        app: name of the app.
    """

    def __init__(self, home: Path, app: str) -> None:
        import modal

        self._home = home
        self._app = app
        self._projects = ProjectStore(home)
        self._home_volume, self._endpoint_volume = (
            modal.Volume.from_name(f"{app}-{name}", create_if_missing=True, version=2)
            for name in ("home", "kept")
        )

    # -- upload -----------------------------------------------------------------------------

    def upload_live_versions(self) -> list[str]:
        """Upload live versions, API keys and alert rules; return the ids of the projects.

        They are uploaded as one atomic batch, in which a version's files precede its pointer.

        Raises:
            RoundError: Modal cannot be reached.
        """
        if RUNNING_ON_MODAL:
            return []
        files = {
            name: (self._home / name).read_bytes()
            for name in SYNCED_FILENAMES
            if (self._home / name).is_file()
            and (name != ALERT_RULES_FILENAME or self._has_valid_rules())
        }
        uploaded_ids = []
        for record in self._projects.all():
            live_version = VersionStore(self._projects.folder(record.id)).live()
            if live_version and self._is_owned(record.id):
                files |= self._project_files(record.id, live_version)
                uploaded_ids.append(record.id)
        with translate_modal_errors(self._app), self._home_volume.batch_upload(force=True) as batch:
            for path, content in files.items():
                batch.put_file(io.BytesIO(content), f"/{path}")
        return uploaded_ids

    def upload_if_changed(self) -> None:
        """Upload if something has changed since the last upload; otherwise make no request."""
        state_file = self._home / "modal-published.json"
        last_states = read_cache(state_file, dict[str, object], {})
        current_state = self._upload_state()
        if RUNNING_ON_MODAL or last_states.get(self._app) == current_state:
            return
        uploaded_ids = self.upload_live_versions()
        write_json(state_file, {**last_states, self._app: current_state})
        log.info(
            "Uploaded the live versions of these projects to Modal: %s",
            ", ".join(uploaded_ids) or "none",
        )

    def _upload_state(self) -> dict[str, Mapping[str, object]]:
        """Return the live versions and the modification times, which determine an upload."""
        files = [self._home / name for name in SYNCED_FILENAMES]
        live_by_project = {
            record.id: VersionStore(self._projects.folder(record.id)).live()
            for record in self._projects.all()
        }
        times = {file.name: file.stat().st_mtime for file in files if file.is_file()}
        return {"live": live_by_project, "times": times}

    def _has_valid_rules(self) -> bool:
        """Whether the alert rules are valid with the deployed secrets of the endpoint."""
        secret_names = read_deployments(self._home).get(self._app)
        environment = os.environ if secret_names is None else dict.fromkeys(secret_names, "set")
        try:
            read_alert_rules(self._home / ALERT_RULES_FILENAME, environment)
        except UsageError as error:
            log.warning(
                "The endpoint on Modal keeps its previous alert rules: %s Upload new secrets with "
                "`prelabel deploy`.",
                error,
            )
            return False
        return True

    def _project_files(self, project_id: str, live_version: str) -> dict[str, bytes]:
        folder = self._projects.folder(project_id)
        version_files = {
            str(file.relative_to(self._home)): file.read_bytes()
            for file in sorted((folder / "versions" / live_version).rglob("*"))
            if file.is_file() and file.name not in UNSHARED_FILENAMES
        }
        owner = json.dumps({"home": self._home_id()}).encode()
        pointer_files = {
            f"projects/{project_id}/{name}": (folder / name).read_bytes()
            for name in ("project.json", "live.json")
        }
        return {**version_files, f"projects/{project_id}/{OWNER_FILENAME}": owner, **pointer_files}

    def _is_owned(self, project_id: str) -> bool:
        """Whether the project's folder is not on the volume, or this home folder uploaded it."""
        names = self._list_folder(f"projects/{project_id}")
        if not names:
            return True
        if OWNER_FILENAME in names:
            owner = json.loads(self._download(f"projects/{project_id}/{OWNER_FILENAME}"))
            if owner.get("home") == self._home_id():
                return True
        log.warning("Project %s on Modal belongs to another backend and is skipped.", project_id)
        return False

    def _home_id(self) -> str:
        """Return the random id of this ``PRELABEL_HOME``; create it if it is missing."""
        file = self._home / "home-id.json"
        id_record = read_backed_up(file, dict[str, str], check=_check_home_id)
        if id_record is None:
            id_record = {"id": secrets.token_hex(8)}
        if not has_equal_copies(file):
            write_backed_up(file, id_record)
        return id_record["id"]

    # -- download ---------------------------------------------------------------------------

    def download_captures(self) -> int:
        """Download the endpoint's captured images; return the number of new ones.

        Changes are detected by modification time and size on the volume, since clocks differ.

        Raises:
            RoundError: Modal cannot be reached.
        """
        if RUNNING_ON_MODAL:
            return 0
        return sum(self._download_project_captures(record.id) for record in self._projects.all())

    def _download_project_captures(self, project_id: str) -> int:
        stamp_file = self._projects.folder(project_id) / "fetched.json"
        remote_stamps = self._list_folder(f"projects/{project_id}/captures")
        previous_stamps = read_cache(stamp_file, dict[str, list[float]], {})
        stamps = {name: stamp for name, stamp in previous_stamps.items() if name in remote_stamps}
        images_first = sorted(remote_stamps, key=lambda name: name.endswith(".json"))
        new_count = 0
        try:
            for name in images_first:
                if stamps.get(name) != remote_stamps[name]:
                    content = self._download(f"projects/{project_id}/captures/{name}")
                    write_bytes(self._projects.folder(project_id) / "captures" / name, content)
                    new_count += name not in stamps and name.endswith(".json")
                    stamps[name] = remote_stamps[name]
        finally:
            if stamps != previous_stamps:
                write_json(stamp_file, stamps)
        return new_count

    def remove_imported_captures(self, days: float) -> int:
        """Remove old captured images that were imported as tasks; return their number.

        Args:
            days: minimum age of the removed images; those not imported yet are kept.
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

    def _download(self, path: str) -> bytes:
        volume = self._endpoint_volume if "/captures/" in path else self._home_volume
        with translate_modal_errors(self._app):
            return b"".join(volume.read_file(path))

    def _list_folder(self, folder: str) -> dict[str, list[float]]:
        """Return [modification time, size] of each entry of a folder by name."""
        volume = self._endpoint_volume if folder.endswith("/captures") else self._home_volume
        with translate_modal_errors(self._app), suppress_not_found():
            entries = volume.listdir(f"/{folder}")
            return {PurePosixPath(e.path).name: [float(e.mtime), float(e.size)] for e in entries}
        return {}


def _check_home_id(record: Mapping[str, str]) -> None:
    if not record.get("id"):
        raise TypeError("it has no id")
