"""``prelabel init``: from a folder of images to a project that learns, by a few questions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.cli import addresses, backend_setup, terminal
from backend.errors import AccessDeniedError, UsageError
from backend.settings import Settings, read_settings

if TYPE_CHECKING:
    from backend.domain import Label
    from backend.label_studio.client import LabelStudioClient
    from backend.onboarding.folder_project import FolderProject
    from backend.onboarding.image_folder import ImageLimits
    from backend.onboarding.image_import import ImportSummary
    from backend.onboarding.labeling_job import LabelingJob

HELP = "from a folder of images to a Label Studio project that learns, by a few questions"
EXAMPLE = "prelabel init ~/photos --serve"
JOB_NAMES = ("binary", "one-of-many", "several-of-many", "boxes", "points")
LABELS_QUESTION = (
    "Which labels? Separate them by commas. A few words on what one looks like help before the "
    "first annotation: ripe = a red fruit, unripe = a green fruit (with a semicolon between "
    "labels, descriptions may hold commas)"
)
INTERRUPTED_MESSAGE = "Stopped; run it again to go on: {command}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command; each question has one."""
    parser.add_argument(
        "folder", nargs="?", metavar="FOLDER", help="the images, also in subfolders"
    )
    answer_group = parser.add_argument_group("answers", "what is not given here is asked")
    answer_group.add_argument(
        "--job", choices=JOB_NAMES, help="the job itself, instead of the questions"
    )
    answer_group.add_argument(
        "--goal", choices=("sort", "find"), help="sort whole images, or find things"
    )
    answer_group.add_argument("--place", choices=("yes", "no"), help="place or number matters")
    answer_group.add_argument(
        "--small", choices=("yes", "no"), help="a small part of a busy picture"
    )
    answer_group.add_argument(
        "--mark", choices=("click", "box"), help="a click on the middle, or a box"
    )
    answer_group.add_argument("--several", choices=("yes", "no"), help="several labels at once")
    answer_group.add_argument(
        "--labels",
        action="append",
        metavar="A,B",
        help="the labels; `name = what it looks like` gives a hint, `;` allows commas in it",
    )
    answer_group.add_argument("--title", help="of the project (the folder's name)")
    answer_group.add_argument(
        "--new", action="store_true", help="another project of the same folder"
    )
    backend_group = parser.add_argument_group("backend")
    backend_group.add_argument(
        "--backend",
        metavar="URL",
        help=f"where it listens, as Label Studio reaches it ({addresses.DEFAULT_BACKEND_URL})",
    )
    backend_group.add_argument(
        "--serve",
        action=argparse.BooleanOptionalAction,
        help="where no backend runs: start it here, and go on until Ctrl-C",
    )
    addresses.add_host_option(backend_group)
    backend_group.add_argument("--no-browser", action="store_true", help="open no browser")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Ask, make, import, connect.

    Raises:
        UsageError: an answer is missing and nobody is there to ask, or answers do not fit.
        LabelStudioError: Label Studio cannot be reached, or refused.
    """
    return InitCommand(options, read_settings()).run()


class InitCommand:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, settings: Settings) -> None:
        from backend.cli.main import print_line

        self._options = options
        self._settings = settings
        self._prompter = terminal.TerminalPrompter()
        self._log: Callable[[str], None] = lambda line: print_line(line, options)
        self._backend_setup = backend_setup.BackendSetup(options, settings, self._log)

    def run(self) -> dict[str, Any]:
        from backend.onboarding.image_folder import list_files
        from backend.store.files import check_writable

        self._check_options()
        folder = self._read_folder()
        files = list_files(folder)
        client = self._connect_client()
        check_writable(self._settings.home)
        self._log(f"{len(files)} file{'' if len(files) == 1 else 's'} in {folder}.")
        existing = self._find_existing(client, folder)
        self._backend_setup.locate_backend(client, existing)
        project, job = (existing, None) if existing else self._create_project(client, folder, files)
        imported = self._import_images(client, project, folder, files)
        url = f"{self._settings.label_studio_host}/projects/{project.number}/data"
        result = {
            "project": project.number,
            "title": project.title,
            "url": url,
            "job": job.value if job else None,
            "imported": imported.image_count,
            "passed": dict(imported.skipped_counts),
        }
        return result | self._backend_setup.connect_or_start(client, project, url, result)

    def _check_options(self) -> None:
        """What can be known to be wrong is told before anything else.

        Raises:
            UsageError: options do not fit together.
        """
        from backend.onboarding.backend_connection import validate_backend_url
        from backend.onboarding.folder_project import validate_title
        from backend.onboarding.label_input import complete_labels
        from backend.onboarding.labeling_job import LabelingJob, validate_answers

        answers, job = self._answers_from_options(), self._options.job
        if job and answers:
            raise UsageError(f"--job answers all questions: leave out --{next(iter(answers))}.")
        validate_answers(answers)
        labels = self._labels_from_options()
        if job and labels:
            complete_labels(labels, LabelingJob(job))
        if self._options.title is not None:
            validate_title(self._options.title)
        if self._options.backend:
            validate_backend_url(self._options.backend)

    def _answers_from_options(self) -> dict[str, str]:
        """The questions that options answer."""
        from backend.onboarding.labeling_job import JOB_QUESTIONS

        answers_by_question = {
            question.name: getattr(self._options, question.name) for question in JOB_QUESTIONS
        }
        return {name: value for name, value in answers_by_question.items() if value}

    def _labels_from_options(self) -> list[Label]:
        """The labels that options give."""
        from backend.onboarding.label_input import parse_labels

        labels_by_name: dict[str, Label] = {}
        for text in self._options.labels or ():
            for label in parse_labels(text):
                labels_by_name.setdefault(label.name, label)
        return list(labels_by_name.values())

    def _job_from_options(self) -> LabelingJob | None:
        """The job, as far as options decide it."""
        from backend.onboarding.label_input import adjust_job
        from backend.onboarding.labeling_job import LabelingJob, choose_job, next_question

        if self._options.job:
            return LabelingJob(self._options.job)
        answers, labels = self._answers_from_options(), self._labels_from_options()
        if not answers or next_question(answers) is not None:
            return None
        job = choose_job(answers, 3)
        return adjust_job(job, labels) if labels else job

    # -- the folder and Label Studio ----------------------------------------------------------

    def _read_folder(self) -> Path:
        folder_text = self._options.folder or self._prompter.ask_text(
            "In which folder are the images?", "FOLDER"
        )
        return Path(folder_text).expanduser()

    def _connect_client(self) -> LabelStudioClient:
        """Label Studio, tried at once: before the questions, not after them."""
        from backend.label_studio.client import LabelStudioClient

        try:
            client = LabelStudioClient(self._settings.label_studio_url, self._settings.api_key)
            client.list_projects()
        except AccessDeniedError as error:
            page = f"{self._settings.label_studio_host}/user/account"
            raise AccessDeniedError(f"{error} In the browser: {page}") from error
        return client

    # -- the project --------------------------------------------------------------------------

    def _find_existing(self, client: LabelStudioClient, folder: Path) -> FolderProject | None:
        """The project that was made from the folder before, where it is the one that is meant.

        Raises:
            UsageError: the options ask for another config than it has.
        """
        from backend.onboarding.folder_project import FolderProjects, matches_options

        existing = (
            None
            if self._options.new
            else FolderProjects(self._settings.home, client, folder).find()
        )
        if existing is None:
            return None
        message = f"Project {existing.number} “{existing.title}” was made from this folder before"
        if not matches_options(
            existing.config, self._job_from_options(), self._labels_from_options()
        ):
            raise UsageError(
                f"{message}, with another labeling config: change that in Label Studio (Settings → "
                "Labeling Interface), or add --new for another project."
            )
        if self._options.title not in (None, existing.title):
            self._log("It keeps its title; Label Studio changes that (Settings → General).")
        if self._options.labels or self._job_from_options() or not self._prompter.is_interactive:
            self._log(f"{message}; going on with it (--new makes another one).")
            return existing
        return existing if self._prompter.confirm(f"{message}: go on with it?", "new") else None

    def _create_project(
        self, client: LabelStudioClient, folder: Path, files: list[Path]
    ) -> tuple[FolderProject, LabelingJob]:
        """A new project, unless there is nothing to put into it.

        Raises:
            UsageError: there is no image in the folder, or an answer is missing.
        """
        from backend.onboarding.folder_project import FolderProjects, default_title
        from backend.onboarding.image_folder import read_images
        from backend.onboarding.image_import import summarize_if_empty

        if not files:
            raise UsageError(f"There is no file in {folder}: name the folder of the images.")
        skipped = summarize_if_empty(read_images(folder, files, frozenset(), self._size_limits()))
        if skipped:
            self._log_skipped(skipped)
            raise UsageError(f"There is no image in {folder} that browsers show.")
        job, config = self._build_config(folder, files)
        folder_projects = FolderProjects(self._settings.home, client, folder)
        project = folder_projects.create(self._options.title or default_title(folder), config)
        self._log(f"Project {project.number} “{project.title}” is made.")
        return project, job

    def _build_config(self, folder: Path, files: list[Path]) -> tuple[LabelingJob, str]:
        """The job by the answers, and its labeling config."""
        from backend.onboarding.config_writer import write_config
        from backend.onboarding.image_folder import subfolder_names
        from backend.onboarding.label_input import (
            adjust_job,
            complete_labels,
            describe_job,
            parse_labels,
        )
        from backend.onboarding.labeling_job import (
            LabelingJob,
            choose_job,
            explain_job,
            next_question,
            validate_answers,
        )

        answers = self._answers_from_options()
        while not self._options.job and (question := next_question(answers)) is not None:
            answers[question.name] = self._prompter.ask_choice(
                question.text, dict(question.answers), question.name
            )
        validate_answers(answers)
        job = LabelingJob(self._options.job) if self._options.job else choose_job(answers, 3)
        for sentence in explain_job(job, answers):
            self._log(f"  {sentence}")
        suggested_labels = subfolder_names(folder, files) if not job.is_region_job else []
        labels = self._labels_from_options() or parse_labels(
            self._prompter.ask_text(
                LABELS_QUESTION,
                "labels",
                ", ".join(suggested_labels) if len(suggested_labels) > 1 else "",
            )
        )
        if not self._options.job:
            job = adjust_job(job, labels)
        labels = complete_labels(labels, job)
        self._log(describe_job(job, labels))
        return job, write_config(job, labels)

    def _import_images(
        self, client: LabelStudioClient, project: FolderProject, folder: Path, files: list[Path]
    ) -> ImportSummary:
        from backend.onboarding.image_folder import read_images
        from backend.onboarding.image_import import import_images, imported_digests

        try:
            known_digests = imported_digests(client, project.number)
            files_read = read_images(folder, files, known_digests, self._size_limits())
            imported = import_images(
                files_read, client, project.number, len(files), self._show_import_progress
            )
        except KeyboardInterrupt:
            terminal.clear_progress()
            self._log(
                INTERRUPTED_MESSAGE.format(
                    command=backend_setup.resume_command(self._options, str(folder))
                )
            )
            raise
        terminal.clear_progress()
        image_count = "1 image" if imported.image_count == 1 else f"{imported.image_count} images"
        self._log(f"{image_count} imported into project {project.number}.")
        self._log_skipped(imported)
        if not imported.image_count and not known_digests:
            raise UsageError(f"There is no image in {folder} that browsers show.")
        return imported

    def _log_skipped(self, summary: ImportSummary) -> None:
        for line in summary.format_skipped():
            self._log(f"  passed over: {line}")

    def _size_limits(self) -> ImageLimits:
        from backend.onboarding.image_folder import ImageLimits

        return ImageLimits(self._settings.max_image_bytes, self._settings.max_image_pixels)

    @staticmethod
    def _show_import_progress(done: int, total: int) -> None:
        terminal.show_progress(f"Importing … {done} of {total} files")
