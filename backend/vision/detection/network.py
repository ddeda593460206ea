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
    detection_model_class,
    download_checkpoint,
    load_checkpoint,
    read_network_yaml,
)

DEFAULT_WEIGHTS = "yolo26n.pt"
BUILTIN_SETTING = "builtin"
"""The setting for a small network of our own that starts from nothing."""
SMALL_NETWORK_FILE = Path(__file__).with_name("small.yaml")
GRID_FAMILY, QUERY_FAMILY = "grid", "queries"
FAMILY_BY_HEAD = {"Detect": GRID_FAMILY, "v10Detect": GRID_FAMILY, "RTDETRDecoder": QUERY_FAMILY}
NETWORK_SPEC_FILE, WEIGHTS_FILE = "network.json", "weights.safetensors"
NO_CLASS_MAPPING: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True)
class NetworkSpec:
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
class DetectionNetwork:
    """A network and how it was built.

    Attributes:
        module: torch module in float32, evaluation mode, on the CPU.
        spec: how to build it.
    """

    module: Any
    spec: NetworkSpec

    @property
    def stride(self) -> int:
        """Pixels of the largest cell."""
        return max(32, int(max(self.module.stride)))


def load_base_network(path: Path) -> DetectionNetwork:
    """Read a weights file or a description.

    Args:
        path: ``.pt``, or ``.yaml`` to start from nothing.

    Raises:
        DetectorError: it cannot be read safely, or does not detect.
    """
    if path.suffix in (".yaml", ".yml"):
        return _build_untrained(path)
    checkpoint = load_checkpoint(path, error_type=DetectorError)
    family = _family_of(checkpoint.network.yaml, path)
    names = checkpoint.network.names
    classes = tuple(str(names[i]) for i in sorted(names))
    base = f"{path.name}:{_file_digest(path)}"
    spec = NetworkSpec(
        _without_end2end_head(checkpoint.network.yaml), family, classes, base, pretrained=True
    )
    return _build_with_weights(spec, checkpoint.network)


def adapt_classes(
    base: DetectionNetwork,
    classes: Sequence[str],
    class_sources: Mapping[int, int] | None = None,
    donor: DetectionNetwork | None = None,
    donor_classes: Mapping[int, int] = NO_CLASS_MAPPING,
) -> DetectionNetwork:
    """The same network for other classes.

    Args:
        base: where the weights come from.
        classes: the new names.
        class_sources: new class → the base's class whose weights it takes; by equal names when not given.
        donor: another network of the same layers.
        donor_classes: new class → the lender's class whose weights it takes instead.

    Returns:
        a network in which a class without such a source starts from nothing, the same each time.
    """
    spec = replace(base.spec, yaml={**base.spec.yaml, "nc": len(classes)}, classes=tuple(classes))
    module = _build_seeded(spec)
    initial_weights = {
        name: class_weight.clone() for name, class_weight in _class_weights(module).items()
    }
    module.load(deepcopy(base.module), verbose=False)
    sources = [
        (base, match_names(base.spec.classes, classes) if class_sources is None else class_sources)
    ]
    sources += [(donor, donor_classes)] if donor else []
    for name, class_weight in _class_weights(module).items():
        initial_weight = initial_weights[name]
        class_weight.copy_(
            initial_weight
            if initial_weight.shape == class_weight.shape
            else _random_weights_like(class_weight)
        )
        for network, mapping in sources:
            source_weight = _class_weights(network.module)[name]
            if source_weight.shape[1:] == class_weight.shape[1:]:
                for new_class, old_class in mapping.items():
                    class_weight[new_class] = source_weight[old_class]
    return DetectionNetwork(module.float().eval(), spec)


def match_names(known_names: Sequence[str], requested_names: Sequence[str]) -> dict[int, int]:
    """Wanted class → the first known one of the same name.

    Upper and lower case matter only where both are known.

    Example:
        >>> match_names(["Disc", "star", "disc"], ["disc", "STAR", "ring"])
        {0: 2, 1: 1}
    """
    known_indices = [*enumerate(known_names)][::-1]
    index_by_name = {name.strip().lower(): index for index, name in known_indices}
    index_by_name |= {name: index for index, name in known_indices}
    pairs = (
        (index, index_by_name.get(name, index_by_name.get(name.strip().lower())))
        for index, name in enumerate(requested_names)
    )
    return {index: known_index for index, known_index in pairs if known_index is not None}


def save_network(network: DetectionNetwork, folder: Path) -> None:
    """Write a network into a folder, in half precision as ultralytics does."""
    import torch
    from safetensors.torch import save_file

    state = network.module.state_dict()
    half_weights = {k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}
    save_file({k: v.contiguous() for k, v in half_weights.items()}, folder / WEIGHTS_FILE)
    (folder / NETWORK_SPEC_FILE).write_text(json.dumps(asdict(network.spec)), encoding="utf-8")


