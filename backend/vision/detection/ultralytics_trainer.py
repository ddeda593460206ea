"""Ultralytics trainers for in-memory examples, without data YAML, label files or validation.

Import only after :func:`backend.vision.ultralytics_models.import_ultralytics`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.data.build import InfiniteDataLoader, seed_worker
from ultralytics.data.dataset import YOLODataset
from ultralytics.engine import trainer as engine
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect.train import DetectionTrainer
from ultralytics.utils import LOGGER, callbacks

from backend.vision.batching import supports_bf16
from backend.vision.detection.detections import DetectionExample
from backend.vision.detection.letterbox import resize_image

IMAGE_CACHE_BYTES = 1_000_000_000
"""Maximum size of resized images cached in memory; further images are reread at each use."""

LOGGER.disabled = True


class InMemoryDataset(YOLODataset):  # type: ignore[misc]
    """An ultralytics dataset of in-memory examples.

    Args:
        examples: training images.
        classes: class names of the network.
        args: ultralytics training arguments.
        stretched: resize images to squares, as RT-DETR requires.
    """

    def __init__(
        self,
        examples: Sequence[DetectionExample],
        classes: Sequence[str],
        args: Any,
        stretched: bool = False,
    ) -> None:
        self.examples = examples
        self._stretch = stretched
        self._image_cache: dict[int, Any] = {}
        self._cached_bytes = 0
        super().__init__(
            img_path="",
            imgsz=args.imgsz,
            augment=True,
            hyp=args,
            data={"names": dict(enumerate(classes)), "channels": 3},
        )
        self.buffer = list(range(self.ni))  # images that mosaic samples from
        self.max_buffer_length = self.ni

    def get_img_files(self, img_path: Any) -> list[str]:
        """Return a placeholder file name per example; no file is read."""
        return [f"{number}.jpg" for number in range(len(self.examples))]

    def get_labels(self) -> list[dict[str, Any]]:
        """Return the labels of all examples in ultralytics' format."""
        return [
            _to_ultralytics_label(name, e)
            for name, e in zip(self.im_files, self.examples, strict=True)
        ]

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[Any, tuple[int, int], tuple[int, int]]:
        """Return BGR pixels at training size, and (height, width) before and after resizing."""
        if i not in self._image_cache:
            pixels, original_size = self._read_scaled(i, keep_ratio=rect_mode and not self._stretch)
            if self._cached_bytes + pixels.nbytes > IMAGE_CACHE_BYTES:
                return pixels, original_size, pixels.shape[:2]
            self._image_cache[i] = pixels, original_size
            self._cached_bytes += pixels.nbytes
        pixels, original_size = self._image_cache[i]
        return pixels, original_size, pixels.shape[:2]

    def _read_scaled(self, i: int, keep_ratio: bool) -> tuple[Any, tuple[int, int]]:
        image = self.examples[i].read_image()
        width, height = image.size
        resize_factor = self.imgsz / max(width, height)
        size = (self.imgsz, self.imgsz)
        if keep_ratio:
            size = (max(1, round(width * resize_factor)), max(1, round(height * resize_factor)))
        rgb = np.asarray(resize_image(image, size))
        return np.ascontiguousarray(rgb[..., ::-1]), (height, width)


class EndlessSampler(torch.utils.data.Sampler[int]):  # type: ignore[misc]
    """Sample examples without replacement, reshuffling when exhausted, in fixed-length epochs."""

    def __init__(self, count: int, length: int, seed: int) -> None:
        self._count, self._length = count, length
        self._random = np.random.default_rng(seed)
        self._pending: list[int] = []

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        for _ in range(self._length):
            if not self._pending:
                self._pending = self._random.permutation(self._count).tolist()
            yield self._pending.pop()


