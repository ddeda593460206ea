"""Create a project from a folder: ask questions, write the labeling config, import the images."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from backend.cli import terminal
from backend.cli.backend_setup import BackendSetup, resume_command
from backend.cli.command import CommandResult
from backend.cli.label_setup import LabelSetup
from backend.cli.label_studio_starter import LabelStudioStarter, start_hint
from backend.domain import Label
from backend.errors import AccessDeniedError, UsageError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.tabs import ensure_labeling_link
from backend.onboarding.backend_connection import validate_backend_url
from backend.onboarding.config_writer import write_config
from backend.onboarding.folder_project import (
    FolderProject,
    FolderProjects,
    default_title,
    matches_options,
    validate_title,
)
from backend.onboarding.image_folder import ImageLimits, list_files, read_images, subfolder_names
from backend.onboarding.image_import import (
    ImportSummary,
    import_images,
    imported_digests,
    summarize_if_empty,
)
from backend.onboarding.label_descriptions import labels_question
from backend.onboarding.label_input import (
    adjust_job,
    complete_labels,
    describe_job,
    parse_labels,
)
from backend.onboarding.label_sources.job import choose_label_job
from backend.onboarding.labeling_job import (
    JOB_QUESTIONS,
    LabelingJob,
    choose_job,
    explain_job,
    next_question,
    validate_answers,
)
from backend.settings import Settings
from backend.store.files import check_writable

SINGLE_LABEL_QUESTION = "Only one label, {label}. Is it {label} against not {label}?"
NO_IMAGES_MESSAGE = "There is no image in {folder} that can be read."


@dataclass(frozen=True)
class OptionAnswers:
    """The answers in the options of the command.

    Attributes:
        answers: question name → answer.
        labels: labels in the given order.
        requested_job: job of ``--job``.
    """

    answers: dict[str, str]
    labels: list[Label]
    requested_job: LabelingJob | None

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Self:
        """Read and check the options.

        Raises:
            UsageError: options are inconsistent, or a label is invalid.
        """
        answers = {q.name: getattr(options, q.name) for q in JOB_QUESTIONS}
        answers = {name: answer for name, answer in answers.items() if answer}
        job = LabelingJob(options.job) if options.job else None
        if job and answers:
            raise UsageError(f"--job answers all questions: leave out --{next(iter(answers))}.")
        validate_answers(answers)
        labels: dict[str, Label] = {}
        for text in options.labels or ():
            for label in parse_labels(text):
                labels.setdefault(label.name, label)
        given = cls(answers, list(labels.values()), job)
        if job and labels:
            complete_labels(given.labels, job)
        return given

    def job(self) -> LabelingJob | None:
        """Return the job if the options determine it."""
        if self.requested_job or not self.answers or next_question(self.answers) is not None:
            return self.requested_job
        job = choose_job(self.answers, 3)
        return adjust_job(job, self.labels) if self.labels else job


class ProjectSetup:
    """One run of ``prelabel init``.

    Args:
        options: parsed command-line arguments.
        settings: settings of this process.
        label_studio: starts a Label Studio if none runs.
    """

    def __init__(
        self, options: argparse.Namespace, settings: Settings, label_studio: LabelStudioStarter
    ) -> None:
        self._options = options
        self._settings = settings
        self._label_studio = label_studio
        self._given = OptionAnswers.from_options(options)
        self._prompter = terminal.TerminalPrompter()
        self._labels = LabelSetup(options, self._prompter, self._log)
        self._image_limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)

    def run(self) -> CommandResult:
        """Create the project, import the images and connect the backend.

        Raises:
            UsageError: an answer is missing without a terminal, or answers are inconsistent.
            LabelStudioError: Label Studio cannot be reached, or refused a request.
        """
        if self._options.title is not None:
            validate_title(self._options.title)
        if self._options.backend:
            validate_backend_url(self._options.backend)
        folder = Path(
            self._options.folder
            or self._prompter.ask_text("In which folder are the images?", "FOLDER")
        ).expanduser()
        files = list_files(folder)
        check_writable(self._settings.home)
        self._settings = self._label_studio.ensure_running(
            may_ask=True, before_start=self._backend_setup().check_address
        )
        client = self._connect_client()
        backend_setup = self._backend_setup()
        self._log(f"{len(files)} file{'' if len(files) == 1 else 's'} in {folder}.")
        existing = self._find_existing(client, folder)
        backend_setup.locate_backend(client, existing)
        stored = FolderProjects(self._settings.home, client, folder).label_choice()
        self._labels.choose(folder, files, stored if existing else None)
        if existing:
            self._labels.check_config(existing.config)
        files = self._labels.image_files(files)
        project, job = (existing, None) if existing else self._create_project(client, folder, files)
        imported = self._import_images(client, project, folder, files)
        labels = self._labels.import_into(client, self._settings, project.number)
        link = ensure_labeling_link(client, project.number, self._settings.label_studio_host)
        result = {
            "project": project.number,
            "title": project.title,
            "url": link.url,
            "job": job.value if job else None,
            "imported": imported.image_count,
            "passed": dict(imported.skipped_counts),
            **labels,
        }
        return {**result, **backend_setup.connect_or_start(client, project, link, result)}

    def _backend_setup(self) -> BackendSetup:
        return BackendSetup(self._options, self._settings, self._label_studio, self._log)

    def _log(self, line: str) -> None:
        terminal.print_line(line, self._options)

    def _connect_client(self) -> LabelStudioClient:
        """Return a tested client, so that an invalid token fails before the questions."""
        try:
            client = LabelStudioClient(self._settings.label_studio_url, self._settings.api_key)
            client.list_projects()
        except AccessDeniedError as error:
            page = f"{self._settings.label_studio_host}/user/account"
            hint = start_hint(self._settings, self._settings.label_studio_url)
            message = f"{error} Open {page} in the browser. {hint}".rstrip()
            raise AccessDeniedError(message) from error
        return client

    def _find_existing(self, client: LabelStudioClient, folder: Path) -> FolderProject | None:
        """Return the existing project of the folder if it is to be used again.

        Raises:
            UsageError: the options do not match its labeling config.
        """
        folder_projects = FolderProjects(self._settings.home, client, folder)
        existing = None if self._options.new else folder_projects.find()
        if existing is None:
            return None
        message = f"Project {existing.number} “{existing.title}” was created from this folder"
        if not matches_options(existing.config, self._given.job(), self._given.labels):
            raise UsageError(
                f"{message}, with another labeling config: change it in Label Studio (Settings → "
                "Labeling Interface), or add --new for another project."
            )
        if self._options.title not in (None, existing.title):
            self._log("The title is unchanged. Change it in Label Studio (Settings → General).")
        if self._given.labels or self._given.job() or not self._prompter.is_interactive:
            self._log(f"{message} and is used again. Use --new to create another one.")
            return existing
        return existing if self._prompter.confirm(f"{message}. Use it again?", "new") else None

    def _create_project(
        self, client: LabelStudioClient, folder: Path, files: list[Path]
    ) -> tuple[FolderProject, LabelingJob]:
        """Ask for the labeling job and create a project.

        Raises:
            UsageError: the folder contains no image, or an answer is missing.
        """
        if not files:
            raise UsageError(f"There is no file in {folder}: use the folder with the images.")
        skipped = summarize_if_empty(read_images(folder, files, frozenset(), self._image_limits))
        if skipped:
            self._log_skipped(skipped)
            raise UsageError(NO_IMAGES_MESSAGE.format(folder=folder))
        job, config = self._build_config(folder, files)
        self._labels.check_config(config)
        folder_projects = FolderProjects(self._settings.home, client, folder)
        title = self._options.title or default_title(folder)
        project = folder_projects.create(title, config, self._labels.choice)
        self._log(f"Created project {project.number} “{project.title}”.")
        return project, job

    def _build_config(self, folder: Path, files: list[Path]) -> tuple[LabelingJob, str]:
        """Ask the remaining questions; return the job and its labeling config."""
        if self._labels.source is not None:
            job, labels = choose_label_job(
                self._labels.source, self._given.job(), self._given.labels
            )
            self._log(describe_job(job, labels))
            return job, write_config(job, labels)
        requested_job, answers = self._given.requested_job, dict(self._given.answers)
        while not requested_job and (question := next_question(answers)) is not None:
            answers[question.name] = self._prompter.ask_choice(
                question.text, question.answers, question.name
            )
        validate_answers(answers)
        job = requested_job or choose_job(answers, 3)
        for sentence in explain_job(job, answers):
            self._log(f"  {sentence}")
        labels = self._given.labels
        if not labels:
            suggested = subfolder_names(folder, files) if not job.is_region_job else []
            default = ", ".join(suggested) if len(suggested) > 1 else ""
            labels = self._ask_labels(job, default)
        if not requested_job:
            job = adjust_job(job, labels)
        labels = complete_labels(labels, job)
        self._log(describe_job(job, labels))
        return job, write_config(job, labels)

    def _ask_labels(self, job: LabelingJob, default: str) -> list[Label]:
        """Ask for labels until they fit the job; confirm a single label of whole images."""

        def parse(text: str) -> list[Label]:
            labels = parse_labels(text)
            complete_labels(labels, job if self._given.requested_job else adjust_job(job, labels))
            return labels

        question = labels_question(job, self._settings)
        while True:
            labels = self._prompter.ask_parsed(question, "labels", default, parse)
            if len(labels) > 1 or job.is_region_job:
                return labels
            name = labels[0].name
            single_question = SINGLE_LABEL_QUESTION.format(label=name)
            if self._prompter.confirm(single_question, "labels"):
                return labels
            self._prompter.explain(f"Then type {name} and the other labels.")

    def _import_images(
        self, client: LabelStudioClient, project: FolderProject, folder: Path, files: list[Path]
    ) -> ImportSummary:
        try:
            known_digests = imported_digests(client, project.number)
            images = read_images(folder, files, known_digests, self._image_limits)
            imported = import_images(
                images, client, project.number, len(files), self._show_import_progress
            )
        except KeyboardInterrupt:
            terminal.clear_progress()
            command = resume_command(self._options, str(folder))
            self._log(f"Stopped. To continue, run: {command}")
            raise
        terminal.clear_progress()
        image_count = "1 image" if imported.image_count == 1 else f"{imported.image_count} images"
        self._log(f"{image_count} imported into project {project.number}.")
        self._log_skipped(imported)
        if not imported.image_count and not known_digests:
            raise UsageError(NO_IMAGES_MESSAGE.format(folder=folder))
        return imported

    def _log_skipped(self, summary: ImportSummary) -> None:
        for line in summary.format_skipped():
            self._log(f"  skipped: {line}")

    @staticmethod
    def _show_import_progress(done: int, total: int) -> None:
        terminal.show_progress(f"Importing … {done} of {total} files")
