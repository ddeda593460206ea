"""Ultralytics' trainer on our own examples: no data YAML, no label files, no validation, no report.

Imported only after :func:`backend.vision.ultralytics_models.quiet_ultralytics`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.data.build import InfiniteDataLoader, seed_worker
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect.train import DetectionTrainer
from ultralytics.utils import LOGGER, callbacks

from backend.vision.batching import computes_bf16
from backend.vision.detection.letterbox import scaled
from backend.vision.detection.training_example import Example

KEPT_BYTES = 1_000_000_000
"""Scaled images that are kept in memory while training; others are read again."""

LOGGER.disabled = True


class Examples(YOLODataset):  # type: ignore[misc]
    """Our examples as ultralytics wants to see them.

    Args:
        examples: what to learn from.
        classes: names of the network's outputs.
        args: of ultralytics.
        stretched: images become squares, as an RT-DETR looks at them.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        classes: Sequence[str],
        args: Any,
        stretched: bool = False,
    ) -> None:
        self.examples = examples
        self._stretched = stretched
        self._kept: dict[int, Any] = {}
        self._bytes = 0
        super().__init__(
            img_path="",
            imgsz=args.imgsz,
            augment=True,
            hyp=args,
            data={"names": dict(enumerate(classes)), "channels": 3},
        )
        self.buffer = list(range(self.ni))  # mosaic picks among all
        self.max_buffer_length = self.ni

    def get_img_files(self, img_path: Any) -> list[str]:
        """One name an example; nothing is read from it."""
        return [f"{number}.jpg" for number in range(len(self.examples))]

    def get_labels(self) -> list[dict[str, Any]]:
        """Boxes as middle and size, 0 to 1."""
        return [_label(name, e) for name, e in zip(self.im_files, self.examples, strict=True)]

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[Any, tuple[int, int], tuple[int, int]]:
        """BGR pixels at training size, and the size before and after."""
        if i not in self._kept:
            pixels, before = self._read(i, keep_ratio=rect_mode and not self._stretched)
            if self._bytes + pixels.nbytes > KEPT_BYTES:
                return pixels, before, pixels.shape[:2]
            self._kept[i] = pixels, before
            self._bytes += pixels.nbytes
        pixels, before = self._kept[i]
        return pixels, before, pixels.shape[:2]

    def _read(self, i: int, keep_ratio: bool) -> tuple[Any, tuple[int, int]]:
        image = self.examples[i].read()
        width, height = image.size
        factor = self.imgsz / max(width, height)
        size = (self.imgsz, self.imgsz)
        if keep_ratio:
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
        return np.ascontiguousarray(np.asarray(scaled(image, size))[..., ::-1]), (height, width)


class Stream(torch.utils.data.Sampler[int]):  # type: ignore[misc]
    """Endlessly shuffled examples in "epochs" of a steady length, however few or many there are."""

    def __init__(self, count: int, length: int, seed: int) -> None:
        self._count, self._length = count, length
        self._random = np.random.default_rng(seed)
        self._waiting: list[int] = []

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        for _ in range(self._length):
            if not self._waiting:
                self._waiting = self._random.permutation(self._count).tolist()
            yield self._waiting.pop()


class Limits:
    """Ends training in time, and tells how far it is.

    The schedule is shortened so that its end fits; where not even an epoch does, as on a machine
    that many use, training stops after the batch that took too long.

    Args:
        seconds: that training may take.
        report: told (done, of) after each epoch.
        cancelled: asked after each batch.
    """

    def __init__(
        self, seconds: float, report: Callable[[int, int], None], cancelled: Callable[[], bool]
    ) -> None:
        self._seconds, self._report, self._cancelled = seconds, report, cancelled
        self._last = self._end = math.inf
        self._took: list[float] = []
        self._planned = 0
        self.was_cancelled = False

    def add_to(self, trainer: Any) -> None:
        """Listen to a trainer."""
        trainer.add_callback("on_train_start", self._started)
        trainer.add_callback("on_train_batch_end", self._batch)
        trainer.add_callback("on_train_epoch_end", self._epoch)

    def _started(self, trainer: Any) -> None:
        self._last, self._planned = time.monotonic(), trainer.epochs
        self._end = self._last + self._seconds

    def _batch(self, trainer: Any) -> None:
        if self._cancelled():
            self.was_cancelled = trainer.stop = True
        if time.monotonic() > self._end:
            trainer.stop = True

    def _epoch(self, trainer: Any) -> None:
        now = time.monotonic()
        self._took.append(now - self._last)
        self._last = now
        fits = self._fitting()
        if fits != trainer.epochs:
            trainer.epochs = trainer.args.epochs = fits
            trainer._setup_scheduler()
            trainer.scheduler.last_epoch = trainer.epoch
        self._report(len(self._took), trainer.epochs)

    def _fitting(self) -> int:
        """Epochs that fit, by the usual one so far.

        The first takes longer than the others, and one that a busy machine held up says little:
        the plan gets shorter and longer again, never longer than it was.
        """
        done, left = len(self._took), self._seconds - sum(self._took)
        if done == 1 and left > self._seconds / 2:
            return self._planned
        usual = float(np.median(self._took[1:] or self._took))
        return min(self._planned, done + max(0, int(left / max(usual, 1e-6))))


