"""Compare detector training with plain ultralytics, on real images with real weights.

    uv run python -m benchmarks.detection FOLDER --weights yolo26n.pt --images 10 20 50 100

FOLDER holds ``images/`` and ``annotations.json`` (``{"images": [{"file", "width", "height",
"boxes": [{label, x, y, w, h}]}]}``). Both are trained on the same random images and tested on the
same others, by mAP50 (for points by F1 within half the object's size). *By hand* is
``YOLO(weights).train`` with its defaults (100 epochs at 640 pixels) and its last weights. On CPUs
with bfloat16 its arithmetic is sped up as ours is, which saves an hour; its time is that of one
unmodified epoch, times a hundred. Time is CPU time, so that other programs do not count; run it on
one core (``taskset``).

Goal: at least the accuracy of ultralytics in less time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from backend.domain import Control, ImageSize, Label, Region
from backend.inference.detections import RegionSample, confidence_threshold, predict_samples
from backend.learning.detection_metrics import DetectionSample, RegionKind, evaluate_detections
from backend.training.detector import DetectorTrainingJob, train_detector
from backend.vision.detection.network import load_base_network
from backend.vision.detection.network_runner import load_network_runner
from backend.vision.ultralytics_models import import_ultralytics

HELD_OUT_COUNT = 100
BASELINE_EPOCHS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument(
        "--judge-on", type=int, default=HELD_OUT_COUNT, help="number of test images"
    )
    parser.add_argument("--seconds", type=float, default=600, help="time limit of our training")
    parser.add_argument("--points", action="store_true", help="centre points instead of boxes")
    parser.add_argument("--who", nargs="+", default=["ours", "by-hand"], help="what to train")
    options = parser.parse_args()
    labels, samples = read_dataset(options.folder, points=options.points)
    order = np.random.default_rng(0).permutation(len(samples))
    held_out_start = max(max(options.images), len(samples) - options.judge_on)
    held_out_samples = [samples[i] for i in order[held_out_start:]]
    print(f"{options.folder.name}, {options.weights.name}, {len(held_out_samples)} test images")
    print(f"{'images':>7}{'who':>9}{'figure':>9}{'seconds':>9}{'images/s':>10}", flush=True)
    for count in options.images:
        training_samples = [samples[i] for i in order[:count]]
        if "ours" in options.who:
            print_result(
                "ours", count, *measure_ours(options, labels, training_samples, held_out_samples)
            )
        if "by-hand" in options.who:
            print_result(
                "by hand",
                count,
                *measure_baseline(options, labels, training_samples, held_out_samples),
            )


def print_result(
    trainer_name: str, count: int, figure: float, seconds: float, speed: float
) -> None:
    print(f"{count:>7}{trainer_name:>9}{figure:>9.3f}{seconds:>9.0f}{speed:>10.1f}", flush=True)


def read_dataset(folder: Path, points: bool) -> tuple[tuple[str, ...], list[RegionSample]]:
    image_rows = json.loads((folder / "annotations.json").read_text())["images"]
    samples = []
    for number, image in enumerate(image_rows):
        size = ImageSize(image["width"], image["height"])
        regions = tuple(make_region(box, size, points) for box in image["boxes"])
        file = folder / "images" / image["file"]
        samples.append(RegionSample(number, partial(open_image, file), size, regions))
    return tuple(sorted({p.label for s in samples for p in s.regions})), samples


def make_region(box: dict[str, Any], size: ImageSize, point: bool) -> Region:
    x0, y0 = box["x"] / size.width, box["y"] / size.height
    x1, y1 = x0 + box["w"] / size.width, y0 + box["h"] / size.height
    if point:
        x0 = x1 = (x0 + x1) / 2
        y0 = y1 = (y0 + y1) / 2
    return Region(box["label"], x0, y0, x1, y1)


def open_image(file: Path) -> Image.Image:
    return Image.open(file).convert("RGB")


def measure_ours(
    options: Any,
    labels: tuple[str, ...],
    training_samples: Sequence[RegionSample],
    held_out_samples: Sequence[RegionSample],
) -> tuple[float, float, float]:
    kind: RegionKind = "points" if options.points else "boxes"
    control = Control("c", "image", "image", tuple(map(Label, labels)), kind)
    with tempfile.TemporaryDirectory() as folder:
        start = cpu_seconds()
        detector = train_detector(
            DetectorTrainingJob(
                control=control,
                samples=training_samples,
                base_network=load_base_network(options.weights),
                previous=None,
                input_size=0,
                max_seconds=options.seconds,
                seed=0,
                load_runner=cache(
                    lambda n, s, k: load_network_runner(n, s, k, Path(folder), print)
                ),
                prompts=None,
                report=lambda done, of: None,
                cancelled=lambda: False,
            )
        )
        seconds = cpu_seconds() - start
    assert detector is not None
    images = [sample.load_image() for sample in held_out_samples]
    throughput = images_per_second(lambda: detector.detect(images, 0.05), len(images))
    judged = predict_samples(detector, control, held_out_samples)
    extents = (
        {name: median_object_size(options.folder, name) for name in labels}
        if options.points
        else {}
    )
    min_confidence = confidence_threshold(detector, control)
    metrics = evaluate_detections(judged, labels, kind, extents, min_confidence)
    return (metrics.map50 or metrics.f1).value or 0.0, seconds, throughput


def median_object_size(folder: Path, label: str) -> float:
    """Return the median size of a label's boxes, in units of the longer edge."""
    _, samples = read_dataset(folder, points=False)
    longer_sides = [
        max((p.x1 - p.x0) * s.size.width, (p.y1 - p.y0) * s.size.height)
        / max(s.size.width, s.size.height)
        for s in samples
        for p in s.regions
        if p.label == label
    ]
    return float(np.median(longer_sides))


