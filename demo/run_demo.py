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
from demo.annotator import SimulatedAnnotator, suggested_regions
from demo.label_studio import LabelStudioServer, ServerProcess, find_free_port
from demo.scenarios import LABEL_CONFIG_FOLDER, DemoScenario

LABELS_PER_ROUND = 10
STALLED_ROUND_SECONDS = 120.0
"""How long a round may show no progress; a busy machine is slow, not broken."""
POLL_SECONDS = 0.1


@dataclass
class DrawnImages:
    """The drawn images.

    Attributes:
        files: of the project.
        truth_by_name: file stem → what a person would answer, of all.
        held_out_tasks: those in no project, as tasks that carry their image with them.
    """

    files: list[Path] = field(default_factory=list)
    truth_by_name: dict[str, Any] = field(default_factory=dict)
    held_out_tasks: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class RandomOrderProject:
    """The same images in a project of their own, labeled in random order, to compare with.

    Attributes:
        project_id: its number.
        remaining_tasks: still to label, in that order.
    """

    project_id: int
    remaining_tasks: list[dict[str, Any]]


@dataclass
class DemoResult:
    """What happened.

    Attributes:
        curve: after each round: labels, accuracy, audit, version; and ``random``, the accuracy
            after as many labels in random order, where that was asked for.
        correct_suggestions: for every annotated task, whether it needed no correction;
            None where it had none.
    """

    curve: list[dict[str, Any]] = field(default_factory=list)
    correct_suggestions: list[bool | None] = field(default_factory=list)

    @property
    def correct_count(self) -> int:
        """Pre-annotations that needed no correction."""
        return sum(bool(correct) for correct in self.correct_suggestions)

    @property
    def suggested_count(self) -> int:
        """Tasks that came with a pre-annotation."""
        return sum(correct is not None for correct in self.correct_suggestions)


