"""The project that a folder became: made once, found again when somebody starts it again."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.domain import Control, Label
from backend.errors import UsageError
from backend.label_studio.client import Client
from backend.label_studio.labeling_config import read_config
from backend.onboarding.labeling_job import Job
from backend.store.files import read_json, write_json

SHORTEST, LONGEST = 3, 50
"""Characters of a project's title that Label Studio takes."""
DIGEST = "sha256"
"""In a task's data: the hash of its image, by which it is not imported twice."""


@dataclass(frozen=True)
class Started:
    """A project that images of a folder are imported into.

    Attributes:
        number: Label Studio's.
        title: of it.
        config: its labeling config.
    """

    number: int
    title: str
    config: str


class Starts:
    """Which folder became which project.

    The mark of a folder is written here before the project that carries it is made, so that a
    project is found again whenever the start was interrupted.

    Args:
        home: the folder for everything that lasts.
        client: Label Studio.
        folder: of the images.
    """

    def __init__(self, home: Path, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder.resolve()
        key = hashlib.sha256(f"{client.server} {self._folder}".encode()).hexdigest()[:16]
        self._file = home / "starts" / f"{key}.json"

    def find(self) -> Started | None:
        """The project that was made from the folder before; None where there is none any more."""
        mark = (read_json(self._file) or {}).get("mark")
        rows = self._client.described() if mark else []
        found = [row for row in rows if f"[{mark}]" in (row["description"] or "")]
        if not found:
            return None
        number = int(found[0]["id"])
        project = self._client.project(number)
        return Started(number, str(project["title"]), str(project["label_config"]))

    def make(self, title: str, config: str) -> Started:
        """Make the project; its queue will follow the model.

        Raises:
            LabelStudioError: Label Studio refused.
        """
        mark = f"prelabel-{secrets.token_hex(6)}"
        write_json(self._file, {"mark": mark, "folder": str(self._folder)})
        made = self._client.create_project(
            {
                "title": title,
                "description": f"Images of the folder “{self._folder.name}”. [{mark}]",
                "label_config": config,
                "sampling": "Uncertainty sampling",
                "show_collab_predictions": True,
            }
        )
        return Started(int(made["id"]), str(made["title"]), config)


def title_of(folder: Path) -> str:
    """A title that Label Studio takes, from a folder's name."""
    name = folder.resolve().name
    title = name if len(name) >= SHORTEST else f"Images of {name or 'a disk'}"
    return title[:LONGEST]


def check_title(title: str) -> None:
    """Make sure that Label Studio takes a title.

    Raises:
        UsageError: it is too short or too long.
    """
    if not SHORTEST <= len(title) <= LONGEST:
        raise UsageError(
            f"A project's title has {SHORTEST} to {LONGEST} characters in Label Studio, not "
            f"{len(title)}: give another --title."
        )


def asks_for(config: str, job: Job | None, labels: Sequence[Label]) -> bool:
    """Whether a labeling config asks for what options say, as far as they say it.

    Args:
        config: of a project.
        job: None where the options do not decide it.
        labels: as typed; none where none are given.
    """
    controls = read_config(config).controls
    if job is not None:
        controls = tuple(control for control in controls if _fits(control, job))
    names = [one.name for one in labels]
    wanted = ([*names], [*names, f"not {names[0]}"]) if len(names) == 1 else ([*names],)
    return any(not names or list(control.label_names) in wanted for control in controls)


def _fits(control: Control, job: Job) -> bool:
    kind = {Job.BOXES: "boxes", Job.POINTS: "points"}.get(job, "choices")
    if control.kind != kind or control.multiple is not (job is Job.SEVERAL):
        return False
    return job is not Job.BINARY or len(control.label_names) == 2
