"""Fine-tune a detection network on few images within a time limit."""

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
from backend.vision.batching import detect_device
from backend.vision.detection.detections import DetectionExample
from backend.vision.detection.network import QUERY_FAMILY, DetectionNetwork
from backend.vision.ultralytics_models import import_ultralytics

BATCHES_PER_EPOCH = 10
"""Progress is reported, and the schedule adjusted, once per epoch."""
FREEZE_BELOW_IMAGES = 100
"""Number of images below which the whole backbone is frozen if the weights know the labels."""
FREEZE_IMAGES_PER_LABEL = 10
"""The same limit per label. With 71 COCO classes and 100 images, mAP50 was 0.59 with the backbone
frozen, and 0.54 with fewer frozen layers, which took 1.2 times as long."""
BACKBONE_LAYER_COUNT, STEM_LAYER_COUNT = 11, 5
"""Frozen layers of YOLO11 and YOLO26, counted from the image: the backbone, or its first layers,
which detect edges and textures. On three sets of 10 photos of playing cards, which COCO does not
contain, mAP50 after 150 steps was 0.28 with the first layers frozen, and 0.23 with none, which
took 1.4 times as long."""

WEIGHT_INTERPOLATION = 0.5
"""Share of the trained weights in the result if the initial weights know all labels. With 71 COCO
classes, mAP50 on other images was 0.67 after 50 and after 100 images, and 0.63 and 0.62 without
interpolation. With inverted colours, which the weights never saw, it was 0.48 and 0.44."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Hyperparameters of one training run.

    Attributes:
        iterations: optimizer steps.
        batch_size: images per step.
        image_size: pixels of the input's longer edge, a multiple of 32.
        learning_rate: initial learning rate of AdamW.
        frozen_layers: number of frozen layers, counted from the image.
        time_limit_seconds: the schedule is shortened to fit.
        seed: of all randomness.
        ignored_classes: classes without a loss; the network keeps what it knows of them.
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
    knows_labels: bool = False,
) -> TrainingRecipe:
    """Choose hyperparameters for few images (ultralytics' docs, and measurements in benchmarks/).

    Args:
        network: initial weights.
        examples: training images.
        image_size: of the input.
        warm_start: the network was already trained on most of these examples.
        time_limit_seconds: of the training.
        seed: of all randomness.
        knows_labels: the initial weights were trained on all labels, by name.
    """
    count = len(examples)
    pretrained = network.spec.pretrained
    iterations = min(1500, 100 + 10 * count) if pretrained else min(4000, 350 + 5 * count)
    return TrainingRecipe(
        iterations=iterations // 2 if warm_start else iterations,
        batch_size=8 if pretrained else 4,
        image_size=image_size,
        learning_rate=_learning_rate(network) * (0.5 if warm_start else 1.0),
        frozen_layers=_frozen_layer_count(network, count, knows_labels and not warm_start),
        time_limit_seconds=time_limit_seconds,
        seed=seed,
    )


def _learning_rate(network: DetectionNetwork) -> float:
    """Return the rate for AdamW; for pretrained weights ultralytics' rule, lower with more classes.

    With 71 COCO classes, 10 images and a rate of 0.001, labels missing from these images were
    forgotten: mAP50 fell from 0.71 to 0.19, and to 0.66 with this rule.
    """
    if not network.spec.pretrained:
        return 0.005
    return min(0.001, 0.01 / (4 + len(network.spec.classes)))


def _frozen_layer_count(network: DetectionNetwork, count: int, knows_labels: bool) -> int:
    if not network.spec.pretrained or network.spec.family == QUERY_FAMILY:
        return 0
    image_limit = max(FREEZE_BELOW_IMAGES, FREEZE_IMAGES_PER_LABEL * len(network.spec.classes))
    return BACKBONE_LAYER_COUNT if knows_labels and count < image_limit else STEM_LAYER_COUNT


def fine_tune(
    network: DetectionNetwork,
    examples: Sequence[DetectionExample],
    hyperparameters: TrainingRecipe,
    report: ProgressCallback,
    cancelled: Callable[[], bool] = lambda: False,
) -> DetectionNetwork:
    """Train a copy of a network.

    Args:
        network: initial weights; its classes are the labels.
        examples: at least one, with at least one box among them.
        hyperparameters: the recipe.
        report: receives (done, total) after each epoch.
        cancelled: called after each batch.

    Returns:
        the network with the averaged weights (EMA) at the end.

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

    limits = TrainingLimits(hyperparameters.time_limit_seconds, report, cancelled)
    inputs = TrainingInputs(
        examples, network.spec.classes, hyperparameters.ignored_classes, BATCHES_PER_EPOCH
    )
    arguments = _ultralytics_arguments(hyperparameters)
    module, is_rtdetr = deepcopy(network.module), network.spec.family == QUERY_FAMILY
    with preserve_thread_count(), tempfile.TemporaryDirectory(prefix="prelabel-training-") as temp:
        trainer = make_trainer(module, is_rtdetr, inputs, arguments, Path(temp))
        limits.attach(trainer)
        try:
            trainer.train()
        except (RuntimeError, MemoryError) as error:
            raise DetectorError(
                f"Training failed ({error}): set PRELABEL_DETECTOR to a smaller network."
            ) from error
    if limits.was_cancelled:
        raise RoundCancelledError("Training was cancelled. The live version is unchanged.")
    return _extract_network(trainer, network)


def interpolate_weights(
    initial: DetectionNetwork, trained: DetectionNetwork, alpha: float
) -> DetectionNetwork:
    """Interpolate between the weights before and after training (Wortsman et al. 2022, "Robust
    fine-tuning of zero-shot models").

    Args:
        initial: network before training, with the same layers and classes.
        trained: network after training.
        alpha: share of the trained weights, 0 to 1.
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


@contextmanager
def preserve_thread_count() -> Iterator[None]:
    """Restore torch's thread count on exit; ultralytics leaves one CPU free."""
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
    module.half().float()  # as it will be stored, so that the stored weights are evaluated
    return DetectionNetwork(module, network.spec)


def _ultralytics_arguments(hyperparameters: TrainingRecipe) -> dict[str, object]:
    epochs = max(1, -(-hyperparameters.iterations // BATCHES_PER_EPOCH))
    device = detect_device()
    return {
        "task": "detect",
        "epochs": epochs,
        "batch": hyperparameters.batch_size,
        "nbs": hyperparameters.batch_size,
        "imgsz": hyperparameters.image_size,
        "optimizer": "AdamW",
        "lr0": hyperparameters.learning_rate,
        "lrf": 0.02,
        "cos_lr": True,
        "momentum": 0.9,
        "warmup_epochs": min(3.0, epochs / 10),
        "warmup_bias_lr": 0.0,
        "close_mosaic": max(1, epochs // 5),
        "freeze": hyperparameters.frozen_layers,
        "seed": hyperparameters.seed,
        "device": device,
        "workers": 4 if device != "cpu" else 0,
        "amp": "bf16" if device != "cpu" else False,  # True would download a network for a check
        "deterministic": False,  # seeded anyway; True costs 4 s of imports
        "val": False,
        "save": False,
        "plots": False,
        "verbose": False,
        "pretrained": False,
        "cache": False,
        "patience": 0,
    }
