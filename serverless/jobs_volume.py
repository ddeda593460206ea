"""The jobs volume on Modal: upload, list and remove its files.

Layout: ``pictures/<2 hex digits>/<digest>`` are images, ``weights/<digest>/<file>`` base weights,
``networks/<key>/`` networks for batch inference, and ``orders/<id>/`` training orders with their
input files and, after the training, ``result/``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from serverless.modal_errors import JobFailedError, suppress_not_found, translate_modal_errors

if TYPE_CHECKING:
    from modal.types import FileEntry

ORDERS_FOLDER, IMAGES_FOLDER = "orders", "pictures"
WEIGHTS_FOLDER, NETWORKS_FOLDER = "weights", "networks"
ORDER_FILENAME, COMPLETION_FILENAME = "order.json", "done.json"
PREVIOUS_FOLDER, RESULT_FOLDER = "previous", "result"
"""Folders of an order: the model to fine-tune, and the trained model."""


def image_path(digest: str) -> str:
    """Return the path of an image, which is also the path of its copy in ``PRELABEL_HOME``."""
    return f"{IMAGES_FOLDER}/{digest[:2]}/{digest}"


class JobsVolume:
    """The jobs volume of one app.

    Args:
        app: name of the app.
    """

    def __init__(self, app: str) -> None:
        import modal

        self._app = app
        self._volume = modal.Volume.from_name(f"{app}-jobs", create_if_missing=True, version=2)
        self._name_cache: dict[str, set[str]] = {}

    def upload(self, files: Mapping[str, bytes | Path]) -> None:
        """Upload contents or local files by path; Modal deduplicates them."""
        with translate_modal_errors(self._app), self._volume.batch_upload(force=True) as batch:
            for path, content in files.items():
                source = io.BytesIO(content) if isinstance(content, bytes) else content
                batch.put_file(source, f"/{path}")
        for path in files:
            entry = _entry_path(path)
            self._name_cache.get(path.partition("/")[0], set()).add(entry.rpartition("/")[2])

    def download(self, path: str) -> bytes:
        """Return the content of a file.

        Raises:
            JobFailedError: the file does not exist.
            ModalUnreachableError: Modal cannot be reached.
        """
        with translate_modal_errors(self._app):
            with suppress_not_found():
                return b"".join(self._volume.read_file(path))
            raise JobFailedError("The training result is no longer on Modal: train again.")

    def remove(self, path: str) -> None:
        """Remove a file or folder, if it exists."""
        with translate_modal_errors(self._app), suppress_not_found():
            self._volume.remove_file(f"/{path}", recursive=True)

    def remove_stale(self, folder: str, cutoff: float, max_removed: int) -> int:
        """Remove the entries of a folder that were last written before a cutoff, oldest first.

        Args:
            folder: a top-level folder.
            cutoff: seconds since 1970; an entry is kept if any of its files was written later.
            max_removed: maximum number of entries to remove.

        Returns:
            the number of removed entries.
        """
        last_written: dict[str, float] = {}
        for file in self._list_entries(folder):
            if file.type.name == "FILE":
                entry = _entry_path(file.path.lstrip("/"))
                last_written[entry] = max(last_written.get(entry, 0.0), float(file.mtime))
        stale = sorted((at, entry) for entry, at in last_written.items() if 0 < at < cutoff)
        for _, entry in stale[:max_removed]:
            self.remove(entry)
        self._name_cache.pop(folder, None)
        return len(stale[:max_removed])

    def list_names(self, folder: str) -> set[str]:
        """Return the names of a top-level folder's images or subfolders; they are cached."""
        if folder not in self._name_cache:
            is_images = folder == IMAGES_FOLDER
            entry_type = "FILE" if is_images else "DIRECTORY"
            entries = self._list_entries(folder, recursive=is_images)
            self._name_cache[folder] = {
                entry.path.rpartition("/")[2] for entry in entries if entry.type.name == entry_type
            }
        return self._name_cache[folder]

    def clear_name_cache(self) -> None:
        """Clear the cache of :meth:`list_names`, because an entry was removed from the volume."""
        self._name_cache.clear()

    def _list_entries(self, folder: str, *, recursive: bool = True) -> list[FileEntry]:
        with translate_modal_errors(self._app):
            with suppress_not_found():
                return list(self._volume.listdir(f"/{folder}", recursive=recursive))
            return []


def _entry_path(path: str) -> str:
    """Return the path of the entry that a file belongs to: the image itself, or a subfolder."""
    parts = path.split("/")
    return "/".join(parts if parts[0] == IMAGES_FOLDER else parts[:2])
