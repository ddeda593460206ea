"""Fine-tuning a detection network on few images, in a bounded time."""

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
from backend.vision.detection.network import QUERY_FAMILY, DetectionNetwork
from backend.vision.detection.training_example import DetectionExample
from backend.vision.ultralytics_models import import_ultralytics

BATCHES_PER_EPOCH = 10
"""Batches an epoch: how often progress is told, and how fine the schedule is."""
FREEZE_BELOW_IMAGES = 100
"""Images below which the whole backbone stays as it is where it knows the labels by name."""
FREEZE_IMAGES_PER_LABEL = 10
"""The same for each label: with 71 of COCO's classes and 100 images mAP50 was 0.59, and 0.54 with
less kept, which took 1.2 times as long."""
BACKBONE_LAYER_COUNT, STEM_LAYER_COUNT = 11, 5
"""Layers of YOLO11 and YOLO26 that stay as they are, counted from the image: the backbone, or what
sees edges and textures. On three sets of 10 photos of playing cards, which COCO does not know,
mAP50 after 150 steps was 0.28 with the latter kept and 0.23 with nothing, which took 1.4 times as
long."""

WEIGHT_INTERPOLATION = 0.5
"""Of what was learned, where the weights know all labels by name: the rest stays as it was. With
71 of COCO's classes mAP50 on other pictures was 0.67 after 50 images and after 100, and 0.63 and
0.62 with all of it; with colours turned around, which the weights never saw, 0.48 and 0.44."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How long and how to train.

    Attributes:
        iterations: optimizer steps.
        batch_size: images a step.
        image_size: pixels of the input's longer edge, a multiple of 32.
        learning_rate: learning rate of AdamW.
        frozen_layers: layers that stay as they are, counted from the image.
        time_limit_seconds: that it may take; the schedule is shortened to fit.
        seed: of everything random.
        ignored_classes: classes that nothing is said about: they stay as the network knows them.
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
    """The recipe for small data (docs of ultralytics and measurements in benchmarks/).

    Args:
        network: to start from.
        examples: to learn from.
        image_size: of the input.
        warm_start: the network has learned from most of these examples already.
        time_limit_seconds: that it may take.
        seed: of everything random.
        knows_labels: the weights have seen all the labels before, by name.
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
    """Of AdamW; for pretrained weights as ultralytics chooses it: the more classes, the gentler.

    With 71 of COCO's classes, 10 images and a rate of 0.001 the labels that these images do not
    show were forgotten: mAP50 0.19 instead of 0.71 before, and 0.66 with this rule.
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
        network: to start from; its classes are the labels.
        examples: at least one, with at least one box among them.
        hyperparameters: the recipe.
        report: told (done, of) after each epoch.
        cancelled: asked after each batch.

    Returns:
        the averaged weights at the end.

    Raises:
        RoundCancelledError: it was.
        DetectorError: it did not work out, such as for lack of memory.
    """
    import_ultralytics()
    from backend.vision.detection.ultralytics_trainer import TrainingLimits, make_trainer

    limits = TrainingLimits(hyperparameters.time_limit_seconds, report, cancelled)
    with (
        preserve_thread_count(),
        tempfile.TemporaryDirectory(prefix="prelabel-training-") as folder,
    ):
        trainer = make_trainer(
            deepcopy(network.module),
            network.spec.family == QUERY_FAMILY,
            examples,
            network.spec.classes,
            hyperparameters.ignored_classes,
            _ultralytics_arguments(hyperparameters, network),
            BATCHES_PER_EPOCH,
            Path(folder),
        )
        limits.attach(trainer)
        try:
            trainer.train()
        except (RuntimeError, MemoryError) as error:
            raise DetectorError(
                f"Training did not work out ({error}): set PRELABEL_DETECTOR to a smaller network."
            ) from error
    if limits.was_cancelled:
        raise RoundCancelledError("Training was cancelled; the live version stays as it was.")
    return _extract_network(trainer, network)


def interpolate_weights(
    initial: DetectionNetwork, trained: DetectionNetwork, alpha: float
) -> DetectionNetwork:
    """The weights between those before and after training (Wortsman et al., 2022: "Robust
    fine-tuning of zero-shot models").

    Args:
        initial: what training began with, of the same layers and classes.
        trained: what became of it.
        alpha: of what was learned, 0 to 1.
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
    """As many threads afterwards as before; ultralytics leaves one processor free."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _extract_network(trainer: Any, network: DetectionNetwork) -> DetectionNetwork:
    module = trainer.ema.ema.float().cpu().eval()
    module.__dict__.pop("_predict_once", None)
    for name in ("criterion", "args", "class_weights"):  # of no use outside training
        if hasattr(module, name):
            setattr(module, name, None)
    module.requires_grad_(False)
    module.half().float()  # as it will be kept, so that what is judged is what is kept
    return DetectionNetwork(module, network.spec)


def _ultralytics_arguments(
    hyperparameters: TrainingRecipe, network: DetectionNetwork
) -> dict[str, Any]:
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
        "amp": "bf16" if device != "cpu" else False,  # True would download a network to try
        "deterministic": False,  # seeded all the same; switching it on takes 4 s of imports
        "val": False,
        "save": False,
        "plots": False,
        "verbose": False,
        "pretrained": False,
        "cache": False,
        "patience": 0,
    }
