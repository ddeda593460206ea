"""Run the demo: the whole loop in a few minutes, on synthetic images with known labels."""

from __future__ import annotations

import base64
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from backend.callbacks import LogCallback
from backend.errors import PrelabelError
from backend.estimate import MIN_FIGURE_IMAGES, TOO_EARLY_TEXT
from backend.label_studio import Json
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.local_server import (
    LOCAL_EMAIL,
    LabelStudioServer,
    ServerProcess,
    find_free_port,
)
from backend.label_studio.tabs import ensure_labeling_url
from demo.annotator import SimulatedAnnotator, suggested_regions
from demo.scenarios import LABEL_CONFIG_FOLDER, DemoScenario

LABELS_PER_ROUND = 10
STALLED_ROUND_SECONDS = 120.0
"""Time without progress after which a round counts as stalled; generous for slow machines."""
PROGRESS_INTERVAL_SECONDS = 0.1


@dataclass
class DrawnImages:
    """The drawn images and their ground truth.

    Attributes:
        files: image files of the project.
        truth_by_name: file name stem → ground truth, of all images.
        held_out_tasks: tasks that are in no project, with their image as a data URI.
    """

    files: list[Path] = field(default_factory=list)
    truth_by_name: dict[str, Any] = field(default_factory=dict)
    held_out_tasks: list[Json] = field(default_factory=list)

    def truth_of(self, task: Json) -> Any:
        """Return the ground truth for the image (/data/upload/1/1a2b3c4d-plant-0007.jpg)."""
        return self.truth_by_name[Path(task["data"]["image"]).stem.partition("-")[2]]


