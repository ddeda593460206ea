"""Fine-tune detection networks on few images within a time limit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.callbacks import ProgressCallback
from backend.errors import DetectorError, RoundCancelledError
from backend.vision.batching import detect_device, training_precision
from backend.vision.detection.detections import DetectionExample
from backend.vision.detection.network import QUERY_FAMILY, DetectionNetwork
from backend.vision.ultralytics_models import import_ultralytics

BATCHES_PER_EPOCH = 10
"""Batches per epoch; progress is reported and the schedule is adjusted after each epoch."""
FREEZE_BELOW_IMAGES = 100
"""Number of images below which the backbone is frozen if the base classes cover all labels."""
FREEZE_IMAGES_PER_LABEL = 10
"""The same limit per label; the larger one applies. With 71 COCO classes and 100 images, mAP50 was
0.59 with a frozen backbone and 0.54 with only the stem frozen, which took 1.2 times as long."""
BACKBONE_LAYER_COUNT, STEM_LAYER_COUNT = 11, 5
"""Frozen layers of YOLO11 and YOLO26, counted from the input: the backbone, or only its stem. On
three sets of 10 photos of playing cards, which COCO does not contain, mAP50 after 150 steps was
0.28 with a frozen stem and 0.23 without, which took 1.4 times as long."""
WEIGHT_INTERPOLATION = 0.5
"""Fraction of the fine-tuned weights when interpolating with the base weights, applied if the base
classes cover all labels. With 71 COCO classes, mAP50 on test images after 50 and 100 training
images was 0.67 and 0.67, and 0.63 and 0.62 without interpolation. After 50 images with inverted
colours, a domain shift, it was 0.48, and 0.44 without interpolation."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Hyperparameters of one training run.

    Attributes:
        iterations: number of optimizer steps.
        batch_size: images per step.
        image_size: longer edge of the input in pixels, a multiple of 32.
        learning_rate: initial learning rate of AdamW.
        frozen_layers: number of frozen layers, counted from the input.
        time_limit_seconds: the schedule is shortened if training would take longer.
        seed: random seed.
        ignored_classes: classes without labels; they get no loss, so that they are not unlearned.
    """

    iterations: int
    batch_size: int
    image_size: int
    learning_rate: float
    frozen_layers: int
    time_limit_seconds: float
    seed: int
    ignored_classes: tuple[int, ...] = ()


def choose_recipe(
    network: DetectionNetwork,
    examples: Sequence[DetectionExample],
    image_size: int,
    warm_start: bool,
    time_limit_seconds: float,
    seed: int,
    covers_labels: bool = False,
) -> TrainingRecipe:
    """Choose hyperparameters for few images, based on ultralytics' docs and benchmarks/.

    Args:
        network: initial network.
        examples: training images.
        image_size: longer edge of the input in pixels.
        warm_start: the network was already trained on most of the examples.
        time_limit_seconds: limit of the training time.
        seed: random seed.
        covers_labels: the base network was pretrained on classes with the names of all labels.
    """
    count = len(examples)
    pretrained = network.spec.pretrained
    iterations = min(1500, 100 + 10 * count) if pretrained else min(4000, 350 + 5 * count)
    return TrainingRecipe(
        iterations=iterations // 2 if warm_start else iterations,
        batch_size=8 if pretrained else 4,
        image_size=image_size,
        learning_rate=_learning_rate(network) * (0.5 if warm_start else 1.0),
        frozen_layers=_frozen_layer_count(network, count, covers_labels and not warm_start),
        time_limit_seconds=time_limit_seconds,
        seed=seed,
    )


def _learning_rate(network: DetectionNetwork) -> float:
    """Return the learning rate of AdamW; for pretrained weights by ultralytics' rule.

    A constant rate of 0.001 caused forgetting: with 71 COCO classes and 10 images, mAP50 of the
    labels missing from these images fell from 0.71 to 0.19, and to 0.66 with this rule.
    """
    if not network.spec.pretrained:
        return 0.005
    return min(0.001, 0.01 / (4 + len(network.spec.classes)))


def _frozen_layer_count(network: DetectionNetwork, count: int, covers_labels: bool) -> int:
    if not network.spec.pretrained or network.spec.family == QUERY_FAMILY:
        return 0
    image_limit = max(FREEZE_BELOW_IMAGES, FREEZE_IMAGES_PER_LABEL * len(network.spec.classes))
    return BACKBONE_LAYER_COUNT if covers_labels and count < image_limit else STEM_LAYER_COUNT


def fine_tune(
    network: DetectionNetwork,
    examples: Sequence[DetectionExample],
    recipe: TrainingRecipe,
    report: ProgressCallback,
    cancelled: Callable[[], bool] = lambda: False,
) -> DetectionNetwork:
    """Train a copy of a network.

    Args:
        network: initial network; its classes are the labels.
        examples: training images with at least one box in total.
        recipe: hyperparameters of the run.
        report: receives (done, total) epochs after each epoch.
        cancelled: polled after each batch.

    Returns:
        the network with the final EMA weights.

    Raises:
        RoundCancelledError: training was cancelled.
        DetectorError: training failed, for example for lack of memory.
    """
    import_ultralytics()
    from backend.vision.detection.ultralytics_trainer import (
        TrainingInputs,
        TrainingLimits,
        make_trainer,
    )

    limits = TrainingLimits(recipe.time_limit_seconds, report, cancelled)
    inputs = TrainingInputs(
        examples, network.spec.classes, recipe.ignored_classes, BATCHES_PER_EPOCH
    )
    arguments = _ultralytics_arguments(recipe)
    module, is_rtdetr = deepcopy(network.module), network.spec.family == QUERY_FAMILY
    with preserve_thread_count(), tempfile.TemporaryDirectory(prefix="prelabel-training-") as temp:
        trainer = make_trainer(module, is_rtdetr, inputs, arguments, Path(temp))
        limits.attach(trainer)
        try:
            trainer.train()
        except (RuntimeError, MemoryError) as error:
            raise DetectorError(_describe_failure(error)) from error
    if limits.was_cancelled:
        raise RoundCancelledError("Training was cancelled. The live version is unchanged.")
    return _extract_network(trainer, network)


def interpolate_weights(
    initial: DetectionNetwork, trained: DetectionNetwork, alpha: float
) -> DetectionNetwork:
    """Interpolate weights before and after fine-tuning (WiSE-FT, Wortsman et al. 2022).

    Args:
        initial: network before training.
        trained: network after training, with the same layers and classes.
        alpha: fraction of the trained weights, 0 to 1.
    """
    import torch

    initial_weights = initial.module.state_dict()
    mixed_weights = {
        name: torch.lerp(initial_weights[name].float(), value, alpha)
        if value.is_floating_point()
        else value
        for name, value in trained.module.state_dict().items()
    }
    module = deepcopy(trained.module)
    module.load_state_dict(mixed_weights)
    module.half().float()
    return DetectionNetwork(module, trained.spec)


def _describe_failure(error: Exception) -> str:
    import torch

    reason = " ".join(str(error).split()) or type(error).__name__
    lacks_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in reason
    network = "a smaller network" if lacks_memory else "another network if it fails again"
    return (
        f"Training failed ({reason}). The live version stays. Set PRELABEL_DETECTOR to {network}."
    )


@contextmanager
def preserve_thread_count() -> Iterator[None]:
    """Restore torch's thread count on exit, which ultralytics reduces."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _extract_network(trainer: Any, network: DetectionNetwork) -> DetectionNetwork:
    module = trainer.ema.ema.float().cpu().eval()
    module.__dict__.pop("_predict_once", None)
    for name in ("criterion", "args", "class_weights"):  # only used in training
        if hasattr(module, name):
            setattr(module, name, None)
    module.requires_grad_(False)
    module.half().float()  # evaluate with the precision in which weights are stored
    return DetectionNetwork(module, network.spec)


def _ultralytics_arguments(recipe: TrainingRecipe) -> dict[str, object]:
    epochs = max(1, -(-recipe.iterations // BATCHES_PER_EPOCH))
    device = detect_device()
    return {
        "task": "detect",
        "epochs": epochs,
        "batch": recipe.batch_size,
        "nbs": recipe.batch_size,
        "imgsz": recipe.image_size,
        "optimizer": "AdamW",
        "lr0": recipe.learning_rate,
        "lrf": 0.02,
        "cos_lr": True,
        "momentum": 0.9,
        "warmup_epochs": min(3.0, epochs / 10),
        "warmup_bias_lr": 0.0,
        "close_mosaic": max(1, epochs // 5),
        "freeze": recipe.frozen_layers,
        "seed": recipe.seed,
        "device": device,
        "workers": 4 if device != "cpu" else 0,
        "amp": training_precision(),
        "deterministic": False,  # seeded in any case; True imports for 4 s
        "val": False,
        "save": False,
        "plots": False,
        "verbose": False,
        "pretrained": False,
        "cache": False,
        "patience": 0,
    }
