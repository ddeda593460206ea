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
from backend.errors import Cancelled, DetectorError
from backend.vision.batching import device_here
from backend.vision.detection.network import QUERIES, Network
from backend.vision.detection.training_example import Example
from backend.vision.ultralytics_models import quiet_ultralytics

PER_EPOCH = 10
"""Batches an epoch: how often progress is told, and how fine the schedule is."""
FROZEN_BELOW = 100
"""Images below which the whole backbone stays as it is where it knows the labels by name."""
FROZEN_EACH = 10
"""The same for each label: with 71 of COCO's classes and 100 images mAP50 was 0.59, and 0.54 with
less kept, which took 1.2 times as long."""
BACKBONE, EDGES = 11, 5
"""Layers of YOLO11 and YOLO26 that stay as they are, counted from the image: the backbone, or what
sees edges and textures. On three sets of 10 photos of playing cards, which COCO does not know,
mAP50 after 150 steps was 0.28 with the latter kept and 0.23 with nothing, which took 1.4 times as
long."""

SHARE = 0.5
"""Of what was learned, where the weights know all labels by name: the rest stays as it was. With
71 of COCO's classes mAP50 on other pictures was 0.67 after 50 images and after 100, and 0.63 and
0.62 with all of it; with colours turned around, which the weights never saw, 0.48 and 0.44."""


@dataclass(frozen=True)
class Recipe:
    """How long and how to train.

    Attributes:
        iterations: optimizer steps.
        batch: images a step.
        size: pixels of the input's longer edge, a multiple of 32.
        rate: learning rate of AdamW.
        freeze: layers that stay as they are, counted from the image.
        seconds: that it may take; the schedule is shortened to fit.
        seed: of everything random.
        left: classes that nothing is said about: they stay as the network knows them.
    """

    iterations: int
    batch: int
    size: int
    rate: float
    freeze: int
    seconds: float
    seed: int
    left: tuple[int, ...] = ()


def recipe(
    network: Network,
    examples: Sequence[Example],
    size: int,
    warm: bool,
    seconds: float,
    seed: int,
    known: bool = False,
) -> Recipe:
    """The recipe for small data (docs of ultralytics and measurements in benchmarks/).

    Args:
        network: to start from.
        examples: to learn from.
        size: of the input.
        warm: the network has learned from most of these examples already.
        seconds: that it may take.
        seed: of everything random.
        known: the weights have seen all the labels before, by name.
    """
    count = len(examples)
    pretrained = network.plan.pretrained
    iterations = min(1500, 100 + 10 * count) if pretrained else min(4000, 350 + 5 * count)
    return Recipe(
        iterations=iterations // 2 if warm else iterations,
        batch=8 if pretrained else 4,
        size=size,
        rate=_rate(network) * (0.5 if warm else 1.0),
        freeze=_kept_layers(network, count, known and not warm),
        seconds=seconds,
        seed=seed,
    )


def _rate(network: Network) -> float:
    """Of AdamW; for pretrained weights as ultralytics chooses it: the more classes, the gentler.

    With 71 of COCO's classes, 10 images and a rate of 0.001 the labels that these images do not
    show were forgotten: mAP50 0.19 instead of 0.71 before, and 0.66 with this rule.
    """
    if not network.plan.pretrained:
        return 0.005
    return min(0.001, 0.01 / (4 + len(network.plan.classes)))


def _kept_layers(network: Network, count: int, known: bool) -> int:
    if not network.plan.pretrained or network.plan.family == QUERIES:
        return 0
    few = max(FROZEN_BELOW, FROZEN_EACH * len(network.plan.classes))
    return BACKBONE if known and count < few else EDGES


def learn(
    network: Network,
    examples: Sequence[Example],
    how: Recipe,
    report: ProgressCallback,
    cancelled: Callable[[], bool] = lambda: False,
) -> Network:
    """Train a copy of a network.

    Args:
        network: to start from; its classes are the labels.
        examples: at least one, with at least one box among them.
        how: the recipe.
        report: told (done, of) after each epoch.
        cancelled: asked after each batch.

    Returns:
        the averaged weights at the end.

    Raises:
        Cancelled: it was.
        DetectorError: it did not work out, such as for lack of memory.
    """
    quiet_ultralytics()
    from backend.vision.detection.ultralytics_trainer import Limits, make_trainer

    limits = Limits(how.seconds, report, cancelled)
    with threads_kept(), tempfile.TemporaryDirectory(prefix="prelabel-training-") as folder:
        trainer = make_trainer(
            deepcopy(network.module),
            network.plan.family == QUERIES,
            examples,
            network.plan.classes,
            how.left,
            _arguments(how, network),
            PER_EPOCH,
            Path(folder),
        )
        limits.add_to(trainer)
        try:
            trainer.train()
        except (RuntimeError, MemoryError) as error:
            raise DetectorError(
                f"Training did not work out ({error}): set PRELABEL_DETECTOR to a smaller network."
            ) from error
    if limits.was_cancelled:
        raise Cancelled("Training was cancelled; the live version stays as it was.")
    return _trained(trainer, network)


def between(start: Network, trained: Network, share: float) -> Network:
    """The weights between those before and after training (Wortsman et al., 2022: "Robust
    fine-tuning of zero-shot models").

    Args:
        start: what training began with, of the same layers and classes.
        trained: what became of it.
        share: of what was learned, 0 to 1.
    """
    import torch

    before = start.module.state_dict()
    weights = {
        name: torch.lerp(before[name].float(), value, share) if value.is_floating_point() else value
        for name, value in trained.module.state_dict().items()
    }
    module = deepcopy(trained.module)
    module.load_state_dict(weights)
    module.half().float()
    return Network(module, trained.plan)


@contextmanager
def threads_kept() -> Iterator[None]:
    """As many threads afterwards as before; ultralytics leaves one processor free."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _trained(trainer: Any, network: Network) -> Network:
    module = trainer.ema.ema.float().cpu().eval()
    module.__dict__.pop("_predict_once", None)
    for name in ("criterion", "args", "class_weights"):  # of no use outside training
        if hasattr(module, name):
            setattr(module, name, None)
    module.requires_grad_(False)
    module.half().float()  # as it will be kept, so that what is judged is what is kept
    return Network(module, network.plan)


def _arguments(how: Recipe, network: Network) -> dict[str, Any]:
    epochs = max(1, -(-how.iterations // PER_EPOCH))
    device = device_here()
    return {
        "task": "detect",
        "epochs": epochs,
        "batch": how.batch,
        "nbs": how.batch,
        "imgsz": how.size,
        "optimizer": "AdamW",
        "lr0": how.rate,
        "lrf": 0.02,
        "cos_lr": True,
        "momentum": 0.9,
        "warmup_epochs": min(3.0, epochs / 10),
        "warmup_bias_lr": 0.0,
        "close_mosaic": max(1, epochs // 5),
        "freeze": how.freeze,
        "seed": how.seed,
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