class Demo:
    """Plays the demo.

    Args:
        scenario: what is played.
        label_budget: how many tasks the annotator does.
        keep_running: leave Label Studio and the backend running.
        compare_random: label the same images in random order as well, in a project of their own.
        seed: of the drawings.
        report: told each line for people.
    """

    def __init__(
        self,
        scenario: DemoScenario,
        label_budget: int,
        keep_running: bool,
        compare_random: bool,
        seed: int,
        report: LogCallback,
    ) -> None:
        self._scenario = scenario
        self._config = (LABEL_CONFIG_FOLDER / scenario.config_file).read_text(encoding="utf-8")
        self._label_budget = min(label_budget, scenario.pool_size)
        self._keep_running = keep_running
        self._compare_random = compare_random
        self._seed = seed
        self._report = report
        self._folder = Path(tempfile.mkdtemp(prefix="prelabel-demo-"))
        self._label_studio = LabelStudioServer(self._folder / "label-studio", find_free_port(8080))
        self._backend_url = f"http://127.0.0.1:{find_free_port(9090)}"
        self._backend_process: ServerProcess | None = None

    def run(self) -> dict[str, Any]:
        """Everything, and the figures for ``--json``.

        Raises:
            PrelabelError: something did not work; nothing is left running.
        """
        started = time.monotonic()
        succeeded = False
        try:
            demo_result = self._run_session()
            succeeded = True
        finally:
            if not (succeeded and self._keep_running):
                self._clean_up()
        seconds = round(time.monotonic() - started, 1)
        self._report_result(demo_result, seconds)
        return {
            "task": self._scenario.task,
            "metric": self._scenario.metric,
            "seconds": seconds,
            "curve": demo_result.curve,
            "labels": len(demo_result.correct_suggestions),
            "suggested": demo_result.suggested_count,
            "right": demo_result.correct_count,
            "corrected": demo_result.suggested_count - demo_result.correct_count,
            "saved": demo_result.correct_count,
            **(self._addresses() if self._keep_running else {}),
        }

    def _run_session(self) -> DemoResult:
        self._report(f"A demo in {self._folder}: Label Studio, the backend, and drawn pictures.")
        scenes = self._start_and_draw()
        annotator = SimulatedAnnotator(self._label_studio.url, self._label_studio.token)
        with contextlib.closing(annotator):
            project = annotator.create_project(self._scenario.title, self._config)
            self._report(f"Importing {len(scenes.files)} images into project {project} …")
            annotator.upload_images(project, scenes.files)
            self._start_backend()
            annotator.connect_backend(project, self._backend_url)
            random_project = (
                self._start_random_project(annotator, scenes) if self._compare_random else None
            )
            self._report(f"Connected {self._backend_url}; the annotator starts.\n")
            return self._annotate(annotator, project, scenes, random_project)

    def _start_random_project(
        self, annotator: SimulatedAnnotator, scenes: DrawnImages
    ) -> RandomOrderProject:
        """The same start for an annotator who takes the images as they come."""
        project = annotator.create_project(f"{self._scenario.title} (random order)", self._config)
        annotator.upload_images(project, scenes.files)
        annotator.connect_backend(project, self._backend_url)
        tasks = annotator.list_tasks(project)
        random.Random(self._seed).shuffle(tasks)  # noqa: S311 - no secret
        return RandomOrderProject(project, tasks)

    def _start_and_draw(self) -> DrawnImages:
        """Draw while Label Studio makes its database."""
        self._label_studio.start()
        scenes = DrawnImages()

        def tick(elapsed_seconds: float) -> None:
            drawn_text = f"{len(scenes.truth_by_name)} of {self._image_count} images drawn"
            self._show_progress(f"Starting Label Studio … {elapsed_seconds:3.0f} s, {drawn_text}")

        with ThreadPoolExecutor(1) as pool:
            drawing: Future[None] = pool.submit(self._draw, scenes)
            self._label_studio.wait_until_ready(tick)
            while not drawing.done():
                self._show_progress(
                    f"Drawing … {len(scenes.truth_by_name)} of {self._image_count} images"
                )
                time.sleep(POLL_SECONDS)
            drawing.result()
        self._show_progress("")
        self._report(f"Label Studio runs at {self._label_studio.url}.")
        return scenes

    def _draw(self, scenes: DrawnImages) -> None:
        folder = self._folder / "images"
        folder.mkdir()
        for number, scene in enumerate(self._scenario.draw_images(self._image_count, self._seed)):
            file = folder / f"{scene.name}.jpg"
            scene.image.save(file, quality=88)
            scenes.truth_by_name[scene.name] = scene.truth
            if number < self._scenario.pool_size:
                scenes.files.append(file)
            else:
                scenes.held_out_tasks.append(_inline_task(number, file))

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
        self._backend_process.wait_until_ready(
            f"{self._backend_url}/health", 60, lambda waited: None
        )

    def _annotate(
        self,
        annotator: SimulatedAnnotator,
        project: int,
        scenes: DrawnImages,
        random_project: RandomOrderProject | None,
    ) -> DemoResult:
        demo_result = DemoResult()
        random_header = f"{'random order':>14}" if random_project else ""
        self._report(
            f"{'labels':>6}  {'against the truth':>17}{random_header}  "
            f"{'audit slice':<28} no correction"
        )
        self._measure_round(annotator, project, scenes, demo_result, random_project)
        while len(demo_result.correct_suggestions) < self._label_budget:
            batch_size = min(
                LABELS_PER_ROUND, self._label_budget - len(demo_result.correct_suggestions)
            )
            for _ in range(batch_size):
                self._label_next_task(annotator, project, scenes, demo_result)
                self._show_progress(f"{len(demo_result.correct_suggestions):>6}  labeling …")
            if random_project:
                for task in random_project.remaining_tasks[:batch_size]:
                    annotator.submit_annotation(
                        task, self._scenario.make_annotation(_task_truth(scenes, task))
                    )
                del random_project.remaining_tasks[:batch_size]
            self._measure_round(annotator, project, scenes, demo_result, random_project)
        return demo_result

    def _label_next_task(
        self,
        annotator: SimulatedAnnotator,
        project: int,
        scenes: DrawnImages,
        demo_result: DemoResult,
    ) -> None:
        task = annotator.next_task(project)
        truth = _task_truth(scenes, task)
        annotator.submit_annotation(task, self._scenario.make_annotation(truth))
        regions = suggested_regions(task)
        demo_result.correct_suggestions.append(
            None if regions is None else self._scenario.is_correct(regions, truth)
        )

    def _measure_round(
        self,
        annotator: SimulatedAnnotator,
        project: int,
        scenes: DrawnImages,
        demo_result: DemoResult,
        random_project: RandomOrderProject | None,
    ) -> None:
        """Wait for the round that has seen all labels, and measure its version."""
        labels = len(demo_result.correct_suggestions)
        state = self._wait_for_round(annotator, project, labels)
        accuracy = self._measure_accuracy(project, scenes)
        audit = {key: state["audit"][key] for key in ("n", "value", "low", "high")}
        curve_point = {
            "labels": labels,
            "accuracy": accuracy,
            "audit": audit,
            "version": state["version"],
        }
        random_column = ""
        if random_project:
            self._wait_for_round(annotator, random_project.project_id, labels)
            curve_point["random"] = self._measure_accuracy(random_project.project_id, scenes)
            random_column = f"{curve_point['random']:>14.0%}"
        demo_result.curve.append(curve_point)
        recent = demo_result.correct_suggestions[-LABELS_PER_ROUND:]
        uncorrected_text = f"{sum(map(bool, recent))} of {len(recent)}" if recent else ""
        self._show_progress("")
        self._report(
            f"{labels:>6}  {accuracy:>17.0%}{random_column}  "
            f"{_format_interval(audit):<28} {uncorrected_text}"
        )

    def _wait_for_round(
        self, annotator: SimulatedAnnotator, project: int, labels: int
    ) -> dict[str, Any]:
        last_change, last_round_state = time.monotonic(), None
        while time.monotonic() - last_change < STALLED_ROUND_SECONDS:
            state = self._fetch_project(project)
            round_state = state["round"]
            if round_state != last_round_state:
                last_change, last_round_state = time.monotonic(), round_state
            is_done = (
                round_state["state"] == "idle"
                and state["labels"] >= labels
                and not state["waiting"]
            )
            if is_done and state["version"] and annotator.live_version(project) == state["version"]:
                return state
            if round_state["error"]:
                raise PrelabelError(f"The round failed: {round_state['error']}")
            detail = round_state["detail"] or ""
            self._show_progress(
                f"{labels:>6}  {round_state['state']} {round_state['progress']:.0%} {detail}"
            )
            time.sleep(POLL_SECONDS)
        raise PrelabelError(
            f"The round stood still for {STALLED_ROUND_SECONDS:.0f} s. The backend said last: "
            f"{self._last_log_line()}"
        )

    def _last_log_line(self) -> str:
        """The end of the backend's log, which goes with the folder."""
        lines = (self._folder / "backend.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "nothing"

    def _fetch_project(self, project: int) -> dict[str, Any]:
        state: dict[str, Any] = httpx.get(
            f"{self._backend_url}/api/projects/{project}", timeout=10, trust_env=False
        ).json()
        return state

    def _measure_accuracy(self, project: int, scenes: DrawnImages) -> float:
        """How good the answers to images are that are in no project, asked by /predict."""
        body = {
            "tasks": scenes.held_out_tasks,
            "project": str(project),
            "label_config": self._config,
        }
        response = httpx.post(
            f"{self._backend_url}/predict", json=body, timeout=100, trust_env=False
        ).json()
        truths = [scenes.truth_by_name[task["name"]] for task in scenes.held_out_tasks]
        predicted = [result.get("result") or [] for result in response["results"]]
        return round(self._scenario.compute_metric(predicted, truths), 4)

    @property
    def _image_count(self) -> int:
        return self._scenario.pool_size + self._scenario.held_out_size

    # -- the end ----------------------------------------------------------------------------

    def _report_result(self, demo_result: DemoResult, seconds: float) -> None:
        last_point = demo_result.curve[-1]
        self._report(
            f"\n{demo_result.suggested_count} of {len(demo_result.correct_suggestions)} images "
            "came with a pre-annotation; "
            f"{demo_result.correct_count} needed no correction. "
            f"The model now reaches {self._scenario.metric} "
            f"{last_point['accuracy']:.0%} on images it has never seen. {seconds:.0f} s in all."
        )
        if self._keep_running:
            self._report_addresses()

    def _report_addresses(self) -> None:
        addresses = self._addresses()
        self._report(
            f"\nStill running: Label Studio at {addresses['label_studio']} "
            f"(log in as {addresses['user']} "
            f"with {addresses['password']}), the backend at {addresses['backend']}."
        )
        self._report(
            f"End both with: kill {' '.join(map(str, addresses['pids']))}; rm -r {self._folder}"
        )

    def _addresses(self) -> dict[str, Any]:
        from demo.label_studio import DEMO_EMAIL

        return {
            "label_studio": self._label_studio.url,
            "user": DEMO_EMAIL,
            "password": self._label_studio.password,
            "backend": self._backend_url,
            "pids": [
                self._label_studio.pid,
                *([self._backend_process.pid] if self._backend_process else []),
            ],
            "folder": str(self._folder),
        }

    def _clean_up(self) -> None:
        if self._backend_process is not None:
            self._backend_process.stop()
        self._label_studio.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _show_progress(self, line: str) -> None:
        """A line that the next one overwrites; only for eyes."""
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _inline_task(number: int, file: Path) -> dict[str, Any]:
    content = base64.b64encode(file.read_bytes()).decode()
    data = {"image": f"data:image/jpeg;base64,{content}"}
    return {"id": 10**9 + number, "name": file.stem, "data": data}


def _task_truth(scenes: DrawnImages, task: dict[str, Any]) -> Any:
    return scenes.truth_by_name[_image_stem(task["data"]["image"])]


def _image_stem(address: str) -> str:
    """``/data/upload/1/1a2b3c4d-plant-0007.jpg`` → ``plant-0007``."""
    return Path(address).stem.partition("-")[2]


def _format_interval(audit: dict[str, Any]) -> str:
    if audit["value"] is None:
        return "no audit label yet"
    return f"{audit['value']:.0%} ({audit['low']:.0%} to {audit['high']:.0%}, n = {audit['n']})"
