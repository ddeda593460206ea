"""Export the labels of a project as a dataset for training elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backend.callbacks import ProgressCallback
from backend.errors import ImageError, NotFoundError, UsageError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.labeling_config import read_config
from backend.runtime.connection import parse_created_at
from backend.runtime.project_session import ProjectSession
from backend.settings import Settings
from backend.store.projects import ProjectRecord, ProjectStore
from backend.store.servers import is_same_server
from backend.tools.dataset.export_formats import make_writer
from backend.tools.dataset.image_files import ExportImages
from backend.tools.dataset.labels import PREDICTED_SPLIT, Dataset
from backend.tools.dataset.read_dataset import read_dataset
from backend.tools.dataset.tables import write_image_table
from backend.tools.dataset.writer import DatasetWriter
from backend.tools.output_folder import check_empty_folder, write_output_folder

NO_CHOICES_MESSAGE = (
    "--predictions exports choices, and the labeling config has none. `prelabel predict` predicts "
    "boxes and points of image files."
)


@dataclass(frozen=True)
class ExportedLabels:
    """The exported files.

    Attributes:
        folder: folder that contains the files.
        files: relative paths.
        tasks: number of tasks whose labels are exported.
        accepted: of these, those with a prediction that Prelabel accepted.
        splits: number of images by split.
        is_val_audit: the split ``val`` is the audit set.
        left_out: number of things that are not exported, by reason.
        unreadable: task → why its image is left out.
        predicted: number of open tasks with a prediction.
    """

    folder: Path
    files: tuple[str, ...]
    tasks: int
    accepted: int
    splits: Mapping[str, int]
    is_val_audit: bool
    left_out: Mapping[str, int]
    unreadable: Mapping[int, str]
    predicted: int = 0


def find_unconnected_project(settings: Settings, project: str) -> ProjectRecord:
    """Return a project of the Label Studio of the settings that need not be connected.

    Args:
        settings: settings with Label Studio's address and token.
        project: its number in Label Studio, or its title.

    Raises:
        NotFoundError: the project does not exist.
        LabelStudioError: Label Studio cannot be reached or refuses the token.
    """
    client = LabelStudioClient(settings.label_studio_url, settings.api_key)
    details = client.get_project(client.find_project_number(project))
    number, created = details["id"], parse_created_at(str(details.get("created_at") or ""))
    for record in ProjectStore(settings.home).find_by_number(number, created):
        if not record.server or is_same_server(record.server, settings.label_studio_url):
            return record
    return ProjectRecord(f"{number}-unconnected", "", number, created)


def export_labels(
    session: ProjectSession,
    format_name: str,
    with_images: bool,
    folder: Path | None,
    progress: ProgressCallback,
    *,
    with_predictions: bool = False,
) -> ExportedLabels:
    """Export the labels of a project, as training sees them and with accepted predictions.

    Args:
        session: session of the project.
        format_name: ``coco``, ``yolo``, ``csv`` or ``folders``.
        with_images: include the images; ``folders`` always has them.
        folder: new or empty; named after project and format when not given.
        progress: receives the number of finished and of all images.
        with_predictions: include the choices that the live version predicts for open tasks.

    Raises:
        UsageError: the folder is not empty, or the project has no predicted choices.
        ConfigError: the labeling config has nothing that the format holds.
        NotFoundError: no task is labeled, or there is no live version.
        ImageError: no image can be read.
        LabelStudioError: Label Studio refused a request or cannot be reached.
        StoreError: the folder cannot be written.
    """
    output_folder = (folder or Path(f"project-{session.number}-{format_name}")).expanduser()
    check_empty_folder(output_folder)
    project = session.connection.client.get_project(session.number)
    config = read_config(str(project.get("label_config") or ""))
    version = _live_version(session) if with_predictions else ""
    controls = [c for c in config.controls if c.is_choices] if version else config.controls
    if not controls and version:
        raise UsageError(NO_CHOICES_MESSAGE)
    writer = make_writer(format_name, controls)
    title = str(project.get("title") or "")
    dataset = read_dataset(session, config, title, writer.controls, version)
    if not dataset.images:
        raise NotFoundError(
            f"No task of project {session.number} has labels for {writer.title} yet: label a few "
            "images first."
        )
    export = _DatasetExport(session, writer, dataset, with_images or writer.needs_files, progress)
    files = write_output_folder(output_folder, export.write_files)
    return export.summarize(output_folder, files)


def _live_version(session: ProjectSession) -> str:
    version = session.versions.live()
    if version is None:
        raise NotFoundError(
            f"Project {session.number} has no live version that predicts: connect it and label a "
            "few images first."
        )
    return version


class _DatasetExport:
    """Fetches the images of a dataset and writes its files."""

    def __init__(
        self,
        session: ProjectSession,
        writer: DatasetWriter,
        dataset: Dataset,
        with_images: bool,
        progress: ProgressCallback,
    ) -> None:
        self._session = session
        self._writer = writer
        self._dataset = dataset
        self._with_images = with_images
        self._progress = progress
        self._unreadable: Mapping[int, str] = {}

    def write_files(self, folder: Path) -> None:
        """Write images, labels, and the table of the images."""
        if self._with_images or self._writer.needs_sizes:
            self._fetch_images(folder)
        self._writer.write_labels(folder, self._dataset)
        write_image_table(folder, self._dataset)

    def _fetch_images(self, folder: Path) -> None:
        fetched = ExportImages(self._session, folder).fetch(
            self._dataset.images,
            self._writer.image_places if self._with_images else None,
            self._progress,
        )
        if not fetched.images:
            number, (task, error) = self._session.number, next(iter(fetched.errors.items()))
            raise ImageError(
                f"no image of project {number} can be read",
                f"that of task {task} for this reason: {error}",
            )
        left_out = self._dataset.left_out + fetched.reasons
        self._unreadable = fetched.errors
        self._dataset = replace(self._dataset, images=tuple(fetched.images), left_out=left_out)

    def summarize(self, folder: Path, files: tuple[str, ...]) -> ExportedLabels:
        """Return what was written."""
        images = self._dataset.images
        tasks = {image.task.id: image.task for image in images if image.split != PREDICTED_SPLIT}
        return ExportedLabels(
            folder,
            files,
            len(tasks),
            sum(task.auto_accepted for task in tasks.values()),
            Counter(image.split for image in images),
            self._dataset.is_val_audit,
            self._dataset.left_out,
            self._unreadable,
            len({image.task.id for image in images} - tasks.keys()),
        )
