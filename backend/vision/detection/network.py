"""Detection networks: read from published weights, made from nothing, kept on disk.

What is kept is safetensors and JSON, no pickle. Of networks with two heads (YOLO26) the one that
needs no suppression is left out: only one is used, and both cost time in training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backend.errors import DetectorError
from backend.vision.ultralytics_models import (
    download_checkpoint,
    load_checkpoint,
    network_class,
    read_description,
)

DEFAULT = "yolo26n.pt"
NOTHING = "builtin"
"""The setting for a small network of our own that starts from nothing."""
SMALL = Path(__file__).with_name("small.yaml")
GRID, QUERIES = "grid", "queries"
HEADS = {"Detect": GRID, "v10Detect": GRID, "RTDETRDecoder": QUERIES}
SHAPE, WEIGHTS = "network.json", "weights.safetensors"
NONE: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True)
class Plan:
    """How to build a network again.

    Attributes:
        yaml: ultralytics' description of the layers.
        family: ``grid`` (YOLO) or ``queries`` (RT-DETR).
        classes: names in the order of its outputs.
        base: what it was fine-tuned from: name and hash of the weights, or the yaml's.
        pretrained: whether it started from somebody's weights.
    """

    yaml: Mapping[str, Any]
    family: str
    classes: tuple[str, ...]
    base: str
    pretrained: bool


@dataclass(frozen=True, eq=False)
class Network:
    """A network and how it was built.

    Attributes:
        module: torch module in float32, evaluation mode, on the CPU.
        plan: how to build it.
    """

    module: Any
    plan: Plan

    @property
    def stride(self) -> int:
        """Pixels of the largest cell."""
        return max(32, int(max(self.module.stride)))


def load_base(path: Path) -> Network:
    """Read a weights file or a description.

    Args:
        path: ``.pt``, or ``.yaml`` to start from nothing.

    Raises:
        DetectorError: it cannot be read safely, or does not detect.
    """
    if path.suffix in (".yaml", ".yml"):
        return _from_nothing(path)
    checkpoint = load_checkpoint(path, failure=DetectorError)
    family = _family_of(checkpoint.network.yaml, path)
    names = checkpoint.network.names
    classes = tuple(str(names[i]) for i in sorted(names))
    base = f"{path.name}:{_digest(path)}"
    plan = Plan(_one_head(checkpoint.network.yaml), family, classes, base, pretrained=True)
    return _filled(plan, checkpoint.network)


def adapted(
    base: Network,
    classes: Sequence[str],
    rows: Mapping[int, int] | None = None,
    lender: Network | None = None,
    lent: Mapping[int, int] = NONE,
) -> Network:
    """The same network for other classes.

    Args:
        base: where the weights come from.
        classes: the new names.
        rows: new class → the base's class whose weights it takes; by equal names when not given.
        lender: another network of the same layers.
        lent: new class → the lender's class whose weights it takes instead.

    Returns:
        a network in which a class without such a source starts from nothing, the same each time.
    """
    plan = replace(base.plan, yaml={**base.plan.yaml, "nc": len(classes)}, classes=tuple(classes))
    module = _from_seed(plan)
    fresh = {name: part.clone() for name, part in _class_parts(module).items()}
    module.load(deepcopy(base.module), verbose=False)
    sources = [(base, same_names(base.plan.classes, classes) if rows is None else rows)]
    sources += [(lender, lent)] if lender else []
    for name, part in _class_parts(module).items():
        start = fresh[name]
        part.copy_(start if start.shape == part.shape else _random_like(part))
        for network, taken in sources:
            theirs = _class_parts(network.module)[name]
            if theirs.shape[1:] == part.shape[1:]:
                for new, old in taken.items():
                    part[new] = theirs[old]
    return Network(module.float().eval(), plan)


def same_names(known: Sequence[str], wanted: Sequence[str]) -> dict[int, int]:
    """Wanted class → the first known one of the same name.

    Upper and lower case matter only where both are known.

    Example:
        >>> same_names(["Disc", "star", "disc"], ["disc", "STAR", "ring"])
        {0: 2, 1: 1}
    """
    places = [*enumerate(known)][::-1]
    first = {name.strip().lower(): place for place, name in places}
    first |= {name: place for place, name in places}
    found = (
        (place, first.get(name, first.get(name.strip().lower())))
        for place, name in enumerate(wanted)
    )
    return {place: row for place, row in found if row is not None}


def save_network(network: Network, folder: Path) -> None:
    """Write a network into a folder, in half precision as ultralytics does."""
    import torch
    from safetensors.torch import save_file

    state = network.module.state_dict()
    halves = {k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}
    save_file({k: v.contiguous() for k, v in halves.items()}, folder / WEIGHTS)
    (folder / SHAPE).write_text(json.dumps(asdict(network.plan)), encoding="utf-8")


def load_network(folder: Path) -> Network:
    """Read what :func:`save_network` wrote.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    from safetensors.torch import load

    try:
        stored = json.loads((folder / SHAPE).read_text(encoding="utf-8"))
        plan = Plan(**{**stored, "classes": tuple(stored["classes"])})
        state = load((folder / WEIGHTS).read_bytes())  # no file stays open
        module = _as_wide(_module(plan), plan, state)
        module.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
    except Exception as error:  # safetensors, json and torch raise many kinds
        raise DetectorError(
            f"The detector in {folder} is damaged ({type(error).__name__}): roll back to another "
            "version, or train again."
        ) from error
    return Network(module.eval(), plan)