class TrainingLimits:
    """Callbacks that report progress, enforce a time limit and stop training on cancellation.

    The number of epochs is reduced to fit the time limit. If not even one epoch fits, training
    stops after the batch that exceeds the limit.

    Args:
        seconds: time limit.
        report: receives (done, total) epochs after each epoch.
        cancelled: polled after each batch.
    """

    def __init__(
        self, seconds: float, report: Callable[[int, int], None], cancelled: Callable[[], bool]
    ) -> None:
        self._time_limit, self._report, self._cancelled = seconds, report, cancelled
        self._epoch_start = self._deadline = math.inf
        self._epoch_seconds: list[float] = []
        self._planned_epochs = 0
        self.was_cancelled = False

    def attach(self, trainer: Any) -> None:
        """Register the callbacks with a trainer."""
        trainer.add_callback("on_train_start", self._on_train_start)
        trainer.add_callback("on_train_batch_end", self._on_batch_end)
        trainer.add_callback("on_train_epoch_end", self._on_epoch_end)

    def _on_train_start(self, trainer: Any) -> None:
        self._epoch_start, self._planned_epochs = time.monotonic(), trainer.epochs
        self._deadline = self._epoch_start + self._time_limit

    def _on_batch_end(self, trainer: Any) -> None:
        if self._cancelled():
            self.was_cancelled = trainer.stop = True
        if time.monotonic() > self._deadline:
            trainer.stop = True

    def _on_epoch_end(self, trainer: Any) -> None:
        now = time.monotonic()
        self._epoch_seconds.append(now - self._epoch_start)
        self._epoch_start = now
        affordable_epochs = self._affordable_epochs()
        if affordable_epochs != trainer.epochs:
            trainer.epochs = trainer.args.epochs = affordable_epochs
            trainer._setup_scheduler()
            trainer.scheduler.last_epoch = trainer.epoch
        self._report(len(self._epoch_seconds), trainer.epochs)
        report_seconds = time.monotonic() - now  # with other work between epochs
        self._epoch_start += report_seconds
        self._deadline += report_seconds

    def _affordable_epochs(self) -> int:
        """Return the number of epochs that fit into the time limit, at most the planned number.

        The estimate uses the median duration without the first epoch, which is slower, and may
        shrink and grow from epoch to epoch.
        """
        completed = len(self._epoch_seconds)
        remaining_seconds = self._time_limit - sum(self._epoch_seconds)
        if completed == 1 and remaining_seconds > self._time_limit / 2:
            return self._planned_epochs
        typical_seconds = float(np.median(self._epoch_seconds[1:] or self._epoch_seconds))
        affordable = max(0, int(remaining_seconds / max(typical_seconds, 1e-6)))
        return min(self._planned_epochs, completed + affordable)


class ThreadCountTuner:
    """Callbacks that time the first batches and select one thread or all, whichever is faster.

    On small networks, synchronization of threads outweighs their gain, especially next to other
    processes. On 2 cores, small.yaml at 160 pixels took 0.05 s per batch with one thread and 0.11 s
    with two; YOLO26n at 640 pixels took half as long with two.
    """

    WARMUP_BATCHES, TRIAL_BATCHES = 2, 3
    """Untimed, then timed batches per thread count."""

    def __init__(self, max_threads: int) -> None:
        self._thread_counts = [max_threads, 1]
        self._batch_seconds: dict[int, list[float]] = {max_threads: [], 1: []}
        self._batch_count = 0
        self._batch_start = 0.0

    def attach(self, trainer: Any) -> None:
        """Register the callbacks with a trainer."""
        torch.set_num_threads(self._thread_counts[0])
        if self._thread_counts[0] > 1:
            trainer.add_callback("on_train_batch_start", self._on_batch_start)
            trainer.add_callback("on_train_batch_end", self._on_batch_end)

    def _on_batch_start(self, trainer: Any) -> None:
        self._batch_start = time.monotonic()

    def _on_batch_end(self, trainer: Any) -> None:
        length = self.WARMUP_BATCHES + self.TRIAL_BATCHES
        trial, position = divmod(self._batch_count, length)
        if trial >= len(self._thread_counts):
            return
        if position >= self.WARMUP_BATCHES:
            seconds = time.monotonic() - self._batch_start
            self._batch_seconds[self._thread_counts[trial]].append(seconds)
        self._batch_count += 1
        if self._batch_count == length:
            torch.set_num_threads(self._thread_counts[1])
        if self._batch_count == 2 * length:
            best = min(self._thread_counts, key=lambda count: min(self._batch_seconds[count]))
            torch.set_num_threads(best)


@dataclass(frozen=True)
class TrainingInputs:
    """Training data of a trainer.

    Attributes:
        examples: training images.
        classes: class names of the network.
        ignored_classes: classes excluded from the loss; not supported for RT-DETR.
        batches_per_epoch: number of batches per epoch.
    """

    examples: Sequence[DetectionExample]
    classes: Sequence[str]
    ignored_classes: Sequence[int]
    batches_per_epoch: int


