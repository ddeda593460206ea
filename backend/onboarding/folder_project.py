"""The project that a folder became: made once, found again when somebody starts it again."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.domain import Control, Label
from backend.errors import UsageError
from backend.label_studio.client import UNCERTAINTY_SAMPLING, LabelStudioClient
from backend.label_studio.labeling_config import read_config
from backend.onboarding.labeling_job import LabelingJob
from backend.store.record_files import read_record, write_record

MIN_TITLE_LENGTH, MAX_TITLE_LENGTH = 3, 50
"""Characters of a project's title that Label Studio takes."""
DIGEST_FIELD = "sha256"
"""In a task's data: the hash of its image, by which it is not imported twice."""


@dataclass(frozen=True)
class FolderProject:
    """A project that images of a folder are imported into.

    Attributes:
        number: Label Studio's.
        title: of it.
        config: its labeling config.
    """

    number: int
    title: str
    config: str


@dataclass(frozen=True)
class StartedFolder:
    """A folder that became a project.

    Attributes:
        mark: text in the project's description, by which it is found again.
        folder: path of the folder.
    """

    mark: str
    folder: str = ""


class FolderProjects:
    """Which folder became which project.

    The mark of a folder is written here before the project that carries it is made, so that a
    project is found again whenever the start was interrupted.

    Args:
        home: the folder for everything that lasts.
        client: Label Studio.
        folder: of the images.
    """

    def __init__(self, home: Path, client: LabelStudioClient, folder: Path) -> None:
        self._client = client
        self._folder = folder.resolve()
        key = hashlib.sha256(f"{client.server} {self._folder}".encode()).hexdigest()[:16]
        self._file = home / "starts" / f"{key}.json"

    def find(self) -> FolderProject | None:
        """The project that was made from the folder before; None where there is none any more."""
        stored = read_record(self._file, StartedFolder)
        marker = stored.mark if stored else ""
        rows = self._client.list_project_descriptions() if marker else []
        matches = [row for row in rows if f"[{marker}]" in (row["description"] or "")]
        if not matches:
            return None
        number = int(matches[0]["id"])
        project = self._client.get_project(number)
        return FolderProject(number, str(project["title"]), str(project["label_config"]))

    def create(self, title: str, config: str) -> FolderProject:
        """Make the project; its queue will follow the model.

        Raises:
            LabelStudioError: Label Studio refused.
        """
        marker = f"prelabel-{secrets.token_hex(6)}"
        write_record(self._file, StartedFolder(marker, str(self._folder)))
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
    """A title that Label Studio takes, from a folder's name."""
    name = folder.resolve().name
    title = name if len(name) >= MIN_TITLE_LENGTH else f"Images of {name or 'a disk'}"
    return title[:MAX_TITLE_LENGTH]


def validate_title(title: str) -> None:
    """Make sure that Label Studio takes a title.

    Raises:
        UsageError: it is too short or too long.
    """
    if not MIN_TITLE_LENGTH <= len(title) <= MAX_TITLE_LENGTH:
        raise UsageError(
            f"A project's title has {MIN_TITLE_LENGTH} to {MAX_TITLE_LENGTH} characters "
            "in Label Studio, not "
            f"{len(title)}: give another --title."
        )


def matches_options(config: str, job: LabelingJob | None, labels: Sequence[Label]) -> bool:
    """Whether a labeling config asks for what options say, as far as they say it.

    Args:
        config: of a project.
        job: None where the options do not decide it.
        labels: as typed; none where none are given.
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
