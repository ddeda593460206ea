"""Boxes and points on real pictures with real weights, beside ultralytics called by hand.

    uv run python -m benchmarks.detection FOLDER --weights yolo26n.pt --images 10 20 50 100

FOLDER holds ``images/`` and ``annotations.json`` (``{"images": [{"file", "width", "height",
"boxes": [{label, x, y, w, h}]}]}``). The same random images train both; the same others judge both
(mAP50 by the same code; for points F1 within half the object's size). By hand means
``YOLO(weights).train`` with its defaults (100 epochs at 640 pixels) and its last weights. On
processors that compute bfloat16 its arithmetic is made as fast as ours, so that the run takes an
hour less; its seconds are those of one epoch as it is, times a hundred. Seconds are those of the
processor, not of the clock, so that other work does not count: run it on one core (``taskset``).
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

from backend.domain import Control, ImageSize, Label, Place
from backend.inference.detections import Sample, judged_on, shown
from backend.learning.detection_metrics import judge
from backend.training.detector import FindingJob, train_finder
from backend.vision.detection.network import load_base
from backend.vision.detection.network_runner import load_detector
from backend.vision.ultralytics_models import quiet_ultralytics

HELD = 100
EPOCHS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--judge-on", type=int, default=HELD, help="how many others judge")
    parser.add_argument("--seconds", type=float, default=600, help="limit of our training")
    parser.add_argument("--points", action="store_true", help="centre points instead of boxes")
    parser.add_argument("--who", nargs="+", default=["ours", "by-hand"], help="who trains")
    options = parser.parse_args()
    labels, samples = read(options.folder, points=options.points)
    order = np.random.default_rng(0).permutation(len(samples))
    first = max(max(options.images), len(samples) - options.judge_on)
    held = [samples[i] for i in order[first:]]
    print(f"{options.folder.name}, {options.weights.name}, {len(held)} images to judge on")
    print(f"{'images':>7}{'who':>9}{'figure':>9}{'seconds':>9}{'images/s':>10}", flush=True)
    for count in options.images:
        few = [samples[i] for i in order[:count]]
        if "ours" in options.who:
            row("ours", count, *ours(options, labels, few, held))
        if "by-hand" in options.who:
            row("by hand", count, *by_hand(options, labels, few, held))


def row(who: str, count: int, figure: float, seconds: float, speed: float) -> None:
    print(f"{count:>7}{who:>9}{figure:>9.3f}{seconds:>9.0f}{speed:>10.1f}", flush=True)


def read(folder: Path, points: bool) -> tuple[tuple[str, ...], list[Sample]]:
    rows = json.loads((folder / "annotations.json").read_text())["images"]
    samples = []
    for number, image in enumerate(rows):
        size = ImageSize(image["width"], image["height"])
        places = tuple(place(box, size, points) for box in image["boxes"])
        file = folder / "images" / image["file"]
        samples.append(Sample(number, partial(opened, file), size, places))
    return tuple(sorted({p.label for s in samples for p in s.places})), samples


def place(box: dict[str, Any], size: ImageSize, point: bool) -> Place:
    x0, y0 = box["x"] / size.width, box["y"] / size.height
    x1, y1 = x0 + box["w"] / size.width, y0 + box["h"] / size.height
    if point:
        x0 = x1 = (x0 + x1) / 2
        y0 = y1 = (y0 + y1) / 2
    return Place(box["label"], x0, y0, x1, y1)


def opened(file: Path) -> Image.Image:
    return Image.open(file).convert("RGB")


def ours(
    options: Any, labels: tuple[str, ...], few: Sequence[Sample], held: Sequence[Sample]
) -> tuple[float, float, float]:
    kind = "points" if options.points else "boxes"
    control = Control("c", "image", "image", tuple(map(Label, labels)), kind)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        start = spent()
        finder = train_finder(
            FindingJob(
                control=control,
                samples=few,
                base=load_base(options.weights),
                previous=None,
                size=0,
                seconds=options.seconds,
                seed=0,
                load=cache(lambda n, s, k: load_detector(n, s, k, Path(folder), print)),
                prompts=None,
                report=lambda done, of: None,
                cancelled=lambda: False,
            )
        )
        seconds = spent() - start
    assert finder is not None
    images = [sample.read() for sample in held]
    speed = per_second(lambda: finder.find(images, 0.05), len(images))
    judged = judged_on(finder, control, held)
    extents = {name: extent(options.folder, name) for name in labels} if options.points else {}
    least = shown(finder, control)
    _, figures = judge(judged, labels, "points" if options.points else "boxes", extents, least)
    return figures["f1" if options.points else "map50"] or 0.0, seconds, speed


def extent(folder: Path, label: str) -> float:
    """The usual size of a label's true boxes, in units of the longer edge."""
    _, samples = read(folder, points=False)
    sides = [
        max((p.x1 - p.x0) * s.size.width, (p.y1 - p.y0) * s.size.height)
        / max(s.size.width, s.size.height)
        for s in samples
        for p in s.places
        if p.label == label
    ]
    return float(np.median(sides))