class InMemoryTrainerMixin:
    """Train on in-memory examples; skip validation, checkpoints and metrics files."""

    inputs: TrainingInputs
    stretched: bool = False
    train_loader: Any

    def _setup_train(self) -> None:
        """Set up without the check of mixed precision, which would download a network."""
        original_check = engine.check_amp
        engine.check_amp = lambda model: True
        try:
            super()._setup_train()  # type: ignore[misc]
        finally:
            engine.check_amp = original_check

    def get_dataset(self) -> dict[str, Any]:
        """Return the data configuration without a YAML file, which could download and run code."""
        names = dict(enumerate(self.inputs.classes))
        return {"train": "", "val": "", "nc": len(names), "names": names, "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Return the training dataset, regardless of ``mode``."""
        args = self.args  # type: ignore[attr-defined]
        return InMemoryDataset(self.inputs.examples, self.inputs.classes, args, self.stretched)

    def get_dataloader(
        self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> Any:
        """Return a loader with epochs of a fixed length."""
        args = self.args  # type: ignore[attr-defined]
        if mode != "train":
            return self.train_loader
        dataset = self.build_dataset(dataset_path)
        length = self.inputs.batches_per_epoch * batch_size
        generator = torch.Generator()
        generator.manual_seed(args.seed)
        return InfiniteDataLoader(
            dataset,
            batch_size=batch_size,
            sampler=EndlessSampler(len(self.inputs.examples), length, args.seed),
            num_workers=args.workers,
            collate_fn=dataset.collate_fn,
            worker_init_fn=seed_worker,
            generator=generator,
        )

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Convert images to channels-last, which halves the time of convolutions on a CPU."""
        batch = super().preprocess_batch(batch)  # type: ignore[misc]
        batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    def set_class_weights(self) -> None:
        """Exclude ignored classes from the loss; their unlabeled objects are not background."""
        count = len(self.inputs.classes)
        weights = torch.ones(count, device=self.device)  # type: ignore[attr-defined]
        weights[list(self.inputs.ignored_classes)] = 0.0
        self.model.class_weights = weights  # type: ignore[attr-defined]

    def validate(self) -> tuple[dict[str, float], float]:
        """Skip validation; the version is evaluated after training."""
        return {}, 0.0

    def final_eval(self) -> None:
        """Skip the final validation."""

    def save_model(self) -> bool:
        """Skip checkpoints."""
        return False

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Skip the metrics file."""


class InMemoryYoloTrainer(InMemoryTrainerMixin, DetectionTrainer):  # type: ignore[misc]
    """Trainer of YOLO networks."""


class InMemoryRtdetrTrainer(InMemoryTrainerMixin, RTDETRTrainer):  # type: ignore[misc]
    """Trainer of RT-DETR networks."""

    stretched = True


def make_trainer(
    module: Any, is_rtdetr: bool, inputs: TrainingInputs, arguments: dict[str, Any], folder: Path
) -> Any:
    """Return a trainer that trains ``module`` in place.

    Args:
        module: the network.
        is_rtdetr: the network is an RT-DETR.
        inputs: training data.
        arguments: ultralytics training arguments.
        folder: temporary folder for files that ultralytics always writes.
    """
    base_class = InMemoryRtdetrTrainer if is_rtdetr else InMemoryYoloTrainer
    trainer_class = type("Trainer", (base_class,), {"inputs": inputs})
    threads = torch.get_num_threads()
    trainer = trainer_class(
        overrides={**arguments, "project": str(folder), "name": "run", "model": "ours.yaml"},
        _callbacks=callbacks.get_default_callbacks(),
    )
    ThreadCountTuner(threads if arguments["device"] == "cpu" else 1).attach(trainer)
    trainer.model = module.to(memory_format=torch.channels_last)
    if arguments["device"] == "cpu" and supports_bf16():
        module._predict_once = partial(_forward_bf16, module._predict_once)
    return trainer


def _to_ultralytics_label(name: str, example: DetectionExample) -> dict[str, Any]:
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


def _forward_bf16(forward: Callable[..., Any], *inputs: Any) -> Any:
    """Run a forward pass in bfloat16, twice as fast; ultralytics supports it on CUDA only."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return _to_float32(forward(*inputs))


def _to_float32(outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, dict):
        return {name: _to_float32(value) for name, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return type(outputs)(_to_float32(value) for value in outputs)
    return outputs
