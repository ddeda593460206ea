"""Create the project of a folder once, and find it when ``prelabel init`` runs again."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.domain import Control, Label
from backend.errors import UsageError
from backend.label_studio.client import UNCERTAINTY_SAMPLING, LabelStudioClient
from backend.label_studio.labeling_config import read_config
from backend.onboarding.labeling_job import LabelingJob
from backend.store.record_files import read_record, write_record

MIN_TITLE_LENGTH, MAX_TITLE_LENGTH = 3, 50
"""Length of a project's title in characters that Label Studio accepts."""
DIGEST_FIELD = "sha256"
"""Field of the task data with the hash of the image, which prevents importing it twice."""


@dataclass(frozen=True)
class FolderProject:
    """A project that was created from a folder.

    Attributes:
        number: project number in Label Studio.
        title: title of the project.
        config: labeling config.
    """

    number: int
    title: str
    config: str


@dataclass(frozen=True)
class StoredLabelChoice:
    """What the labels of a folder become, so that an interrupted import continues.

    Attributes:
        role: ``annotations``, ``suggestions`` or ``none``.
        format: format of the labels; None without labels.
    """

    role: str = "none"
    format: str | None = None


@dataclass(frozen=True)
class StartedFolder:
    """A folder that became a project.

    Attributes:
        mark: text in the project's description, by which it is found again.
        folder: path of the folder.
        labels: what its labels become; none in files of early releases.
    """

    mark: str
    folder: str = ""
    labels: StoredLabelChoice = field(default_factory=StoredLabelChoice)


class FolderProjects:
    """Creates and finds the project of a folder.

    A random marker is stored in the home folder before a project with the marker in its
    description is created, so that the project is found even if ``init`` was interrupted.

    Args:
        home: home folder.
        client: client of Label Studio.
        folder: folder with the images.
    """

    def __init__(self, home: Path, client: LabelStudioClient, folder: Path) -> None:
        self._client = client
        self._folder = folder.resolve()
        key = hashlib.sha256(f"{client.server} {self._folder}".encode()).hexdigest()[:16]
        self._file = home / "starts" / f"{key}.json"

    def find(self) -> FolderProject | None:
        """Return the project that was created from the folder; None if it no longer exists."""
        stored = read_record(self._file, StartedFolder)
        marker = stored.mark if stored else ""
        rows = self._client.list_project_descriptions() if marker else []
        matches = [row for row in rows if f"[{marker}]" in (row["description"] or "")]
        if not matches:
            return None
        number = int(matches[0]["id"])
        project = self._client.get_project(number)
        return FolderProject(number, str(project["title"]), str(project["label_config"]))

    def label_choice(self) -> StoredLabelChoice:
        """Return what the labels of the folder became in the project that was made before."""
        stored = read_record(self._file, StartedFolder)
        return stored.labels if stored else StoredLabelChoice()

    def create(
        self, title: str, config: str, label_choice: StoredLabelChoice | None = None
    ) -> FolderProject:
        """Create a project whose queue is sorted by prediction score.

        Args:
            title: title of the project.
            config: labeling config.
            label_choice: what the labels of the folder become.

        Raises:
            LabelStudioError: the request failed.
        """
        marker = f"prelabel-{secrets.token_hex(6)}"
        labels = label_choice or StoredLabelChoice()
        write_record(self._file, StartedFolder(marker, str(self._folder), labels))
        created = self._client.create_project(
            {
                "title": title,
                "description": f"Images of the folder “{self._folder.name}”. [{marker}]",
                "label_config": config,
                "sampling": UNCERTAINTY_SAMPLING,
                "show_collab_predictions": True,
            }
        )
        return FolderProject(int(created["id"]), str(created["title"]), config)


def default_title(folder: Path) -> str:
    """Return a title from the name of a folder, within the length limits."""
    name = folder.resolve().name
    title = name if len(name) >= MIN_TITLE_LENGTH else f"Images of {name or 'a disk'}"
    return title[:MAX_TITLE_LENGTH]


def validate_title(title: str) -> None:
    """Check the length of a title.

    Raises:
        UsageError: it is too short or too long.
    """
    if not MIN_TITLE_LENGTH <= len(title) <= MAX_TITLE_LENGTH:
        raise UsageError(
            f"In Label Studio the title of a project has {MIN_TITLE_LENGTH} to {MAX_TITLE_LENGTH} "
            f"characters, not {len(title)}: choose another --title."
        )


def matches_options(config: str, job: LabelingJob | None, labels: Sequence[Label]) -> bool:
    """Return whether a labeling config matches the options of a command.

    Args:
        config: labeling config of a project.
        job: job that the options choose; None matches any job.
        labels: labels in the options; an empty sequence matches any labels.
    """
    controls = read_config(config).controls
    if job is not None:
        controls = tuple(control for control in controls if _control_matches(control, job))
    names = [label.name for label in labels]
    accepted_labels = ([*names], [*names, f"not {names[0]}"]) if len(names) == 1 else ([*names],)
    return any(not names or list(control.label_names) in accepted_labels for control in controls)


def _control_matches(control: Control, job: LabelingJob) -> bool:
    kind = {LabelingJob.BOXES: "boxes", LabelingJob.POINTS: "points"}.get(job, "choices")
    if control.kind != kind or control.multiple is not (job is LabelingJob.MULTIPLE_CHOICE):
        return False
    return job is not LabelingJob.BINARY or len(control.label_names) == 2