def by_hand(
    options: Any, labels: tuple[str, ...], few: Sequence[Sample], held: Sequence[Sample]
) -> tuple[float, float, float]:
    import torch

    threads = torch.get_num_threads()  # ultralytics leaves one processor free
    ultralytics = quiet_ultralytics()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = written(folder, labels, few)
        epochs: list[float] = []
        plain(ultralytics, options.weights, data, folder / "two", epochs=2, timed=epochs)
        seconds = (epochs[-1] - epochs[-2]) * EPOCHS
        model = plain(ultralytics, options.weights, data, folder / "all", EPOCHS, hasten=threads)
    images = [np.asarray(sample.read())[..., ::-1] for sample in held]
    speed = per_second(lambda: [model.predict(i, verbose=False) for i in images], len(images))
    found = [model.predict(i, verbose=False, conf=0.02)[0].boxes for i in images]
    judged = [as_judged(boxes, labels, sample) for boxes, sample in zip(found, held, strict=True)]
    _, figures = judge(judged, labels, "boxes", {}, 0.25)
    return figures["map50"] or 0.0, seconds, speed


def plain(
    ultralytics: Any,
    weights: Path,
    data: Path,
    folder: Path,
    epochs: int,
    hasten: int = 0,
    timed: list[float] | None = None,
) -> Any:
    model = ultralytics.YOLO(str(weights))
    if timed is not None:
        model.add_callback("on_train_epoch_end", lambda trainer: timed.append(spent()))
    if hasten:
        model.add_callback("on_pretrain_routine_end", partial(quicker, threads=hasten))
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


def quicker(trainer: Any, threads: int) -> None:
    import torch

    from backend.vision.batching import computes_bf16
    from backend.vision.detection import ultralytics_trainer as mine

    torch.set_num_threads(threads)
    if computes_bf16():
        model = trainer.model.to(memory_format=torch.channels_last)
        model._predict_once = partial(mine._in_half_precision, model._predict_once)
        trainer.add_callback("on_model_save", lambda trainer: None)
        trainer.ema.ema.__dict__.pop("_predict_once", None)


def written(folder: Path, labels: Sequence[str], few: Sequence[Sample]) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for sample in few:
        sample.read().save(folder / "images" / f"{sample.task}.jpg", quality=95)
        lines = [
            f"{labels.index(p.label)} {p.centre[0]} {p.centre[1]} {p.x1 - p.x0} {p.y1 - p.y0}"
            for p in sample.places
        ]
        (folder / "labels" / f"{sample.task}.txt").write_text("\n".join(lines))
    names = "\n".join(f"  {i}: '{name}'" for i, name in enumerate(labels))
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images\nval: images\nnames:\n{names}\n")
    return data


def as_judged(boxes: Any, labels: Sequence[str], sample: Sample) -> Any:
    from backend.learning.detection_metrics import Judged

    places = tuple(
        Place(labels[int(c)], *map(float, xyxy))
        for c, xyxy in zip(boxes.cls.tolist(), boxes.xyxyn.tolist(), strict=True)
    )
    return Judged(places, tuple(boxes.conf.tolist()), sample.places, sample.ratio)


def spent() -> float:
    """Processor seconds of this process and of those it started (which read images for it)."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def per_second(work: Callable[[], object], count: int) -> float:
    work()
    start = spent()
    work()
    return count / (spent() - start)


if __name__ == "__main__":
    main()