class Demo:
    """Starts Label Studio and the backend, and labels with a simulated annotator.

    Args:
        scenario: labeling job of the demo.
        label_budget: number of tasks to label.
        keep_running: whether to leave Label Studio and the backend running.
        compare_random: whether to label the images in random order, too, in another project.
        seed: seed of the drawn images.
        report: called with each line for the user.
        show_progress: called with a line that replaces the one before; "" erases it.
    """

    def __init__(
        self,
        scenario: DemoScenario[Any],
        label_budget: int,
        keep_running: bool,
        compare_random: bool,
        seed: int,
        report: LogCallback,
        show_progress: LogCallback,
    ) -> None:
        self._scenario = scenario
        self._label_budget = min(label_budget, scenario.pool_size)
        self._keep_running = keep_running
        self._compare_random = compare_random
        self._seed = seed
        self._report = report
        self._show_progress = show_progress
        self._folder = Path(tempfile.mkdtemp(prefix="prelabel-demo-"))
        self._label_studio = LabelStudioServer(self._folder / "label-studio", find_free_port(8080))
        self._backend_url = f"http://127.0.0.1:{find_free_port(9090)}"
        self._backend_process: ServerProcess | None = None
        self._image_count = scenario.pool_size + scenario.held_out_size

    def run(self) -> Json:
        """Run the demo and return its figures for ``--json``.

        Raises:
            PrelabelError: a step failed; all processes are stopped.
        """
        started = time.monotonic()
        succeeded = False
        try:
            run = self._label()
            succeeded = True
        finally:
            if not (succeeded and self._keep_running):
                self._clean_up()
        seconds = round(time.monotonic() - started, 1)
        labels, suggested, correct = len(run.outcomes), run.suggested_count, run.correct_count
        self._report(
            f"\n{suggested} of {labels} images were pre-annotated; {correct} needed no correction. "
            f"On held-out images the model reaches {self._scenario.metric} "
            f"{run.curve[-1]['accuracy']:.0%}. The demo took {seconds:.0f} s."
        )
        addresses = self._addresses(run.project) if self._keep_running else {}
        if addresses:
            self._report_addresses(addresses)
        return {
            "task": self._scenario.task,
            "metric": self._scenario.metric,
            "seconds": seconds,
            "curve": run.curve,
            "labels": labels,
            "suggested": suggested,
            "right": correct,
            "corrected": suggested - correct,
            "saved": correct,
            **addresses,
        }

    def _label(self) -> LabelingRun:
        self._report(f"The data of this demo is in {self._folder}.")
        images = self._start_and_draw()
        annotator = SimulatedAnnotator(self._label_studio.url, self._label_studio.token)
        with contextlib.closing(annotator):
            run = LabelingRun(
                *(self._scenario, annotator, images, self._backend_url),
                *(self._report, self._show_progress),
            )
            self._report(f"Importing {len(images.files)} images into project {run.project} …")
            annotator.upload_images(run.project, images.files)
            self._start_backend()
            annotator.connect_backend(run.project, self._backend_url)
            if self._compare_random:
                run.add_random_project(self._seed)
            self._report(f"Connected {self._backend_url}. The simulated annotator starts.\n")
            try:
                run.label(self._label_budget)
            except StalledRoundError as error:
                raise PrelabelError(
                    f"{error} Last line of its log: {self._last_log_line()}"
                ) from error
            return run

    def _start_and_draw(self) -> DrawnImages:
        """Draw the images while Label Studio creates its database."""
        self._label_studio.start()
        images = DrawnImages()

        def drawn_text() -> str:
            return f"{len(images.truth_by_name)} of {self._image_count} images drawn"

        def show_start(elapsed_seconds: float) -> None:
            self._show_progress(f"Starting Label Studio … {elapsed_seconds:3.0f} s, {drawn_text()}")

        with ThreadPoolExecutor(1) as pool:
            drawing: Future[None] = pool.submit(self._draw, images)
            self._label_studio.wait_until_ready(show_start)
            while not drawing.done():
                self._show_progress(f"Drawing … {drawn_text()}")
                time.sleep(PROGRESS_INTERVAL_SECONDS)
            drawing.result()
        self._show_progress("")
        self._report(f"Label Studio runs at {self._label_studio.url}.")
        return images

    def _draw(self, images: DrawnImages) -> None:
        folder = self._folder / "images"
        folder.mkdir()
        for number, scene in enumerate(self._scenario.draw_images(self._image_count, self._seed)):
            file = folder / f"{scene.name}.jpg"
            scene.image.save(file, quality=88)
            images.truth_by_name[scene.name] = scene.truth
            if number < self._scenario.pool_size:
                images.files.append(file)
                continue
            content = base64.b64encode(file.read_bytes()).decode()
            data = {"image": f"data:image/jpeg;base64,{content}"}
            images.held_out_tasks.append({"id": 10**9 + number, "name": file.stem, "data": data})

    def _start_backend(self) -> None:
        environment = {
            "PRELABEL_HOME": str(self._folder / "prelabel"),
            **self._scenario.settings,
            "PRELABEL_RETRAIN_AFTER": str(LABELS_PER_ROUND),
            "PRELABEL_RETRAIN_QUIET": "5",
            "LABEL_STUDIO_URL": self._label_studio.url,
            "LABEL_STUDIO_API_KEY": self._label_studio.token,
        }
        port = self._backend_url.rpartition(":")[2]
        command = [sys.executable, "-m", "backend.cli", "serve", "--port", port]
        self._backend_process = ServerProcess(command, environment, self._folder / "backend.log")
        self._backend_process.wait_until_ready(f"{self._backend_url}/health", 60)

    def _last_log_line(self) -> str:
        return self._backend_process.last_log_line() if self._backend_process else ""

    def _report_addresses(self, addresses: Json) -> None:
        self._report(
            f"\nStill running: Label Studio at {self._label_studio.url} (log in as {LOCAL_EMAIL} "
            f"with {self._label_studio.password}), the backend at {self._backend_url}."
        )
        self._report(f"Label here: {addresses['labeling_url']}")
        pids = " ".join(map(str, addresses["pids"]))
        self._report(f"Stop both and delete the data: kill {pids}; rm -r {self._folder}")

    def _addresses(self, project: int) -> Json:
        client = LabelStudioClient(self._label_studio.url, self._label_studio.token)
        backend_pids = [self._backend_process.pid] if self._backend_process else []
        return {
            "label_studio": self._label_studio.url,
            "user": LOCAL_EMAIL,
            "password": self._label_studio.password,
            "labeling_url": ensure_labeling_url(client, project),
            "backend": self._backend_url,
            "pids": [self._label_studio.pid, *backend_pids],
            "folder": str(self._folder),
        }

    def _clean_up(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):  # uv forwards what a group gets already
                signal.signal(number, signal.SIG_IGN)
        if self._backend_process is not None:
            self._backend_process.stop()
        self._label_studio.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


class StalledRoundError(PrelabelError):
    """Raised if a round makes no progress."""


