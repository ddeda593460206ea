"""The ultralytics trainer on in-memory examples, without data YAML, label files or validation.

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
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect.train import DetectionTrainer
from ultralytics.utils import LOGGER, callbacks

from backend.vision.batching import supports_bf16
from backend.vision.detection.detections import DetectionExample
from backend.vision.detection.letterbox import resize_image

IMAGE_CACHE_BYTES = 1_000_000_000
"""Scaled images cached in memory while training; further images are read again at each use."""

LOGGER.disabled = True


class InMemoryDataset(YOLODataset):  # type: ignore[misc]
    """Examples in the format of ultralytics datasets.

    Args:
        examples: training images.
        classes: names of the network's outputs.
        args: arguments of ultralytics.
        stretched: scale images to squares, as an RT-DETR expects.
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
        self.buffer = list(range(self.ni))  # mosaic picks from all images
        self.max_buffer_length = self.ni

    def get_img_files(self, img_path: Any) -> list[str]:
        """Return one made-up name per example; no file is read."""
        return [f"{number}.jpg" for number in range(len(self.examples))]

    def get_labels(self) -> list[dict[str, Any]]:
        """Return boxes as centre and size, 0 to 1."""
        return [
            _to_ultralytics_label(name, e)
            for name, e in zip(self.im_files, self.examples, strict=True)
        ]

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[Any, tuple[int, int], tuple[int, int]]:
        """Return BGR pixels at training size, and the size before and after scaling."""
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
    """Sample shuffled examples endlessly, in epochs of a fixed length."""

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
    """Report progress, and stop training at a time limit or on cancellation.

    The schedule is shortened so that it ends in time. Where not even one epoch fits, as on a busy
    machine, training stops after the batch that exceeds the limit.

    Args:
        seconds: time limit.
        report: receives (done, total) after each epoch.
        cancelled: called after each batch.
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
        """Register the callbacks of a trainer."""
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

    def _affordable_epochs(self) -> int:
        """Return the epochs that fit into the time limit, from the median duration so far.

        The first epoch takes longer than the others, and a busy machine delays some. The number
        of epochs shrinks and grows, but never beyond the planned one.
        """
        completed = len(self._epoch_seconds)
        remaining_seconds = self._time_limit - sum(self._epoch_seconds)
        if completed == 1 and remaining_seconds > self._time_limit / 2:
            return self._planned_epochs
        typical_seconds = float(np.median(self._epoch_seconds[1:] or self._epoch_seconds))
        affordable = max(0, int(remaining_seconds / max(typical_seconds, 1e-6)))
        return min(self._planned_epochs, completed + affordable)


class ThreadCountTuner:
    """Use one thread or all, whichever computes the first batches faster.

    Threads of a small network mostly wait for each other, above all where other programs run.
    Measured on 2 cores for small.yaml at 160 pixels: 0.05 s a batch with one thread, 0.11 with two.
    YOLO26n at 640 pixels takes half as long with two.
    """

    WARMUP_BATCHES, TRIAL_BATCHES = 2, 3
    """Untimed and timed batches per thread count."""

    def __init__(self, max_threads: int) -> None:
        self._thread_counts = [max_threads, 1]
        self._batch_seconds: dict[int, list[float]] = {max_threads: [], 1: []}
        self._batch_count = 0
        self._batch_start = 0.0

    def attach(self, trainer: Any) -> None:
        """Register the callbacks of a trainer."""
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
    """What a trainer learns from.

    Attributes:
        examples: training images.
        classes: names of the network's outputs.
        ignored_classes: classes without a loss; not supported for RT-DETR.
        batches_per_epoch: number of batches in an epoch.
    """

    examples: Sequence[DetectionExample]
    classes: Sequence[str]
    ignored_classes: Sequence[int]
    batches_per_epoch: int


class InMemoryTrainerMixin:
    """Train on in-memory examples; skip validation, checkpoints and reports."""

    inputs: TrainingInputs
    stretched: bool = False
    train_loader: Any

    def get_dataset(self) -> dict[str, Any]:
        """Describe the data without a YAML file, which could download and run code."""
        names = dict(enumerate(self.inputs.classes))
        return {"train": "", "val": "", "nc": len(names), "names": names, "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Return the dataset of the examples; there is none for validation."""
        args = self.args  # type: ignore[attr-defined]
        return InMemoryDataset(self.inputs.examples, self.inputs.classes, args, self.stretched)

    def get_dataloader(
        self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> Any:
        """Return batches in epochs of a fixed length."""
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
        """Store pixels channels-last, with which convolutions on a CPU take half the time."""
        batch = super().preprocess_batch(batch)  # type: ignore[misc]
        batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    def set_class_weights(self) -> None:
        """Give ignored classes no loss, so that unlabeled objects do not count as background."""
        count = len(self.inputs.classes)
        weights = torch.ones(count, device=self.device)  # type: ignore[attr-defined]
        weights[list(self.inputs.ignored_classes)] = 0.0
        self.model.class_weights = weights  # type: ignore[attr-defined]

    def validate(self) -> tuple[dict[str, float], float]:
        """Skip validation; the audit set is evaluated after training."""
        return {}, 0.0

    def final_eval(self) -> None:
        """Skip the final validation."""

    def save_model(self) -> bool:
        """Write no checkpoint."""
        return False

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Write no metrics."""


class InMemoryYoloTrainer(InMemoryTrainerMixin, DetectionTrainer):  # type: ignore[misc]
    """Trainer of YOLO networks."""


class InMemoryRtdetrTrainer(InMemoryTrainerMixin, RTDETRTrainer):  # type: ignore[misc]
    """Trainer of RT-DETR networks."""

    stretched = True


def make_trainer(
    module: Any, is_rtdetr: bool, inputs: TrainingInputs, arguments: dict[str, Any], folder: Path
) -> Any:
    """Return a trainer that is ready for ``train()``; it changes the module in place.

    Args:
        module: the network.
        is_rtdetr: the network is an RT-DETR.
        inputs: what to learn from.
        arguments: of ultralytics.
        folder: a temporary one, for files that ultralytics writes in any case.
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
    """Compute in bfloat16, which takes half the time; ultralytics supports it on CUDA only."""
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
