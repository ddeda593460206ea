"""``prelabel init``: from a folder of images to a project that learns, by a few questions."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.cli import asking
from backend.errors import NotAllowed, UsageError
from backend.settings import Settings, read_settings

if TYPE_CHECKING:
    from backend.label_studio.client import Client
    from backend.starting.importing import Imported
    from backend.starting.job import Job
    from backend.starting.project import Started

HELP = "from a folder of images to a Label Studio project that learns, by a few questions"
EXAMPLE = "prelabel init ~/photos --serve"
JOBS = ("binary", "one-of-many", "several-of-many", "boxes", "points")
BACKEND = "http://127.0.0.1:9090"
LABELS = (
    "Which labels? Separate them by commas. A few words on what one looks like help before the "
    "first annotation: ripe = a red fruit, unripe = a green fruit"
)


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
        help="the labels; `name = what it looks like` gives a hint",
    )
    answers.add_argument("--title", help="of the project (the folder's name)")
    answers.add_argument("--new", action="store_true", help="another project of the same folder")
    running = parser.add_argument_group("backend")
    running.add_argument(
        "--backend", metavar="URL", help=f"where it listens, as Label Studio reaches it ({BACKEND})"
    )
    running.add_argument(
        "--serve",
        action=argparse.BooleanOptionalAction,
        help="where no backend runs: start it here, and go on until Ctrl-C",
    )
    running.add_argument("--host", default="127.0.0.1", help="address to serve at (127.0.0.1)")
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
        self._ask = asking.Asker()
        self._say: Callable[[str], None] = lambda line: say(line, options)

    def run(self) -> dict[str, Any]:
        from backend.starting.folder import files_of
        from backend.store.files import writable

        self._check_options()
        folder = self._folder()
        files = files_of(folder)
        client = self._client()
        writable(self._settings.home)
        self._say(f"{len(files)} files in {folder}.")
        started, job = self._project(client, folder, files)
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
        return figures | self._connect(client, started, url, figures)

    def _check_options(self) -> None:
        """What can be known to be wrong is told before anything else.

        Raises:
            UsageError: options do not fit together.
        """
        from backend.starting.job import Job, check
        from backend.starting.names import completed, read_labels

        answers, job = self._answers(), self._options.job
        if job and answers:
            raise UsageError(f"--job answers all questions: leave out --{next(iter(answers))}.")
        check(answers)
        labels = read_labels(",".join(self._options.labels or ()))
        if job and labels:
            completed(labels, Job(job))

    def _answers(self) -> dict[str, str]:
        """The questions that options answer."""
        from backend.starting.job import QUESTIONS

        given = {question.name: getattr(self._options, question.name) for question in QUESTIONS}
        return {name: value for name, value in given.items() if value}

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

    def _project(
        self, client: Client, folder: Path, files: list[Path]
    ) -> tuple[Started, Job | None]:
        from backend.starting.project import Starts, title_of

        starts = Starts(self._settings.home, client, folder)
        before = None if self._options.new else starts.find()
        if before and self._goes_on(before):
            return before, None
        if not files:
            raise UsageError(f"There is no file in {folder}: name the folder of the images.")
        job, config = self._config(folder, files)
        started = starts.make(self._options.title or title_of(folder), config)
        self._say(f"Project {started.number} “{started.title}” is made.")
        return started, job

    def _goes_on(self, before: Started) -> bool:
        """Whether the project that was made from the folder before is the one that is meant.

        Raises:
            UsageError: the options ask for another config than it has.
        """
        told = f"Project {before.number} “{before.title}” was made from this folder before"
        given = self._options.labels and (self._options.job or self._options.goal)
        if given and not self._same(before):
            raise UsageError(
                f"{told}, with another labeling config: change that in Label Studio (Settings → "
                "Labeling Interface), or add --new for another project."
            )
        if given or not self._ask.somebody:
            self._say(f"{told}; going on with it (--new makes another one).")
            return True
        return self._ask.yes(f"{told}: go on with it?", "new")

    def _same(self, before: Started) -> bool:
        from backend.starting.project import same_controls

        return same_controls(self._config(None, [])[1], before.config)

    def _config(self, folder: Path | None, files: list[Path]) -> tuple[Job, str]:
        """The job by the answers, and its labeling config."""
        from backend.starting.folder import folder_names
        from backend.starting.job import Job, check, explain, job_of, next_question
        from backend.starting.names import completed, fitting, read_labels
        from backend.starting.writing import write_config

        answers = self._answers()
        while not self._options.job and (question := next_question(answers)) is not None:
            answers[question.name] = self._ask.choice(
                question.text, dict(question.answers), question.name
            )
        check(answers)
        job = Job(self._options.job) if self._options.job else job_of(answers, 3)
        for sentence in explain(job, answers):
            self._say(f"  {sentence}")
        names = folder_names(folder, files) if folder and not job.marks else []
        text = ",".join(self._options.labels or ()) or self._ask.text(
            LABELS, "labels", ", ".join(names) if len(names) > 1 else ""
        )
        labels = read_labels(text)
        if not self._options.job:
            job = fitting(job, labels)
        labels = completed(labels, job)
        return job, write_config(job, labels)

    def _import(
        self, client: Client, started: Started, folder: Path, files: list[Path]
    ) -> Imported:
        from backend.starting.folder import Largest, read
        from backend.starting.importing import bring, known_images

        known = known_images(client, started.number)
        largest = Largest(self._settings.max_image_bytes, self._settings.max_image_pixels)
        found = read(folder, files, known, largest)
        imported = bring(found, client, started.number, len(files), self._progress)
        asking.clear()
        self._say(f"{imported.images} images imported into project {started.number}.")
        for line in imported.lines():
            self._say(f"  passed over: {line}")
        if not imported.images and not known:
            raise UsageError(f"There is no image in {folder} that browsers show.")
        return imported

    @staticmethod
    def _progress(done: int, of: int) -> None:
        asking.show(f"Importing … {done} of {of} files")

    # -- the backend ----------------------------------------------------------------------------

    def _connect(
        self, client: Client, started: Started, url: str, figures: dict[str, Any]
    ) -> dict[str, Any]:
        from backend.starting import connecting

        backend = self._options.backend or BACKEND
        if connecting.answers(self._settings, backend):
            connecting.connect(client, started.number, self._settings, backend)
            self._say(f"Connected to the backend at {backend}; it looks at the images.")
            self._open(url)
            return {"backend": backend, "connected": True} | self._look(backend, started.number)
        waiting = connecting.Waiting(self._settings.home)
        waiting.add(client.server, started.number, self._options.backend or "")
        later = {"backend": backend, "connected": False}
        if not self._serves(backend):
            self._open(url)
            self._say("Now start the backend, which connects the project: prelabel serve")
            return later
        self._open(url)
        return self._serve(backend, started.number, figures | later)

    def _serves(self, backend: str) -> bool:
        if self._options.serve is not None:
            return bool(self._options.serve)
        asked = f"No backend runs at {backend}. Start it here, until you press Ctrl-C?"
        return self._ask.somebody and self._ask.yes(asked, "serve")

    def _serve(self, backend: str, number: int, figures: dict[str, Any]) -> dict[str, Any]:
        """Be the backend from now on; the figures come before that, for those who wait for them."""
        import json
        from urllib.parse import urlsplit

        from backend.cli import serve

        if self._options.json:
            print(json.dumps(figures, ensure_ascii=False), flush=True)
        port = urlsplit(backend).port or 9090
        looking = threading.Thread(target=self._look, args=(backend, number), daemon=True)
        looking.start()
        options = argparse.Namespace(
            host=self._options.host, port=port, json=self._options.json, debug=self._options.debug
        )
        serve.run(options)
        return figures

    def _look(self, backend: str, number: int) -> dict[str, Any]:
        """Wait for the backend's first look and tell what came of it."""
        from backend.starting.watching import first_look, known_before, outcome

        show = asking.show
        state = first_look(self._settings, backend, number, lambda doing: show(f"Backend: {doing}"))
        asking.clear()
        if state is None:
            self._say("`prelabel status` tells how far it is.")
            return {"version": None, "preannotated": False}
        for line in outcome(state, self._settings.quiet_seconds):
            self._say(line)
        return {"version": state["version"], "preannotated": known_before(state)}

    def _open(self, url: str) -> None:
        self._say(f"Label here: {url}")
        if not self._options.no_browser and sys.stdin.isatty() and not self._options.json:
            asking.open_page(url)
