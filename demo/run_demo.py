"""The demo: everything of the product in a few minutes, on drawn pictures whose truth is known."""

from __future__ import annotations

import base64
import contextlib
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from backend.callbacks import LogCallback
from backend.errors import PrelabelError
from demo.annotator import Annotator, suggestion
from demo.label_studio import Program, Studio, free_port
from demo.scenarios import CONFIGS, Script

EVERY = 10
STUCK_SECONDS = 120.0
"""How long a round may show no progress; a busy machine is slow, not broken."""
POLL = 0.1


@dataclass
class Scenes:
    """The drawn images.

    Attributes:
        files: of the project.
        truth: file stem → what a person would answer, of all.
        tasks: those in no project, as tasks that carry their image with them.
    """

    files: list[Path] = field(default_factory=list)
    truth: dict[str, Any] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Shuffled:
    """The same images in a project of their own, labeled in random order, to compare with.

    Attributes:
        project: its number.
        tasks: still to label, in that order.
    """

    project: int
    tasks: list[dict[str, Any]]


@dataclass
class Played:
    """What happened.

    Attributes:
        curve: after each round: labels, accuracy, audit, version; and ``random``, the accuracy
            after as many labels in random order, where that was asked for.
        right: of every task the annotator did, whether its pre-annotation needed no correction;
            None where it had none.
    """

    curve: list[dict[str, Any]] = field(default_factory=list)
    right: list[bool | None] = field(default_factory=list)

    @property
    def saved(self) -> int:
        """Pre-annotations that needed no correction."""
        return sum(bool(one) for one in self.right)

    @property
    def suggested(self) -> int:
        """Tasks that came with a pre-annotation."""
        return sum(one is not None for one in self.right)


