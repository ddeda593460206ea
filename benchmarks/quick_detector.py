"""Measure the quick detector beside a quarter of the full training, and the full training.

    uv run python -m benchmarks.quick_detector FOLDER --weights yolo26n.pt --images 10 20 50 100
    uv run python -m benchmarks.quick_detector FOLDER --weights yolo26n.pt --label-studio 20

FOLDER is as for `benchmarks.detection`. The first command trains on random images and tests on
others, by mAP50 (for points by F1 within half the object's size). Time is CPU time, so that other
programs do not count. *Seconds an image* is the prediction of one image.

The second command draws the boxes of 20 images through a real Label Studio's API and waits for the
predictions. Goal: predictions of the quick version for the next task within 20 s on 2 idle cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from backend.domain import Control, Label
from backend.inference.detections import RegionSample, confidence_threshold, predict_samples
from backend.learning.detection_metrics import RegionKind, evaluate_detections
from backend.training.detector import DetectorTrainingJob, choose_input_size, train_detector
from backend.training.quick_detector import QuickTrainingJob, train_quick_detector
from backend.vision.detection.feature_network import load_feature_runner
from backend.vision.detection.fine_tune import BATCHES_PER_EPOCH, choose_recipe
from backend.vision.detection.network import DetectionNetwork, load_base_network
from backend.vision.detection.network_runner import load_network_runner
from backend.vision.detection.trained_detector import Detector
from benchmarks.detection import cpu_seconds, median_object_size, read_dataset
from benchmarks.servers import running_backend, running_studio
from demo.annotator import SimulatedAnnotator
from tests.support.detection_projects import make_box_region
from tests.support.drawings import DrawnObject
from tests.support.harness import wait_until

TRAINING_SECONDS = 3600
OPEN_TASKS = 40


@dataclass(frozen=True)
class Trial:
    """One training set and the images to test on."""

    control: Control
    network: DetectionNetwork
    training: Sequence[RegionSample]
    test: Sequence[RegionSample]
    cache_folder: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--test-on", type=int, default=60, help="number of test images")
    parser.add_argument("--points", action="store_true", help="centre points instead of boxes")
    parser.add_argument("--stages", nargs="+", default=["quick", "quarter", "full"])
    parser.add_argument("--seeds", type=int, default=1, help="number of random training sets")
    parser.add_argument("--label-studio", type=int, default=0, help="label so many images there")
    options = parser.parse_args()
    if options.label_studio:
        measure_first_boxes(options.folder, options.weights, options.label_studio)
        return
    labels, samples = read_dataset(options.folder, points=options.points)
    kind: RegionKind = "points" if options.points else "boxes"
    control = Control("c", "image", "image", tuple(map(Label, labels)), kind)
    network = load_base_network(options.weights)
    extents = {name: median_object_size(options.folder, name) for name in labels}
    print(f"{options.folder.name}, {options.weights.name}, {kind}")
    print(f"{'seed':>5}{'images':>7}{'stage':>9}{'figure':>9}{'CPU s':>8}{'s an image':>12}")
    with TemporaryDirectory() as cache_folder:
        for seed in range(options.seeds):
            order = np.random.default_rng(seed).permutation(len(samples))
            test = [samples[i] for i in order[-options.test_on :]]
            for count in options.images:
                training = [samples[i] for i in order[:count]]
                trial = Trial(control, network, training, test, Path(cache_folder))
                for stage in options.stages:
                    figures = measure_stage(trial, stage, extents if options.points else {})
                    print(f"{seed:>5}{count:>7}{stage:>9}{figures}", flush=True)


def measure_stage(trial: Trial, stage: str, extents: dict[str, float]) -> str:
    start = cpu_seconds()
    detector = train_stage(trial, stage)
    seconds = cpu_seconds() - start
    start = cpu_seconds()
    evaluated = predict_samples(detector, trial.control, trial.test)
    image_seconds = (cpu_seconds() - start) / len(trial.test)
    kind: RegionKind = "points" if trial.control.is_points else "boxes"
    metrics = evaluate_detections(
        evaluated,
        trial.control.label_names,
        kind,
        extents,
        confidence_threshold(detector, trial.control),
    )
    figure = (metrics.map50 or metrics.f1).value or 0.0
    return f"{figure:>9.3f}{seconds:>8.1f}{image_seconds:>12.3f}"


def train_stage(trial: Trial, stage: str) -> Detector:
    if stage == "quick":
        quick_detector = train_quick_detector(
            QuickTrainingJob(
                control=trial.control,
                samples=trial.training,
                network=trial.network,
                network_tasks=frozenset(),
                rival=None,
                input_size=choose_input_size(trial.training),
                seed=0,
                load_feature_runner=cache(
                    lambda network, size, key: load_feature_runner(
                        network, size, f"{key}-{size}", trial.cache_folder
                    )
                ),
                report=lambda done, total: None,
                cancelled=lambda: False,
            )
        )
        assert quick_detector is not None
        return quick_detector
    job = DetectorTrainingJob(
        control=trial.control,
        samples=trial.training,
        base_network=trial.network,
        previous=None,
        input_size=0,
        max_seconds=TRAINING_SECONDS,
        seed=0,
        load_runner=cache(
            lambda network, size, key: load_network_runner(
                network, size, f"{key}-{size}", trial.cache_folder
            )
        ),
        prompts=None,
        report=lambda done, total: None,
        cancelled=lambda: False,
    )
    if stage == "quarter":
        job = replace(job, max_steps=quarter_of_steps(trial))
    detector = train_detector(job)
    assert detector is not None
    return detector


def quarter_of_steps(trial: Trial) -> int:
    """Return a quarter of the optimizer steps of the full training, in whole epochs."""
    recipe = choose_recipe(trial.network, [None] * len(trial.training), 640, False, 1, 0)  # type: ignore[list-item]
    return max(BATCHES_PER_EPOCH, recipe.iterations // 4)


# -- with Label Studio ----------------------------------------------------------------------


def measure_first_boxes(folder: Path, weights: Path, label_count: int) -> None:
    """Label images and print when the next task has a prediction of the quick and full version."""
    labels, samples = read_dataset(folder, points=False)
    order = np.random.default_rng(0).permutation(len(samples))[: label_count + OPEN_TASKS]
    chosen = {f"{number:04}.jpg": samples[i] for number, i in enumerate(order)}
    with (
        running_studio() as studio,
        running_backend(
            studio, PRELABEL_DETECTOR=str(weights), PRELABEL_RETRAIN_AFTER="1000"
        ) as backend,
    ):
        annotator, user = studio.annotator, studio.user
        project = annotator.create_project("quick boxes", label_config(labels))
        files = [save_image(studio.folder, name, sample) for name, sample in chosen.items()]
        annotator.upload_images(project, files)
        connection = user.connect_backend(project, backend.url)
        version = backend.wait_for_round(project)["version"]
        tasks = user.list_tasks(project)
        for task in tasks[:label_count]:
            name = Path(task["data"]["image"]).name.partition("-")[2]
            regions = [
                make_box_region(DrawnObject(r.label, (r.x0, r.y0, r.x1, r.y1)))
                for r in chosen[name].regions
            ]
            user.submit_regions(task["id"], regions)
        start = time.monotonic()
        user.start_training(connection)
        print(f"{'version':>14}{'seconds':>9}")
        for stage in ("quick", "full"):
            version = wait_until(
                f"predictions of the {stage} version",
                partial(next_prediction, annotator, project, version),
                TRAINING_SECONDS,
            )
            print(f"{version:>14}{time.monotonic() - start:>9.1f}  {stage}", flush=True)


def next_prediction(annotator: SimulatedAnnotator, project: int, previous: str) -> str:
    """Return the version that predicted the next task; empty if it is the previous one."""
    task = annotator.next_task(project)
    versions = {p["model_version"] for p in task["predictions"]} - {previous}
    return max(versions, default="")


def save_image(folder: Path, name: str, sample: RegionSample) -> Path:
    path = folder / name
    sample.load_image().save(path, quality=95)
    return path


def label_config(labels: Sequence[str]) -> str:
    rows = "".join(f'<Label value="{label}"/>' for label in labels)
    return (
        '<View><Image name="image" value="$image"/>'
        f'<RectangleLabels name="box" toName="image">{rows}</RectangleLabels></View>'
    )


if __name__ == "__main__":
    main()
