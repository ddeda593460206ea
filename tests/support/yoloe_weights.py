"""Checkpoints of small YOLOE networks with random weights."""

from __future__ import annotations

from pathlib import Path

YOLOE_SIDE = 96


SMALL_SCALE = {"n": [0.33, 0.0625, 256]}
"""Depth, width, largest number of channels: 2 million parameters, most of them in the head."""


def save_yoloe(config: str, path: Path) -> Path:
    """Save a checkpoint as ultralytics does, of a small network with random weights."""
    import torch

    from backend.vision.ultralytics_models import import_ultralytics

    package = Path(import_ultralytics(path.parent).__file__).parent
    from ultralytics.nn.tasks import YOLOEModel, YOLOESegModel
    from ultralytics.utils import YAML

    plan = YAML.load(package / "cfg" / "models" / config) | {"scales": SMALL_SCALE, "scale": "n"}
    torch.manual_seed(0)
    kind = YOLOESegModel if "-seg" in config else YOLOEModel
    network = kind(plan, verbose=False)
    network.task = "segment" if "-seg" in config else "detect"
    for norm in (part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)  # else all answers are nearly the same
        torch.nn.init.normal_(norm.bias)
    for name, values in network.named_parameters():
        if name.endswith(("cv4.0.bias", "cv4.1.bias", "cv4.2.bias")):
            values.data.fill_(-1)  # as trained networks are, not 1 object in 10,000 places
    torch.save({"model": network.half(), "train_args": {"imgsz": YOLOE_SIDE}}, path)
    return path
