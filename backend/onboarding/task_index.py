"""Find the task of an image by its path, its file name, or its content."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backend.label_studio import Json
from backend.label_studio.json_values import read_field
from backend.onboarding.folder_project import DIGEST_FIELD
from backend.onboarding.label_sources.source import clean_path

FILE_FIELD = "file"
"""In a task's data: the path of its image below the imported folder."""
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""
LABEL_SUFFIXES = frozenset({".txt", ".xml", ".json"})
UNKNOWN_IMAGE_REASON = "image that is not in the project"
AMBIGUOUS_IMAGE_REASON = "file name that several images have"


@dataclass(frozen=True)
class LabelTask:
    """A task that labels can be imported for.

    Attributes:
        id: number in Label Studio.
        address: address of its image.
        path: path of its image, as far as it is known.
        annotated: it has an annotation, or was skipped.
        digest: SHA-256 of its image file, hexadecimal; empty if unknown.
    """

    id: int
    address: str
    path: str
    annotated: bool
    digest: str = ""


@dataclass(frozen=True)
class TaskMatch:
    """The task of an image.

    Attributes:
        task: the task.
        is_exact: the whole path or the content is the same; otherwise only the end of the path.
    """

    task: LabelTask
    is_exact: bool


class TaskIndex:
    """The tasks of a project by the paths of their images.

    Args:
        rows: tasks with ``id``, ``data``, ``total_annotations`` and ``cancelled_annotations``.
        image_key: field of the data that holds the image's address.
        folder: folder from which images were imported; finds the task of a copy by its content.
        max_bytes: maximum size of an image.
    """

    def __init__(self, rows: Iterable[Json], image_key: str, folder: Path, max_bytes: int) -> None:
        self._folder = folder.resolve()
        self._max_bytes = max_bytes
        self._by_digest: dict[str, LabelTask] = {}
        self._by_name: dict[str, list[LabelTask]] = defaultdict(list)
        self._by_stem: dict[str, list[LabelTask]] = defaultdict(list)
        self._files_by_stem: dict[str, dict[str, list[str]]] = {}
        for row in rows:
            task = _parse_row(row, image_key)
            name = task.path.rpartition("/")[2]
            self._by_name[name].append(task)
            self._by_stem[PurePosixPath(name).stem].append(task)
            if task.digest:
                self._by_digest[task.digest] = task

    def find(self, paths: Iterable[str], *, by_stem: bool = False) -> TaskMatch | str:
        """Return the task of an image, or why there is none.

        A path matches if the task's path ends with it, or the other way round, at a folder.

        Args:
            paths: where the image may be; the first that matches counts.
            by_stem: the paths have no suffix.
        """
        reason = UNKNOWN_IMAGE_REASON
        for path in paths:
            match = self._find_path(path, by_stem)
            if not (isinstance(match, TaskMatch) and match.is_exact):
                match = self._find_duplicate(path, by_stem) or match
            if isinstance(match, TaskMatch):
                return match
            reason = match or reason
        return reason

    def is_other_file(self, match: TaskMatch, path: str) -> bool:
        """Return whether a task has another image than the file that only has a similar path."""
        has_file = self.local_file(path) is not None
        return not match.is_exact and match.task.digest != "" and has_file

    def local_file(self, path: str) -> Path | None:
        """Return an image file of the folder; None if there is none."""
        file = self._folder / path
        try:
            file = file.resolve()
            is_usable = file.is_relative_to(self._folder) and file.is_file()
            return file if is_usable and file.stat().st_size <= self._max_bytes else None
        except (OSError, ValueError):
            return None

    def _find_path(self, path: str, by_stem: bool) -> TaskMatch | str | None:
        tasks_by_name = self._by_stem if by_stem else self._by_name
        name = path.rpartition("/")[2]
        # Label Studio replaces spaces in the names of uploads
        candidates = tasks_by_name.get(name) or tasks_by_name.get(_upload_name(name)) or []
        exact = [task for task in candidates if _comparable_path(task.path, by_stem) == path]
        if len(exact) == 1:
            return TaskMatch(exact[0], is_exact=True)
        matches = [task for task in candidates if _is_suffix(path, task.path)]
        if len(matches) > 1:
            return AMBIGUOUS_IMAGE_REASON
        return TaskMatch(matches[0], is_exact=False) if matches else None

    def _find_duplicate(self, path: str, by_stem: bool) -> TaskMatch | None:
        """Return the task of another file with the same content, which was imported instead."""
        if not self._by_digest or not path:
            return None
        for name in self._files_with_stem(path) if by_stem else [path]:
            file = self.local_file(name)
            digest = hashlib.sha256(file.read_bytes()).hexdigest() if file else ""
            if digest in self._by_digest:
                return TaskMatch(self._by_digest[digest], is_exact=True)
        return None

    def _files_with_stem(self, path: str) -> list[str]:
        """Return the files with a path without suffix."""
        parent, _, stem = path.rpartition("/")
        if parent not in self._files_by_stem:
            folder, files = (self._folder / parent).resolve(), defaultdict(list)
            is_inside = folder.is_relative_to(self._folder) and folder.is_dir()
            for file in folder.iterdir() if is_inside else ():
                if file.suffix.lower() not in LABEL_SUFFIXES:
                    files[file.stem].append(file.relative_to(self._folder).as_posix())
            self._files_by_stem[parent] = files
        return self._files_by_stem[parent].get(stem, [])


def _parse_row(row: Json, image_key: str) -> LabelTask:
    data = row["data"]
    address = read_field(data, image_key)
    address = address if isinstance(address, str) else ""
    path = clean_path(str(data.get(FILE_FIELD) or ""))
    if not path and not address.startswith("data:"):
        path = clean_path(address)
        if "/upload/" in f"/{path}":
            path = UPLOAD_PREFIX.sub("", path.rpartition("/")[2])
    annotated = bool(row.get("total_annotations") or row.get("cancelled_annotations"))
    digest = str(data.get(DIGEST_FIELD) or "")
    return LabelTask(int(row["id"]), address, path, annotated, digest)


def _is_suffix(path: str, task_path: str) -> bool:
    """Return whether one of two paths with the same name ends with the other."""
    folders = [PurePosixPath(one).parts[:-1][::-1] for one in (path, task_path)]
    return all(a == b for a, b in zip(*folders, strict=False))


def _comparable_path(path: str, by_stem: bool) -> str:
    return path.removesuffix(PurePosixPath(path).suffix) if by_stem else path


def _upload_name(name: str) -> str:
    """Return a file name as Django stores it (``get_valid_filename``)."""
    return re.sub(r"(?u)[^-\w.]", "", name.strip().replace(" ", "_"))
