"""``prelabel init``: from a folder of images to a project that learns, by a few questions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.cli import addresses, backend_setup, terminal
from backend.errors import NotAllowed, UsageError
from backend.settings import Settings, read_settings

if TYPE_CHECKING:
    from backend.domain import Label
    from backend.label_studio.client import Client
    from backend.onboarding.folder_project import Started
    from backend.onboarding.image_folder import Largest
    from backend.onboarding.image_import import Imported
    from backend.onboarding.labeling_job import Job

HELP = "from a folder of images to a Label Studio project that learns, by a few questions"
EXAMPLE = "prelabel init ~/photos --serve"
JOBS = ("binary", "one-of-many", "several-of-many", "boxes", "points")
LABELS = (
    "Which labels? Separate them by commas. A few words on what one looks like help before the "
    "first annotation: ripe = a red fruit, unripe = a green fruit (with a semicolon between "
    "labels, descriptions may hold commas)"
)
STOPPED = "Stopped; run it again to go on: {command}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command; each question has one."""
    parser.add_argument(
        "folder", nargs="?", metavar="FOLDER", help="the images, also in subfolders"
    )
    answers = parser.add_argument_group("answers", "what is not given here is asked")
    answers.add_argument("--job", choices=JOBS, help="the job itself, instead of the questions")
    answers.add_argument(
        "--goal", choices=("sort", "find"), help="sort whole images, or find things"
    )
    answers.add_argument("--place", choices=("yes", "no"), help="place or number matters")
    answers.add_argument("--small", choices=("yes", "no"), help="a small part of a busy picture")
    answers.add_argument("--mark", choices=("click", "box"), help="a click on the middle, or a box")
    answers.add_argument("--several", choices=("yes", "no"), help="several labels at once")
    answers.add_argument(
        "--labels",
        action="append",
        metavar="A,B",
        help="the labels; `name = what it looks like` gives a hint, `;` allows commas in it",
    )
    answers.add_argument("--title", help="of the project (the folder's name)")
    answers.add_argument("--new", action="store_true", help="another project of the same folder")
    running = parser.add_argument_group("backend")
    running.add_argument(
        "--backend",
        metavar="URL",
        help=f"where it listens, as Label Studio reaches it ({addresses.BACKEND})",
    )
    running.add_argument(
        "--serve",
        action=argparse.BooleanOptionalAction,
        help="where no backend runs: start it here, and go on until Ctrl-C",
    )
    addresses.add_host(running)
    running.add_argument("--no-browser", action="store_true", help="open no browser")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Ask, make, import, connect.

    Raises:
        UsageError: an answer is missing and nobody is there to ask, or answers do not fit.
        LabelStudioError: Label Studio cannot be reached, or refused.
    """
    return _Init(options, read_settings()).run()


class _Init:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, settings: Settings) -> None:
        from backend.cli.main import say

        self._options = options
        self._settings = settings
        self._ask = terminal.Asker()
        self._say: Callable[[str], None] = lambda line: say(line, options)
        self._joining = backend_setup.Joining(options, settings, self._say)

    def run(self) -> dict[str, Any]:
        from backend.onboarding.image_folder import files_of
        from backend.store.files import writable

        self._check_options()
        folder = self._folder()
        files = files_of(folder)
        client = self._client()
        writable(self._settings.home)
        self._say(f"{len(files)} file{'' if len(files) == 1 else 's'} in {folder}.")
        before = self._before(client, folder)
        self._joining.look_around(client, before)
        started, job = (before, None) if before else self._make(client, folder, files)
        imported = self._import(client, started, folder, files)
        url = f"{self._settings.label_studio_host}/projects/{started.number}/data"
        figures = {
            "project": started.number,
            "title": started.title,
            "url": url,
            "job": job.value if job else None,
            "imported": imported.images,
            "passed": dict(imported.passed),
        }
        return figures | self._joining.join(client, started, url, figures)

    def _check_options(self) -> None:
        """What can be known to be wrong is told before anything else.

        Raises:
            UsageError: options do not fit together.
        """
        from backend.onboarding.backend_connection import checked
        from backend.onboarding.folder_project import check_title
        from backend.onboarding.label_input import completed
        from backend.onboarding.labeling_job import Job, check

        answers, job = self._answers(), self._options.job
        if job and answers:
            raise UsageError(f"--job answers all questions: leave out --{next(iter(answers))}.")
        check(answers)
        labels = self._labels()
        if job and labels:
            completed(labels, Job(job))
        if self._options.title is not None:
            check_title(self._options.title)
        if self._options.backend:
            checked(self._options.backend)

    def _answers(self) -> dict[str, str]:
        """The questions that options answer."""
        from backend.onboarding.labeling_job import QUESTIONS

        given = {question.name: getattr(self._options, question.name) for question in QUESTIONS}
        return {name: value for name, value in given.items() if value}

    def _labels(self) -> list[Label]:
        """The labels that options give."""
        from backend.onboarding.label_input import read_labels

        named: dict[str, Label] = {}
        for text in self._options.labels or ():
            for label in read_labels(text):
                named.setdefault(label.name, label)
        return list(named.values())

    def _job(self) -> Job | None:
        """The job, as far as options decide it."""
        from backend.onboarding.label_input import fitting
        from backend.onboarding.labeling_job import Job, job_of, next_question

        if self._options.job:
            return Job(self._options.job)
        answers, labels = self._answers(), self._labels()
        if not answers or next_question(answers) is not None:
            return None
        job = job_of(answers, 3)
        return fitting(job, labels) if labels else job

    # -- the folder and Label Studio ----------------------------------------------------------

    def _folder(self) -> Path:
        named = self._options.folder or self._ask.text("In which folder are the images?", "FOLDER")
        return Path(named).expanduser()

    def _client(self) -> Client:
        """Label Studio, tried at once: before the questions, not after them."""
        from backend.label_studio.client import Client

        try:
            client = Client(self._settings.label_studio_url, self._settings.api_key)
            client.projects()
        except NotAllowed as error:
            page = f"{self._settings.label_studio_host}/user/account"
            raise NotAllowed(f"{error} In the browser: {page}") from error
        return client

    # -- the project --------------------------------------------------------------------------

    def _before(self, client: Client, folder: Path) -> Started | None:
        """The project that was made from the folder before, where it is the one that is meant.

        Raises:
            UsageError: the options ask for another config than it has.
        """
        from backend.onboarding.folder_project import Starts, asks_for

        before = None if self._options.new else Starts(self._settings.home, client, folder).find()
        if before is None:
            return None
        told = f"Project {before.number} “{before.title}” was made from this folder before"
        if not asks_for(before.config, self._job(), self._labels()):
            raise UsageError(
                f"{told}, with another labeling config: change that in Label Studio (Settings → "
                "Labeling Interface), or add --new for another project."
            )
        if self._options.title not in (None, before.title):
            self._say("It keeps its title; Label Studio changes that (Settings → General).")
        if self._options.labels or self._job() or not self._ask.somebody:
            self._say(f"{told}; going on with it (--new makes another one).")
            return before
        return before if self._ask.yes(f"{told}: go on with it?", "new") else None

    def _make(self, client: Client, folder: Path, files: list[Path]) -> tuple[Started, Job]:
        """A new project, unless there is nothing to put into it.

        Raises:
            UsageError: there is no image in the folder, or an answer is missing.
        """
        from backend.onboarding.folder_project import Starts, title_of
        from backend.onboarding.image_folder import read
        from backend.onboarding.image_import import no_image

        if not files:
            raise UsageError(f"There is no file in {folder}: name the folder of the images.")
        nothing = no_image(read(folder, files, frozenset(), self._largest()))
        if nothing:
            self._tell_passed(nothing)
            raise UsageError(f"There is no image in {folder} that browsers show.")
        job, config = self._config(folder, files)
        starts = Starts(self._settings.home, client, folder)
        started = starts.make(self._options.title or title_of(folder), config)
        self._say(f"Project {started.number} “{started.title}” is made.")
        return started, job

    def _config(self, folder: Path, files: list[Path]) -> tuple[Job, str]:
        """The job by the answers, and its labeling config."""
        from backend.onboarding.config_writer import write_config
        from backend.onboarding.image_folder import folder_names
        from backend.onboarding.label_input import completed, fitting, read_labels, told
        from backend.onboarding.labeling_job import Job, check, explain, job_of, next_question

        answers = self._answers()
        while not self._options.job and (question := next_question(answers)) is not None:
            answers[question.name] = self._ask.choice(
                question.text, dict(question.answers), question.name
            )
        check(answers)
        job = Job(self._options.job) if self._options.job else job_of(answers, 3)
        for sentence in explain(job, answers):
            self._say(f"  {sentence}")
        names = folder_names(folder, files) if not job.marks else []
        labels = self._labels() or read_labels(
            self._ask.text(LABELS, "labels", ", ".join(names) if len(names) > 1 else "")
        )
        if not self._options.job:
            job = fitting(job, labels)
        labels = completed(labels, job)
        self._say(told(job, labels))
        return job, write_config(job, labels)

    def _import(
        self, client: Client, started: Started, folder: Path, files: list[Path]
    ) -> Imported:
        from backend.onboarding.image_folder import read
        from backend.onboarding.image_import import bring, known_images

        try:
            known = known_images(client, started.number)
            found = read(folder, files, known, self._largest())
            imported = bring(found, client, started.number, len(files), self._progress)
        except KeyboardInterrupt:
            terminal.clear()
            self._say(STOPPED.format(command=backend_setup.again(self._options, str(folder))))
            raise
        terminal.clear()
        many = "1 image" if imported.images == 1 else f"{imported.images} images"
        self._say(f"{many} imported into project {started.number}.")
        self._tell_passed(imported)
        if not imported.images and not known:
            raise UsageError(f"There is no image in {folder} that browsers show.")
        return imported

    def _tell_passed(self, imported: Imported) -> None:
        for line in imported.lines():
            self._say(f"  passed over: {line}")

    def _largest(self) -> Largest:
        from backend.onboarding.image_folder import Largest

        return Largest(self._settings.max_image_bytes, self._settings.max_image_pixels)

    @staticmethod
    def _progress(done: int, of: int) -> None:
        terminal.show(f"Importing … {done} of {of} files")