class LabelingRun:
    """A project that the annotator labels, and its figures.

    Args:
        scenario: labeling job of the demo.
        annotator: labels the tasks.
        images: images and their ground truth.
        backend_url: address of the backend.
        report: called with each line for the user.
        show_progress: called with a line that replaces the one before; "" erases it.

    Attributes:
        project: number of the project.
        curve: for each round, ``labels``, ``accuracy``, ``audit``, ``version`` and, if compared,
            ``random``, the accuracy after as many labels in random order.
        outcomes: for each labeled task, whether its pre-annotation needed no correction; None if
            it had none.
    """

    def __init__(
        self,
        scenario: DemoScenario[Any],
        annotator: SimulatedAnnotator,
        images: DrawnImages,
        backend_url: str,
        report: LogCallback,
        show_progress: LogCallback,
    ) -> None:
        self._scenario = scenario
        self._config = (LABEL_CONFIG_FOLDER / scenario.config_file).read_text(encoding="utf-8")
        self._annotator = annotator
        self._images = images
        self._backend_url = backend_url
        self._report = report
        self._show_progress = show_progress
        self._random_project = 0
        self._random_tasks: list[Json] = []
        self.project = annotator.create_project(scenario.title, self._config)
        self.curve: list[Json] = []
        self.outcomes: list[bool | None] = []

    @property
    def correct_count(self) -> int:
        """Number of pre-annotations that needed no correction."""
        return sum(bool(outcome) for outcome in self.outcomes)

    @property
    def suggested_count(self) -> int:
        """Number of labeled tasks that had a pre-annotation."""
        return sum(outcome is not None for outcome in self.outcomes)

    def add_random_project(self, seed: int) -> None:
        """Create a second project with the same images, to label in random order."""
        annotator, title = self._annotator, f"{self._scenario.title} (random order)"
        self._random_project = annotator.create_project(title, self._config)
        annotator.upload_images(self._random_project, self._images.files)
        annotator.connect_backend(self._random_project, self._backend_url)
        self._random_tasks = annotator.list_tasks(self._random_project)
        random.Random(seed).shuffle(self._random_tasks)  # noqa: S311 - no secret

    def label(self, label_budget: int) -> None:
        """Label a number of tasks, and measure the accuracy after each round."""
        random_header = f"{'random order':>14}" if self._random_project else ""
        header = f"{'labels':>6}  {'held-out images':>17}{random_header}  {'audit set':<28}"
        self._report(f"{header} no correction")
        self._measure_round()
        while len(self.outcomes) < label_budget:
            batch_size = min(LABELS_PER_ROUND, label_budget - len(self.outcomes))
            for _ in range(batch_size):
                self._label_next_task()
                self._show_progress(f"{len(self.outcomes):>6}  labeling …")
            for task in self._random_tasks[:batch_size]:
                self._submit_truth(task)
            del self._random_tasks[:batch_size]
            self._measure_round()

    def _label_next_task(self) -> None:
        task = self._annotator.next_task(self.project)
        truth = self._submit_truth(task)
        regions = suggested_regions(task)
        is_correct = None if regions is None else self._scenario.is_correct(regions, truth)
        self.outcomes.append(is_correct)

    def _submit_truth(self, task: Json) -> Any:
        truth = self._images.truth_of(task)
        self._annotator.submit_annotation(task, self._scenario.make_annotation(truth))
        return truth

    def _measure_round(self) -> None:
        """Wait for the round with all labels, and measure the accuracy of its version."""
        labels = len(self.outcomes)
        state = self._wait_for_round(self.project, labels)
        accuracy = self._measure_accuracy(self.project)
        audit = {key: state["audit"][key] for key in ("n", "value", "low", "high")}
        point = {"labels": labels, "accuracy": accuracy, "audit": audit}
        point["version"] = state["version"]
        random_column = ""
        if self._random_project:
            self._wait_for_round(self._random_project, labels)
            point["random"] = self._measure_accuracy(self._random_project)
            random_column = f"{point['random']:>14.0%}"
        self.curve.append(point)
        recent = self.outcomes[-LABELS_PER_ROUND:]
        correct_text = f"{sum(map(bool, recent))} of {len(recent)}" if recent else ""
        self._show_progress("")
        columns = f"{labels:>6}  {accuracy:>17.0%}{random_column}  {_format_interval(audit):<28}"
        self._report(f"{columns} {correct_text}")

    def _wait_for_round(self, project: int, labels: int) -> Json:
        last_change, last_round = time.monotonic(), None
        while time.monotonic() - last_change < STALLED_ROUND_SECONDS:
            state = self._fetch_project(project)
            round_state = state["round"]
            if round_state != last_round:
                last_change, last_round = time.monotonic(), round_state
            has_labels = state["labels"] >= labels and not state["waiting"]
            if (
                round_state["state"] == "idle"
                and has_labels
                and state["version"]
                and self._annotator.live_version(project) == state["version"]
            ):
                return state
            if round_state["error"]:
                raise PrelabelError(f"The round failed: {round_state['error']}")
            progress = f"{round_state['state']} {round_state['progress']:.0%}"
            self._show_progress(f"{labels:>6}  {progress} {round_state['detail'] or ''}")
            time.sleep(PROGRESS_INTERVAL_SECONDS)
        raise StalledRoundError(
            f"The round made no progress for {STALLED_ROUND_SECONDS:.0f} s; check the backend."
        )

    def _fetch_project(self, project: int) -> Json:
        url = f"{self._backend_url}/api/projects/{project}"
        state: Json = httpx.get(url, timeout=10, trust_env=False).json()
        return state

    def _measure_accuracy(self, project: int) -> float:
        """Compute the metric of ``/predict`` on the held-out images."""
        tasks = self._images.held_out_tasks
        body = {"tasks": tasks, "project": str(project), "label_config": self._config}
        url = f"{self._backend_url}/predict"
        response = httpx.post(url, json=body, timeout=100, trust_env=False).json()
        truths = [self._images.truth_by_name[task["name"]] for task in tasks]
        predicted = [result.get("result") or [] for result in response["results"]]
        return round(self._scenario.compute_metric(predicted, truths), 4)


def _format_interval(audit: Json) -> str:
    if audit["value"] is None or audit["n"] < MIN_FIGURE_IMAGES:
        return f"{TOO_EARLY_TEXT} (n = {audit['n']})"
    return f"{audit['value']:.0%} ({audit['low']:.0%} to {audit['high']:.0%}, n = {audit['n']})"
