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

from backend.vision.batching import supports_bf16
from backend.vision.detection.letterbox import resize_image
from backend.vision.detection.training_example import DetectionExample

IMAGE_CACHE_BYTES = 1_000_000_000
"""Scaled images that are kept in memory while training; others are read again."""

LOGGER.disabled = True


class InMemoryDataset(YOLODataset):  # type: ignore[misc]
    """Our examples as ultralytics wants to see them.

    Args:
        examples: what to learn from.
        classes: names of the network's outputs.
        args: of ultralytics.
        stretched: images become squares, as an RT-DETR looks at them.
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
        self.buffer = list(range(self.ni))  # mosaic picks among all
        self.max_buffer_length = self.ni

    def get_img_files(self, img_path: Any) -> list[str]:
        """One name an example; nothing is read from it."""
        return [f"{number}.jpg" for number in range(len(self.examples))]

    def get_labels(self) -> list[dict[str, Any]]:
        """Boxes as middle and size, 0 to 1."""
        return [
            _to_ultralytics_label(name, e)
            for name, e in zip(self.im_files, self.examples, strict=True)
        ]

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[Any, tuple[int, int], tuple[int, int]]:
        """BGR pixels at training size, and the size before and after."""
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
        return np.ascontiguousarray(np.asarray(resize_image(image, size))[..., ::-1]), (
            height,
            width,
        )


class EndlessSampler(torch.utils.data.Sampler[int]):  # type: ignore[misc]
    """Endlessly shuffled examples in "epochs" of a steady length, however few or many there are."""

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
        self._time_limit, self._report, self._cancelled = seconds, report, cancelled
        self._epoch_start = self._deadline = math.inf
        self._epoch_seconds: list[float] = []
        self._planned_epochs = 0
        self.was_cancelled = False

    def attach(self, trainer: Any) -> None:
        """Listen to a trainer."""
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
        """Epochs that fit, by the usual one so far.

        The first takes longer than the others, and one that a busy machine held up says little:
        the plan gets shorter and longer again, never longer than it was.
        """
        completed, remaining_seconds = (
            len(self._epoch_seconds),
            self._time_limit - sum(self._epoch_seconds),
        )
        if completed == 1 and remaining_seconds > self._time_limit / 2:
            return self._planned_epochs
        typical_seconds = float(np.median(self._epoch_seconds[1:] or self._epoch_seconds))
        return min(
            self._planned_epochs,
            completed + max(0, int(remaining_seconds / max(typical_seconds, 1e-6))),
        )


class ThreadCountTuner:
    """One thread or all: whichever computes the first batches faster.

    Threads of a small network wait for each other more than they compute, above all where other
    programs run; measured on 2 cores for small.yaml at 160 pixels: 0.05 s a batch with one thread,
    0.11 with two. YOLO26n at 640 pixels takes half as long with two.
    """

    WARMUP_BATCHES, TRIAL_BATCHES = 2, 3
    """Batches that do not count, and batches that each way is tried on."""

    def __init__(self, most: int) -> None:
        self._thread_counts = [most, 1]
        self._batch_seconds: dict[int, list[float]] = {most: [], 1: []}
        self._batch_count = 0
        self._batch_start = 0.0

    def attach(self, trainer: Any) -> None:
        """Listen to a trainer."""
        torch.set_num_threads(self._thread_counts[0])
        if self._thread_counts[0] > 1:
            trainer.add_callback("on_train_batch_start", self._on_batch_start)
            trainer.add_callback("on_train_batch_end", self._on_batch_end)

    def _on_batch_start(self, trainer: Any) -> None:
        self._batch_start = time.monotonic()

    def _on_batch_end(self, trainer: Any) -> None:
        trial, position = divmod(self._batch_count, self.WARMUP_BATCHES + self.TRIAL_BATCHES)
        if trial >= len(self._thread_counts):
            return
        if position >= self.WARMUP_BATCHES:
            self._batch_seconds[self._thread_counts[trial]].append(
                time.monotonic() - self._batch_start
            )
        self._batch_count += 1
        if self._batch_count == self.WARMUP_BATCHES + self.TRIAL_BATCHES:
            torch.set_num_threads(self._thread_counts[1])
        if self._batch_count == 2 * (self.WARMUP_BATCHES + self.TRIAL_BATCHES):
            torch.set_num_threads(
                min(self._thread_counts, key=lambda trial: min(self._batch_seconds[trial]))
            )


class InMemoryTrainerMixin:
    """What both trainers do differently from ultralytics: data, and nothing written or judged."""

    examples: Sequence[DetectionExample]
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
        return InMemoryDataset(self.examples, self.classes, args, self.stretched)

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
            sampler=EndlessSampler(len(self.examples), self.per_epoch * batch_size, args.seed),
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


class InMemoryYoloTrainer(InMemoryTrainerMixin, DetectionTrainer):  # type: ignore[misc]
    """Trains YOLO."""


class InMemoryRtdetrTrainer(InMemoryTrainerMixin, RTDETRTrainer):  # type: ignore[misc]
    """Trains RT-DETR."""

    stretched = True


def make_trainer(
    module: Any,
    is_rtdetr: bool,
    examples: Sequence[DetectionExample],
    classes: Sequence[str],
    ignored_classes: Sequence[int],
    arguments: dict[str, Any],
    batches_per_epoch: int,
    folder: Path,
) -> Any:
    """A trainer that is ready to :meth:`train`.

    Args:
        module: the network; it is changed in place.
        is_rtdetr: it is an RT-DETR.
        examples: what to learn from.
        classes: names of the network's outputs.
        ignored_classes: those that stay as they are; an RT-DETR has no such means.
        arguments: of ultralytics.
        batches_per_epoch: batches an epoch.
        folder: a temporary one, for what cannot be kept from being written.
    """
    attributes = {
        "examples": examples,
        "classes": classes,
        "left": ignored_classes,
        "per_epoch": batches_per_epoch,
    }
    trainer_class = type(
        "Trainer", (InMemoryRtdetrTrainer if is_rtdetr else InMemoryYoloTrainer,), attributes
    )
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
    """The network in bfloat16, which takes half the time; ultralytics offers it on CUDA only."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return _to_float32(forward(*inputs))


def _to_float32(outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, dict):
        return {name: _to_float32(value) for name, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(_to_float32(value) for value in outputs)
    return outputs
