"""Export a project's labels as files, written by Label Studio's converter."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudioClient
from backend.settings import Settings
from backend.store.files import disk_errors
from backend.tools.output_folder import check_empty_folder, list_written_files


@dataclass(frozen=True)
class ExportedLabels:
    """The exported files.

    Attributes:
        project: project number in Label Studio.
        folder: folder that contains the files.
        files: paths relative to the folder.
        labeled_count: number of tasks with an annotation.
    """

    project: int
    folder: Path
    files: tuple[str, ...]
    labeled_count: int


def export_labels(
    settings: Settings, project: str, export_format: str, with_images: bool, folder: Path | None
) -> ExportedLabels:
    """Export the labels of a project.

    Args:
        settings: settings with Label Studio's address and token.
        project: project number in Label Studio, or title.
        export_format: ``coco`` or ``yolo``.
        with_images: whether to include the images.
        folder: new or empty folder; None creates ``project-<number>-<format>``.

    Raises:
        NotFoundError: the project does not exist.
        UsageError: the folder is not empty.
        ConfigError: the labeling config has no boxes.
        LabelStudioError: Label Studio refused the export or failed.
    """
    client = LabelStudioClient(settings.label_studio_url, settings.api_key)
    number = client.find_project_number(project)
    output_folder = (folder or Path(f"project-{number}-{export_format}")).expanduser()
    check_empty_folder(output_folder)
    labeled_count = int(client.get_project(number).get("num_tasks_with_annotations") or 0)
    name, content = client.export_labels(
        number, export_format.upper() + "_WITH_IMAGES" * with_images
    )
    with disk_errors(output_folder):
        output_folder.mkdir(parents=True, exist_ok=True)
        _unpack(name, content, output_folder)
    return ExportedLabels(number, output_folder, list_written_files(output_folder), labeled_count)


def _unpack(name: str, content: bytes, folder: Path) -> None:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        (folder / Path(name).name).write_bytes(content)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)  # Python strips paths that lead out of the folder
    except zipfile.BadZipFile as error:
        raise LabelStudioError(
            f"Label Studio sent a damaged archive ({error}): try again."
        ) from error
