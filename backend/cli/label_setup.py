"""The labels that a folder has already: options, questions, and their import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from backend.cli import terminal
from backend.cli.command import CommandResult
from backend.errors import UsageError

if TYPE_CHECKING:
    from backend.callbacks import LogCallback
    from backend.label_studio.client import LabelStudioClient
    from backend.onboarding.folder_project import StoredLabelChoice
    from backend.onboarding.label_sources.source import LabelSource
    from backend.settings import Settings

LABEL_ROLES = ("annotations", "suggestions")
NO_IMPORT = "none"
LABEL_FORMATS = ("coco", "yolo", "voc", "csv", "folders")
FOLDERS_QUESTION = "Use the folder names as labels? {names}"
FILES_QUESTION = "There are labels in this folder ({description}). Import them?"
ROLE_ANSWERS = {
    "annotations": "yes, people made them: they train the model and measure it",
    "suggestions": "yes, but people shall check each: they are shown as pre-annotations",
    NO_IMPORT: "no",
}
MAX_NAMED_FOLDERS = 8


def add_known_labels_option(parser: argparse._ActionsContainer) -> None:
    """Add the option that leaves out labels which the labeling config lacks."""
    parser.add_argument(
        "--known-labels-only",
        action="store_true",
        help="leave out labels that the labeling config lacks (otherwise nothing is imported)",
    )


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``init`` for labels that exist already."""
    group = parser.add_argument_group(
        "existing labels", "sorted folders, or COCO, YOLO, Pascal VOC or CSV files in FOLDER"
    )
    group.add_argument(
        "--import-labels",
        choices=(*LABEL_ROLES, NO_IMPORT),
        help="import them as annotations, or as suggestions to check (asked; in scripts none)",
    )
    group.add_argument("--label-format", choices=LABEL_FORMATS, help="if there are several formats")
    add_known_labels_option(group)


class LabelSetup:
    """Chooses the labels of a folder that ``init`` imports.

    Args:
        options: options of the command.
        prompter: asks.
        log: prints a line.
    """

    def __init__(
        self, options: argparse.Namespace, prompter: terminal.TerminalPrompter, log: LogCallback
    ) -> None:
        self._options = options
        self._prompter = prompter
        self._log = log
        self.source: LabelSource | None = None
        self.role = NO_IMPORT

    def choose(self, folder: Path, files: list[Path], stored: StoredLabelChoice | None) -> None:
        """Find the labels of a folder, and ask what they become if no option says it.

        Args:
            folder: folder of the images.
            files: its files.
            stored: the choice of an earlier run on the same project; None for a new project.

        Raises:
            UsageError: there are no labels although an option asks for them, or several formats.
        """
        from backend.onboarding.label_sources.find import find_label_sources, load_label_source

        requested = self._options.import_labels or (stored.role if stored else None)
        format = self._options.label_format or (stored.format if stored else None)
        if requested == NO_IMPORT or (not requested and not self._prompter.is_interactive):
            return
        if requested:
            self.source = load_label_source(folder, format, "--label-format")
            self.role = requested
            return
        try:
            sources = find_label_sources(folder, files, format)
        except UsageError as error:  # nobody asked for labels yet
            self._log(f"The labels in this folder cannot be imported. {error}")
            return
        for source in sources:
            role = self._prompter.ask_choice(_question(source), ROLE_ANSWERS, "import-labels")
            if role != NO_IMPORT:
                self.source, self.role = source, role
                return

    @property
    def choice(self) -> StoredLabelChoice:
        """The choice, to be stored with the project."""
        from backend.onboarding.folder_project import StoredLabelChoice

        return StoredLabelChoice(self.role, self.source.format if self.source else None)

    def check_config(self, config: str) -> None:
        """Make sure that a labeling config has the chosen labels, before anything is written.

        Raises:
            UsageError: it lacks labels, or a control for them.
        """
        from backend.onboarding.label_import import map_labels, require_labels

        if self.source is not None:
            mapping = map_labels(config, self.source)
            known_only = bool(self._options.known_labels_only)
            require_labels(mapping, self.source, known_only=known_only)

    def image_files(self, files: list[Path]) -> list[Path]:
        """Return the files without those that hold the labels."""
        return [file for file in files if not self.source or file not in self.source.files]

    def import_into(
        self, client: LabelStudioClient, settings: Settings, number: int
    ) -> CommandResult:
        """Import the chosen labels into a project; return what to add to the result."""
        if self.source is None:
            return {}
        known_only = bool(self._options.known_labels_only)
        labels = import_labels(
            client, settings, number, self.source, self.role, known_only, self._log
        )
        return {"labels": labels}


def import_labels(
    client: LabelStudioClient,
    settings: Settings,
    number: int,
    source: LabelSource,
    role: str,
    known_only: bool,
    log: LogCallback,
) -> CommandResult:
    """Import labels into a project, with progress and a summary for people.

    Raises:
        UsageError: the labeling config lacks labels.
        LabelStudioError: Label Studio refused; what was written stays.
    """
    from backend.onboarding.label_import import LabelRole
    from backend.onboarding.project_labels import import_project_labels

    try:
        summary = import_project_labels(
            client,
            settings,
            number,
            source,
            LabelRole(role),
            known_only=known_only,
            progress=lambda done, total: terminal.show_progress(
                f"Importing labels … {done} of {total} images"
            ),
        )
    except KeyboardInterrupt:
        terminal.clear_progress()
        log("Stopped. The same command continues.")
        raise
    terminal.clear_progress()
    log(
        f"{summary.label_count} label{'' if summary.label_count == 1 else 's'} of "
        f"{summary.image_count} image{'' if summary.image_count == 1 else 's'} imported as {role}."
    )
    for line in summary.skipped.format_skipped():
        log(f"  labels left out: {line}")
    return {
        "format": source.format,
        "as": role,
        "images": summary.image_count,
        "imported": summary.label_count,
        "left_out": dict(summary.skipped.skipped_counts),
    }


def _question(source: LabelSource) -> str:
    if source.format != "folders":
        return FILES_QUESTION.format(description=source.description)
    names = ", ".join(source.label_names[:MAX_NAMED_FOLDERS])
    more = ", …" if len(source.label_names) > MAX_NAMED_FOLDERS else ""
    return FOLDERS_QUESTION.format(names=names + more)