def measure_baseline(
    options: Any,
    labels: tuple[str, ...],
    training_samples: Sequence[RegionSample],
    held_out_samples: Sequence[RegionSample],
) -> tuple[float, float, float]:
    import torch

    threads = torch.get_num_threads()  # ultralytics would leave one core idle
    ultralytics = import_ultralytics()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_yolo_dataset(folder, labels, training_samples)
        epochs: list[float] = []
        train_baseline(
            ultralytics, options.weights, data, folder / "two", epochs=2, epoch_ends=epochs
        )
        seconds = (epochs[-1] - epochs[-2]) * BASELINE_EPOCHS
        model = train_baseline(
            ultralytics,
            options.weights,
            data,
            folder / "all",
            BASELINE_EPOCHS,
            thread_count=threads,
        )
    images = [np.asarray(sample.load_image())[..., ::-1] for sample in held_out_samples]
    throughput = images_per_second(
        lambda: [model.predict(i, verbose=False) for i in images], len(images)
    )
    predicted_boxes = [model.predict(i, verbose=False, conf=0.02)[0].boxes for i in images]
    judged = [
        make_judged(boxes, labels, sample)
        for boxes, sample in zip(predicted_boxes, held_out_samples, strict=True)
    ]
    metrics = evaluate_detections(judged, labels, "boxes", {}, 0.25)
    return (metrics.map50 or metrics.f1).value or 0.0, seconds, throughput


def train_baseline(
    ultralytics: Any,
    weights: Path,
    data: Path,
    folder: Path,
    epochs: int,
    thread_count: int = 0,
    epoch_ends: list[float] | None = None,
) -> Any:
    model = ultralytics.YOLO(str(weights))
    if epoch_ends is not None:
        model.add_callback("on_train_epoch_end", lambda trainer: epoch_ends.append(cpu_seconds()))
    if thread_count:
        model.add_callback(
            "on_pretrain_routine_end", partial(speed_up_trainer, threads=thread_count)
        )
    model.train(
        data=str(data),
        epochs=epochs,
        project=str(folder),
        plots=False,
        val=False,
        verbose=False,
        amp=False,
    )
    return ultralytics.YOLO(str(next(folder.rglob("last.pt"))))


def speed_up_trainer(trainer: Any, threads: int) -> None:
    import torch

    from backend.vision.batching import supports_bf16
    from backend.vision.detection import ultralytics_trainer as mine

    torch.set_num_threads(threads)
    if supports_bf16():
        model = trainer.model.to(memory_format=torch.channels_last)
        model._predict_once = partial(mine._forward_bf16, model._predict_once)
        trainer.add_callback("on_model_save", lambda trainer: None)
        trainer.ema.ema.__dict__.pop("_predict_once", None)


def write_yolo_dataset(
    folder: Path, labels: Sequence[str], training_samples: Sequence[RegionSample]
) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for sample in training_samples:
        sample.load_image().save(folder / "images" / f"{sample.task_id}.jpg", quality=95)
        lines = [
            f"{labels.index(p.label)} {p.center[0]} {p.center[1]} {p.x1 - p.x0} {p.y1 - p.y0}"
            for p in sample.regions
        ]
        (folder / "labels" / f"{sample.task_id}.txt").write_text("\n".join(lines))
    names = "\n".join(f"  {i}: '{name}'" for i, name in enumerate(labels))
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images\nval: images\nnames:\n{names}\n")
    return data


def make_judged(boxes: Any, labels: Sequence[str], sample: RegionSample) -> DetectionSample:
    regions = tuple(
        Region(labels[int(c)], *map(float, xyxy))
        for c, xyxy in zip(boxes.cls.tolist(), boxes.xyxyn.tolist(), strict=True)
    )
    return DetectionSample(regions, tuple(boxes.conf.tolist()), sample.regions, sample.aspect_ratio)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children, which load images."""
    process_self = psutil.Process()
    times = [
        process.cpu_times() for process in (process_self, *process_self.children(recursive=True))
    ]
    return float(sum(cpu_times.user + cpu_times.system for cpu_times in times))


def images_per_second(work: Callable[[], object], count: int) -> float:
    work()
    start = cpu_seconds()
    work()
    return count / (cpu_seconds() - start)


if __name__ == "__main__":
    main()
