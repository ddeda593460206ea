"""A project's labels as files, as Label Studio's own converter writes them."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from backend.errors import LabelStudioError, NotThere, UsageError
from backend.label_studio.export_client import Exporter
from backend.settings import Settings
from backend.store.files import explained


@dataclass(frozen=True)
class Labels:
    """What was written.

    Attributes:
        project: Label Studio's number.
        folder: where.
        files: relative to it.
        labels: tasks with an annotation.
    """

    project: int
    folder: Path
    files: tuple[str, ...]
    labels: int


def write_labels(
    settings: Settings, project: str, form: str, images: bool, folder: Path | None
) -> Labels:
    """Write a project's labels.

    Args:
        settings: with Label Studio's address and token.
        project: its number in Label Studio or its title.
        form: ``coco`` or ``yolo``.
        images: with the images.
        folder: that is made, or is empty; named after project and format when not given.

    Raises:
        NotThere: there is no such project.
        UsageError: there is something in the folder.
        ConfigError: the labeling config has no boxes.
        LabelStudioError: Label Studio refused, or failed.
    """
    exporter = Exporter(settings.label_studio_url, settings.api_key)
    number = _number(exporter, project)
    target = (folder or Path(f"project-{number}-{form}")).expanduser()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} is not empty: choose another --output.")
    count = int(exporter.project(number).get("num_tasks_with_annotations") or 0)
    name, content = exporter.export(number, form.upper() + "_WITH_IMAGES" * images)
    with explained(target):
        target.mkdir(parents=True, exist_ok=True)
        _unpack(name, content, target)
    found = sorted(str(file.relative_to(target)) for file in target.rglob("*") if file.is_file())
    return Labels(number, target, tuple(found), count)


def _number(exporter: Exporter, named: str) -> int:
    if named.isdigit():
        return int(exporter.project(int(named))["id"])
    found = [row["id"] for row in exporter.projects() if row["title"] == named]
    if len(found) != 1:
        raise NotThere(f"{exporter.server} has {len(found)} projects {named!r}: give its number.")
    return int(found[0])


def _unpack(name: str, content: bytes, folder: Path) -> None:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        (folder / Path(name).name).write_bytes(content)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)  # names that lead out of the folder are cut by Python
    except zipfile.BadZipFile as error:
        raise LabelStudioError(
            f"Label Studio sent a damaged archive ({error}): try again."
        ) from error