def find_base(setting: str, folder: Path, download: bool) -> Path | None:
    """The file of a setting.

    Args:
        setting: a path, the name of published weights, or of a published ``.yaml``.
        folder: where weights are kept.
        download: fetch published weights that are not here.

    Returns:
        the file; None where it would have to be downloaded and may not.

    Raises:
        DetectorError: there is no such file or name, or it cannot be downloaded.
    """
    if setting == NOTHING:
        return SMALL
    path = Path(setting).expanduser()
    for place in (path, folder / setting):
        if place.is_file():
            return place
    if path.suffix in (".yaml", ".yml") and path.name == setting:
        return path  # a description that ultralytics brings along
    if path.suffix != ".pt" or path.name != setting:
        raise DetectorError(
            f"There is no detector {setting!r}: PRELABEL_DETECTOR is auto, builtin, a weights "
            f"file or name such as {DEFAULT}, or a .yaml to start from nothing."
        )
    return download_checkpoint(setting, folder, failure=DetectorError) if download else None


def _from_nothing(path: Path) -> Network:
    described = _one_head(read_description(path))
    base = f"{path.name}:{_digest_of(described)}"
    plan = Plan(described, _family_of(described, path), ("object",), base, pretrained=False)
    try:
        return Network(_from_seed(plan), plan)
    except Exception as error:  # ultralytics raises many kinds
        raise DetectorError(f"{path} does not describe a network ({error}).") from error


def _from_seed(plan: Plan) -> Any:
    """A module with random weights, the same each time."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _module(plan)


def _class_parts(module: Any) -> dict[str, Any]:
    """The weights with a row per class, by name; they are the module's own, not copies."""
    head = module.model[-1]
    if hasattr(head, "cv3"):
        layers = {f"cv3.{place}": branch[-1] for place, branch in enumerate(head.cv3)}
    else:
        layers = {f"dec.{place}": layer for place, layer in enumerate(head.dec_score_head)}
        layers |= {"enc": head.enc_score_head, "noise": head.denoising_class_embed}
    return {
        f"{name}.{kind}": part.data
        for name, layer in layers.items()
        for kind, part in layer.named_parameters()
    }


def _random_like(part: Any) -> Any:
    """Of a class branch that is wider than where nothing was learned: as torch starts it."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(part.shape[1], part.shape[0], 1)
        return layer.weight.data


def _one_head(described: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(described), default=str))
    return {**plain, "end2end": False}


def _filled(plan: Plan, weights: Any) -> Network:
    module = _module(plan)
    module.load(deepcopy(weights), verbose=False)
    return Network(module.float().eval(), plan)


def _module(plan: Plan) -> Any:
    make = network_class(queries=plan.family == QUERIES)
    module = make(deepcopy(dict(plan.yaml)), nc=len(plan.classes), verbose=False)
    module.names = dict(enumerate(plan.classes))
    return module.float().eval()


def _as_wide(module: Any, plan: Plan, state: Mapping[str, Any]) -> Any:
    """The class branch is as wide as where its weights came from: as their number of classes."""
    head = module.model[-1]
    if plan.family == QUERIES:
        return module
    width = state[f"model.{head.i}.cv3.0.{len(head.cv3[0]) - 1}.weight"].shape[1]
    if width != head.cv3[0][-1].in_channels:
        names = tuple(f"from {number}" for number in range(width))
        module.load(_module(replace(plan, classes=names)), verbose=False)
    return module


def _family_of(described: Mapping[str, Any], path: Path) -> str:
    """``grid`` or ``queries``, by the last layer of a description."""
    layers = described.get("head") or [[None, None, "nothing", None]]
    last = str(layers[-1][2])
    if last not in HEADS:
        raise DetectorError(
            f"{path} does not find boxes by itself (its last layer is {last}): use weights for "
            "detection, such as yolo26n.pt, a YOLO11 or an RT-DETR."
        )
    return HEADS[last]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _digest_of(described: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