class Threads:
    """One thread or all: whichever computes the first batches faster.

    Threads of a small network wait for each other more than they compute, above all where other
    programs run; measured on 2 cores for small.yaml at 160 pixels: 0.05 s a batch with one thread,
    0.11 with two. YOLO26n at 640 pixels takes half as long with two.
    """

    WARM, TRIED = 2, 3
    """Batches that do not count, and batches that each way is tried on."""

    def __init__(self, most: int) -> None:
        self._ways = [most, 1]
        self._took: dict[int, list[float]] = {most: [], 1: []}
        self._batches = 0
        self._start = 0.0

    def add_to(self, trainer: Any) -> None:
        """Listen to a trainer."""
        torch.set_num_threads(self._ways[0])
        if self._ways[0] > 1:
            trainer.add_callback("on_train_batch_start", self._before)
            trainer.add_callback("on_train_batch_end", self._after)

    def _before(self, trainer: Any) -> None:
        self._start = time.monotonic()

    def _after(self, trainer: Any) -> None:
        way, place = divmod(self._batches, self.WARM + self.TRIED)
        if way >= len(self._ways):
            return
        if place >= self.WARM:
            self._took[self._ways[way]].append(time.monotonic() - self._start)
        self._batches += 1
        if self._batches == self.WARM + self.TRIED:
            torch.set_num_threads(self._ways[1])
        if self._batches == 2 * (self.WARM + self.TRIED):
            torch.set_num_threads(min(self._ways, key=lambda way: min(self._took[way])))


class _Ours:
    """What both trainers do differently from ultralytics: data, and nothing written or judged."""

    examples: Sequence[Example]
    classes: Sequence[str]
    left: Sequence[int]
    per_epoch: int
    stretched: bool = False
    train_loader: Any

    def get_dataset(self) -> dict[str, Any]:
        """No YAML: it could download and run what it names."""
        names = dict(enumerate(self.classes))
        return {"train": "", "val": "", "nc": len(names), "names": names, "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Our examples; nothing to validate on."""
        args = self.args  # type: ignore[attr-defined]
        return Examples(self.examples, self.classes, args, self.stretched)

    def get_dataloader(
        self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> Any:
        """Batches in epochs of a steady length."""
        args = self.args  # type: ignore[attr-defined]
        if mode != "train":
            return self.train_loader
        dataset = self.build_dataset(dataset_path)
        generator = torch.Generator()
        generator.manual_seed(args.seed)
        return InfiniteDataLoader(
            dataset,
            batch_size=batch_size,
            sampler=Stream(len(self.examples), self.per_epoch * batch_size, args.seed),
            num_workers=args.workers,
            collate_fn=dataset.collate_fn,
            worker_init_fn=seed_worker,
            generator=generator,
        )

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Pixels beside their colours: convolutions on a CPU take half the time."""
        batch = super().preprocess_batch(batch)  # type: ignore[misc]
        batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    def set_class_weights(self) -> None:
        """Images without a class that nobody marked yet do not teach that it is nowhere."""
        weights = torch.ones(len(self.classes), device=self.device)  # type: ignore[attr-defined]
        weights[list(self.left)] = 0.0
        self.model.class_weights = weights  # type: ignore[attr-defined]

    def validate(self) -> tuple[dict[str, float], float]:
        """Judged elsewhere, on the audit slice."""
        return {}, 0.0

    def final_eval(self) -> None:
        """Judged elsewhere."""

    def save_model(self) -> bool:
        """Kept elsewhere."""
        return False

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Told elsewhere."""


class GridTrainer(_Ours, DetectionTrainer):  # type: ignore[misc]
    """Trains YOLO."""


class QueriesTrainer(_Ours, RTDETRTrainer):  # type: ignore[misc]
    """Trains RT-DETR."""

    stretched = True


def make_trainer(
    module: Any,
    queries: bool,
    examples: Sequence[Example],
    classes: Sequence[str],
    left: Sequence[int],
    arguments: dict[str, Any],
    per_epoch: int,
    folder: Path,
) -> Any:
    """A trainer that is ready to :meth:`train`.

    Args:
        module: the network; it is changed in place.
        queries: it is an RT-DETR.
        examples: what to learn from.
        classes: names of the network's outputs.
        left: those that stay as they are; an RT-DETR has no such means.
        arguments: of ultralytics.
        per_epoch: batches an epoch.
        folder: a temporary one, for what cannot be kept from being written.
    """
    ours = {"examples": examples, "classes": classes, "left": left, "per_epoch": per_epoch}
    kind = type("Trainer", (QueriesTrainer if queries else GridTrainer,), ours)
    threads = torch.get_num_threads()
    trainer = kind(
        overrides={**arguments, "project": str(folder), "name": "run", "model": "ours.yaml"},
        _callbacks=callbacks.get_default_callbacks(),
    )
    Threads(threads if arguments["device"] == "cpu" else 1).add_to(trainer)
    trainer.model = module.to(memory_format=torch.channels_last)
    if arguments["device"] == "cpu" and computes_bf16():
        module._predict_once = partial(_in_half_precision, module._predict_once)
    return trainer


def _label(name: str, example: Example) -> dict[str, Any]:
    boxes = example.boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    return {
        "im_file": name,
        "shape": (example.height, example.width),
        "cls": example.labels.astype(np.float32)[:, None],
        "bboxes": np.concatenate([boxes[:, :2] + sides / 2, sides], axis=1).astype(np.float32),
        "segments": [],
        "keypoints": None,
        "normalized": True,
        "bbox_format": "xywh",
    }


def _in_half_precision(forward: Callable[..., Any], *inputs: Any) -> Any:
    """The network in bfloat16, which takes half the time; ultralytics offers it on CUDA only."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return _whole_precision(forward(*inputs))


def _whole_precision(outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, dict):
        return {name: _whole_precision(value) for name, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(_whole_precision(value) for value in outputs)
    return outputs
