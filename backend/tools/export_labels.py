"""A project's labels as files, as Label Studio's own converter writes them."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from backend.errors import LabelStudioError, UsageError
from backend.label_studio.client import LabelStudioClient
from backend.settings import Settings
from backend.store.files import disk_errors


@dataclass(frozen=True)
class ExportedLabels:
    """What was written.

    Attributes:
        project: Label Studio's number.
        folder: where.
        files: relative to it.
        labeled_count: tasks with an annotation.
    """

    project: int
    folder: Path
    files: tuple[str, ...]
    labeled_count: int


def export_labels(
    settings: Settings, project: str, export_format: str, with_images: bool, folder: Path | None
) -> ExportedLabels:
    """Write a project's labels.

    Args:
        settings: with Label Studio's address and token.
        project: its number in Label Studio or its title.
        export_format: ``coco`` or ``yolo``.
        with_images: with the images.
        folder: that is made, or is empty; named after project and format when not given.

    Raises:
        NotFoundError: there is no such project.
        UsageError: there is something in the folder.
        ConfigError: the labeling config has no boxes.
        LabelStudioError: Label Studio refused, or failed.
    """
    client = LabelStudioClient(settings.label_studio_url, settings.api_key)
    number = client.find_project_number(project)
    output_folder = (folder or Path(f"project-{number}-{export_format}")).expanduser()
    if output_folder.exists() and not (output_folder.is_dir() and not any(output_folder.iterdir())):
        raise UsageError(f"{output_folder} is not empty: choose another --output.")
    labeled_count = int(client.get_project(number).get("num_tasks_with_annotations") or 0)
    name, content = client.export_labels(
        number, export_format.upper() + "_WITH_IMAGES" * with_images
    )
    with disk_errors(output_folder):
        output_folder.mkdir(parents=True, exist_ok=True)
        _unpack(name, content, output_folder)
    written_files = sorted(
        str(file.relative_to(output_folder)) for file in output_folder.rglob("*") if file.is_file()
    )
    return ExportedLabels(number, output_folder, tuple(written_files), labeled_count)


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
