"""Import the labels of a source into a project of Label Studio."""

from __future__ import annotations

from backend.callbacks import ProgressCallback
from backend.domain import ImageSize
from backend.errors import ImageError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.image_fetcher import TaskImageFetcher, make_task_fetcher
from backend.label_studio.label_results import IMPORTED_VERSION
from backend.label_studio.labeling_config import read_config
from backend.onboarding.box_frame import ImageFrame
from backend.onboarding.label_import import (
    LabelImporter,
    LabelImportSummary,
    LabelRole,
    map_labels,
    require_labels,
)
from backend.onboarding.label_sources.source import LabelSource
from backend.onboarding.task_index import LabelTask, TaskIndex
from backend.settings import Settings


class FrameLoader:
    """Reads how the images of tasks are stored, from the folder or from Label Studio.

    Args:
        tasks: the tasks, which may have their images in a folder.
        fetcher: fetches the other images.
        settings: limits of an image.
    """

    def __init__(self, tasks: TaskIndex, fetcher: TaskImageFetcher, settings: Settings) -> None:
        self._tasks = tasks
        self._fetcher = fetcher
        self._max_pixels = settings.max_image_pixels

    def load(self, task: LabelTask) -> ImageFrame:
        """Return how a task's image is stored.

        Raises:
            ImageError: it cannot be fetched or read.
        """
        from backend.vision.images.decode import decode_upright_image

        file = self._tasks.local_file(task.path) if task.path else None
        try:
            content = file.read_bytes() if file else self._fetcher.fetch(task.address, task.id)
        except OSError as error:
            raise ImageError("image file cannot be opened", str(error)) from error
        decoded = decode_upright_image(content, max_pixels=self._max_pixels, min_side=1)
        return ImageFrame(ImageSize(decoded.width, decoded.height), decoded.orientation)


def import_project_labels(
    client: LabelStudioClient,
    settings: Settings,
    number: int,
    source: LabelSource,
    role: LabelRole,
    *,
    known_only: bool,
    progress: ProgressCallback,
) -> LabelImportSummary:
    """Import labels for the tasks of a project.

    Args:
        client: Label Studio.
        settings: limits of an image, and the hosts that images may come from.
        number: the project's.
        source: the labels.
        role: what they become.
        known_only: leave out the labels that the labeling config lacks.
        progress: called with the number of images so far, and of all.

    Raises:
        UsageError: the labeling config lacks labels, or a control for them.
        LabelStudioError: Label Studio refused; what was written stays.
    """
    mapping = map_labels(str(client.get_project(number)["label_config"]), source)
    require_labels(mapping, source, known_only=known_only)
    rows = client.iter_annotation_counts(number)
    image_key = mapping.control.image_key
    tasks = TaskIndex(rows, image_key, source.root, settings.max_image_bytes)
    is_suggestion = role is LabelRole.SUGGESTIONS
    suggested = client.prediction_tasks(number, IMPORTED_VERSION).values() if is_suggestion else ()
    fetcher = make_task_fetcher(client, settings)
    try:
        frames = FrameLoader(tasks, fetcher, settings)
        importer = LabelImporter(client, number, mapping, tasks, frames.load, frozenset(suggested))
        summary = importer.run(source, role, progress)
    finally:
        fetcher.close()
    if is_suggestion:
        show_suggestions(client, number)
    return summary


def show_suggestions(client: LabelStudioClient, number: int) -> None:
    """Point a project at its imported suggestions, unless it shows the predictions of a model.

    A project whose labeling config has ``model_keep_settings`` is not changed.
    """
    project = client.get_project(number)
    if read_config(project["label_config"]).keeps_settings:
        return
    counts = client.prediction_counts(number)
    shown = str(project.get("model_version") or "")
    if counts.get(IMPORTED_VERSION) and not counts.get(shown):
        client.set_model_version(number, IMPORTED_VERSION)