def load_network(folder: Path) -> DetectionNetwork:
    """Read what :func:`save_network` wrote.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    from safetensors.torch import load

    try:
        spec_data = json.loads((folder / NETWORK_SPEC_FILE).read_text(encoding="utf-8"))
        spec = NetworkSpec(**{**spec_data, "classes": tuple(spec_data["classes"])})
        state = load((folder / WEIGHTS_FILE).read_bytes())  # no file stays open
        module = _match_class_width(_build_module(spec), spec, state)
        module.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
    except Exception as error:  # safetensors, json and torch raise many kinds
        raise DetectorError(
            f"The detector in {folder} is damaged ({type(error).__name__}): roll back to another "
            "version, or train again."
        ) from error
    return DetectionNetwork(module.eval(), spec)


def find_base_weights(setting: str, weights_dir: Path, download: bool) -> Path | None:
    """The file of a setting.

    Args:
        setting: a path, the name of published weights, or of a published ``.yaml``.
        weights_dir: where weights are kept.
        download: fetch published weights that are not here.

    Returns:
        the file; None where it would have to be downloaded and may not.

    Raises:
        DetectorError: there is no such file or name, or it cannot be downloaded.
    """
    if setting == BUILTIN_SETTING:
        return SMALL_NETWORK_FILE
    path = Path(setting).expanduser()
    for candidate in (path, weights_dir / setting):
        if candidate.is_file():
            return candidate
    if path.suffix in (".yaml", ".yml") and path.name == setting:
        return path  # a description that ultralytics brings along
    if path.suffix != ".pt" or path.name != setting:
        raise DetectorError(
            f"There is no detector {setting!r}: PRELABEL_DETECTOR is auto, builtin, a weights "
            f"file or name such as {DEFAULT_WEIGHTS}, or a .yaml to start from nothing."
        )
    return download_checkpoint(setting, weights_dir, error_type=DetectorError) if download else None


def _build_untrained(path: Path) -> DetectionNetwork:
    description = _without_end2end_head(read_network_yaml(path))
    base = f"{path.name}:{_description_digest(description)}"
    spec = NetworkSpec(
        description, _family_of(description, path), ("object",), base, pretrained=False
    )
    try:
        return DetectionNetwork(_build_seeded(spec), spec)
    except Exception as error:  # ultralytics raises many kinds
        raise DetectorError(f"{path} does not describe a network ({error}).") from error


def _build_seeded(spec: NetworkSpec) -> Any:
    """A module with random weights, the same each time."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _build_module(spec)


def _class_weights(module: Any) -> dict[str, Any]:
    """The weights with a row per class, by name; they are the module's own, not copies."""
    head = module.model[-1]
    if hasattr(head, "cv3"):
        layers = {f"cv3.{level}": branch[-1] for level, branch in enumerate(head.cv3)}
    else:
        layers = {f"dec.{level}": layer for level, layer in enumerate(head.dec_score_head)}
        layers |= {"enc": head.enc_score_head, "noise": head.denoising_class_embed}
    return {
        f"{name}.{kind}": parameter.data
        for name, layer in layers.items()
        for kind, parameter in layer.named_parameters()
    }


def _random_weights_like(class_weight: Any) -> Any:
    """Of a class branch that is wider than where nothing was learned: as torch starts it."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(class_weight.shape[1], class_weight.shape[0], 1)
        return layer.weight.data


def _without_end2end_head(description: Mapping[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(dict(description), default=str))
    return {**copied, "end2end": False}


def _build_with_weights(spec: NetworkSpec, weights: Any) -> DetectionNetwork:
    module = _build_module(spec)
    module.load(deepcopy(weights), verbose=False)
    return DetectionNetwork(module.float().eval(), spec)


def _build_module(spec: NetworkSpec) -> Any:
    model_class = detection_model_class(is_rtdetr=spec.family == QUERY_FAMILY)
    module = model_class(deepcopy(dict(spec.yaml)), nc=len(spec.classes), verbose=False)
    module.names = dict(enumerate(spec.classes))
    return module.float().eval()


def _match_class_width(module: Any, spec: NetworkSpec, state: Mapping[str, Any]) -> Any:
    """The class branch is as wide as where its weights came from: as their number of classes."""
    head = module.model[-1]
    if spec.family == QUERY_FAMILY:
        return module
    width = state[f"model.{head.i}.cv3.0.{len(head.cv3[0]) - 1}.weight"].shape[1]
    if width != head.cv3[0][-1].in_channels:
        names = tuple(f"from {number}" for number in range(width))
        module.load(_build_module(replace(spec, classes=names)), verbose=False)
    return module


def _family_of(description: Mapping[str, Any], path: Path) -> str:
    """``grid`` or ``queries``, by the last layer of a description."""
    layers = description.get("head") or [[None, None, "nothing", None]]
    last_layer = str(layers[-1][2])
    if last_layer not in FAMILY_BY_HEAD:
        raise DetectorError(
            f"{path} does not find boxes by itself (its last layer is {last_layer}): use weights for "
            "detection, such as yolo26n.pt, a YOLO11 or an RT-DETR."
        )
    return FAMILY_BY_HEAD[last_layer]


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _description_digest(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