class Demo:
    """Plays the demo.

    Args:
        script: what is played.
        labels: how many tasks the annotator does.
        keep: leave Label Studio and the backend running.
        compare: label the same images in random order as well, in a project of their own.
        seed: of the drawings.
        say: told each line for people.
    """

    def __init__(
        self, script: Script, labels: int, keep: bool, compare: bool, seed: int, say: LogCallback
    ) -> None:
        self._script = script
        self._config = (CONFIGS / script.config).read_text(encoding="utf-8")
        self._labels = min(labels, script.pool)
        self._keep = keep
        self._compare = compare
        self._seed = seed
        self._say = say
        self._folder = Path(tempfile.mkdtemp(prefix="prelabel-demo-"))
        self._studio = Studio(self._folder / "label-studio", free_port(8080))
        self._backend_url = f"http://127.0.0.1:{free_port(9090)}"
        self._backend: Program | None = None

    def play(self) -> dict[str, Any]:
        """Everything, and the figures for ``--json``.

        Raises:
            PrelabelError: something did not work; nothing is left running.
        """
        start = time.monotonic()
        finished = False
        try:
            played = self._play()
            finished = True
        finally:
            if not (finished and self._keep):
                self._clean_up()
        seconds = round(time.monotonic() - start, 1)
        self._tell_end(played, seconds)
        return {
            "task": self._script.task,
            "metric": self._script.metric,
            "seconds": seconds,
            "curve": played.curve,
            "labels": len(played.right),
            "suggested": played.suggested,
            "right": played.saved,
            "corrected": played.suggested - played.saved,
            "saved": played.saved,
            **(self._addresses() if self._keep else {}),
        }

    def _play(self) -> Played:
        self._say(f"A demo in {self._folder}: Label Studio, the backend, and drawn pictures.")
        scenes = self._start_and_draw()
        annotator = Annotator(self._studio.url, self._studio.token)
        with contextlib.closing(annotator):
            project = annotator.create(self._script.title, self._config)
            self._say(f"Importing {len(scenes.files)} images into project {project} …")
            annotator.upload(project, scenes.files)
            self._start_backend()
            annotator.connect(project, self._backend_url)
            shuffled = self._shuffle(annotator, scenes) if self._compare else None
            self._say(f"Connected {self._backend_url}; the annotator starts.\n")
            return self._annotate(annotator, project, scenes, shuffled)

    def _shuffle(self, annotator: Annotator, scenes: Scenes) -> Shuffled:
        """The same start for an annotator who takes the images as they come."""
        project = annotator.create(f"{self._script.title} (random order)", self._config)
        annotator.upload(project, scenes.files)
        annotator.connect(project, self._backend_url)
        tasks = annotator.tasks(project)
        random.Random(self._seed).shuffle(tasks)  # noqa: S311 - no secret
        return Shuffled(project, tasks)

    def _start_and_draw(self) -> Scenes:
        """Draw while Label Studio makes its database."""
        self._studio.start()
        scenes = Scenes()

        def tick(waited: float) -> None:
            drawn = f"{len(scenes.truth)} of {self._count} images drawn"
            self._progress(f"Starting Label Studio … {waited:3.0f} s, {drawn}")

        with ThreadPoolExecutor(1) as pool:
            drawing: Future[None] = pool.submit(self._draw, scenes)
            self._studio.wait(tick)
            while not drawing.done():
                self._progress(f"Drawing … {len(scenes.truth)} of {self._count} images")
                time.sleep(POLL)
            drawing.result()
        self._progress("")
        self._say(f"Label Studio runs at {self._studio.url}.")
        return scenes

    def _draw(self, scenes: Scenes) -> None:
        folder = self._folder / "images"
        folder.mkdir()
        for number, scene in enumerate(self._script.draw(self._count, self._seed)):
            file = folder / f"{scene.name}.jpg"
            scene.image.save(file, quality=88)
            scenes.truth[scene.name] = scene.truth
            if number < self._script.pool:
                scenes.files.append(file)
            else:
                scenes.tasks.append(_held_out(number, file))

    def _start_backend(self) -> None:
        environment = {
            "PRELABEL_HOME": str(self._folder / "prelabel"),
            **self._script.settings,
            "PRELABEL_RETRAIN_AFTER": str(EVERY),
            "PRELABEL_RETRAIN_QUIET": "5",
            "LABEL_STUDIO_URL": self._studio.url,
            "LABEL_STUDIO_API_KEY": self._studio.token,
        }
        port = self._backend_url.rpartition(":")[2]
        command = [sys.executable, "-m", "backend.cli", "serve", "--port", port]
        self._backend = Program(command, environment, self._folder / "backend.log")
        self._backend.wait_for(f"{self._backend_url}/health", 60, lambda waited: None)

    def _annotate(
        self, annotator: Annotator, project: int, scenes: Scenes, shuffled: Shuffled | None
    ) -> Played:
        played = Played()
        compared = f"{'random order':>14}" if shuffled else ""
        self._say(
            f"{'labels':>6}  {'against the truth':>17}{compared}  {'audit slice':<28} no correction"
        )
        self._round_done(annotator, project, scenes, played, shuffled)
        while len(played.right) < self._labels:
            more = min(EVERY, self._labels - len(played.right))
            for _ in range(more):
                self._answer(annotator, project, scenes, played)
                self._progress(f"{len(played.right):>6}  labeling …")
            if shuffled:
                for task in shuffled.tasks[:more]:
                    annotator.submit(task, self._script.answer(_truth(scenes, task)))
                del shuffled.tasks[:more]
            self._round_done(annotator, project, scenes, played, shuffled)
        return played

    def _answer(self, annotator: Annotator, project: int, scenes: Scenes, played: Played) -> None:
        task = annotator.next(project)
        truth = _truth(scenes, task)
        annotator.submit(task, self._script.answer(truth))
        regions = suggestion(task)
        played.right.append(None if regions is None else self._script.right(regions, truth))

    def _round_done(
        self,
        annotator: Annotator,
        project: int,
        scenes: Scenes,
        played: Played,
        shuffled: Shuffled | None,
    ) -> None:
        """Wait for the round that has seen all labels, and measure its version."""
        labels = len(played.right)
        state = self._wait_for_round(annotator, project, labels)
        accuracy = self._accuracy(project, scenes)
        audit = {key: state["audit"][key] for key in ("n", "value", "low", "high")}
        row = {"labels": labels, "accuracy": accuracy, "audit": audit, "version": state["version"]}
        compared = ""
        if shuffled:
            self._wait_for_round(annotator, shuffled.project, labels)
            row["random"] = self._accuracy(shuffled.project, scenes)
            compared = f"{row['random']:>14.0%}"
        played.curve.append(row)
        recent = played.right[-EVERY:]
        kept = f"{sum(map(bool, recent))} of {len(recent)}" if recent else ""
        self._progress("")
        self._say(f"{labels:>6}  {accuracy:>17.0%}{compared}  {_interval(audit):<28} {kept}")

    def _wait_for_round(self, annotator: Annotator, project: int, labels: int) -> dict[str, Any]:
        moved, before = time.monotonic(), None
        while time.monotonic() - moved < STUCK_SECONDS:
            state = self._state(project)
            doing = state["round"]
            if doing != before:
                moved, before = time.monotonic(), doing
            done = doing["state"] == "idle" and state["labels"] >= labels and not state["waiting"]
            if done and state["version"] and annotator.follows(project) == state["version"]:
                return state
            if doing["error"]:
                raise PrelabelError(f"The round failed: {doing['error']}")
            detail = doing["detail"] or ""
            self._progress(f"{labels:>6}  {doing['state']} {doing['progress']:.0%} {detail}")
            time.sleep(POLL)
        raise PrelabelError(
            f"The round stood still for {STUCK_SECONDS:.0f} s. The backend said last: "
            f"{self._last_words()}"
        )

    def _last_words(self) -> str:
        """The end of the backend's log, which goes with the folder."""
        lines = (self._folder / "backend.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "nothing"

    def _state(self, project: int) -> dict[str, Any]:
        state: dict[str, Any] = httpx.get(
            f"{self._backend_url}/api/projects/{project}", timeout=10, trust_env=False
        ).json()
        return state

    def _accuracy(self, project: int, scenes: Scenes) -> float:
        """How good the answers to images are that are in no project, asked by /predict."""
        body = {"tasks": scenes.tasks, "project": str(project), "label_config": self._config}
        answer = httpx.post(
            f"{self._backend_url}/predict", json=body, timeout=100, trust_env=False
        ).json()
        truths = [scenes.truth[task["name"]] for task in scenes.tasks]
        given = [result.get("result") or [] for result in answer["results"]]
        return round(self._script.figure(given, truths), 4)

    @property
    def _count(self) -> int:
        return self._script.pool + self._script.held_out

    # -- the end ----------------------------------------------------------------------------

    def _tell_end(self, played: Played, seconds: float) -> None:
        last = played.curve[-1]
        self._say(
            f"\n{played.suggested} of {len(played.right)} images came with a pre-annotation; "
            f"{played.saved} needed no correction. The model now reaches {self._script.metric} "
            f"{last['accuracy']:.0%} on images it has never seen. {seconds:.0f} s in all."
        )
        if self._keep:
            self._tell_addresses()

    def _tell_addresses(self) -> None:
        kept = self._addresses()
        self._say(
            f"\nStill running: Label Studio at {kept['label_studio']} (log in as {kept['user']} "
            f"with {kept['password']}), the backend at {kept['backend']}."
        )
        self._say(f"End both with: kill {' '.join(map(str, kept['pids']))}; rm -r {self._folder}")

    def _addresses(self) -> dict[str, Any]:
        from demo.label_studio import EMAIL

        return {
            "label_studio": self._studio.url,
            "user": EMAIL,
            "password": self._studio.password,
            "backend": self._backend_url,
            "pids": [self._studio.pid, *([self._backend.pid] if self._backend else [])],
            "folder": str(self._folder),
        }

    def _clean_up(self) -> None:
        if self._backend is not None:
            self._backend.stop()
        self._studio.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _progress(self, line: str) -> None:
        """A line that the next one overwrites; only for eyes."""
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _held_out(number: int, file: Path) -> dict[str, Any]:
    content = base64.b64encode(file.read_bytes()).decode()
    data = {"image": f"data:image/jpeg;base64,{content}"}
    return {"id": 10**9 + number, "name": file.stem, "data": data}


def _truth(scenes: Scenes, task: dict[str, Any]) -> Any:
    return scenes.truth[_stem(task["data"]["image"])]


def _stem(address: str) -> str:
    """``/data/upload/1/1a2b3c4d-plant-0007.jpg`` → ``plant-0007``."""
    return Path(address).stem.partition("-")[2]


def _interval(audit: dict[str, Any]) -> str:
    if audit["value"] is None:
        return "no audit label yet"
    return f"{audit['value']:.0%} ({audit['low']:.0%} to {audit['high']:.0%}, n = {audit['n']})"
