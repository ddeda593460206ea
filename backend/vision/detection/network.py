"""Build, load and save detection networks.

Networks are saved as safetensors and JSON, never as pickle. Of the two heads of YOLO26, only the
one-to-many head, which needs NMS, is kept, because training both is slower.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backend.errors import DamagedDetectorError, DetectorError
from backend.vision.ultralytics_models import (
    detection_model_class,
    download_checkpoint,
    find_checkpoint,
    load_checkpoint,
    read_network_yaml,
)

DEFAULT_WEIGHTS = "yolo26n.pt"
BUILTIN_SETTING = "builtin"
"""The setting for this project's small network, which is trained from scratch."""
SMALL_NETWORK_FILE = Path(__file__).with_name("small.yaml")
GRID_FAMILY, QUERY_FAMILY = "grid", "queries"
FAMILY_BY_HEAD = {"Detect": GRID_FAMILY, "v10Detect": GRID_FAMILY, "RTDETRDecoder": QUERY_FAMILY}
NETWORK_SPEC_FILE, WEIGHTS_FILE = "network.json", "weights.safetensors"
NO_CLASS_MAPPING: Mapping[int, int] = MappingProxyType({})
NetworkYaml = Mapping[str, object]
"""Content of an ultralytics model YAML."""


@dataclass(frozen=True)
class NetworkSpec:
    """Specification of a network, without weights.

    Attributes:
        yaml: ultralytics model YAML.
        family: ``grid`` (YOLO) or ``queries`` (RT-DETR).
        classes: class names in the order of the outputs.
        base: name and hash of the base weights or model YAML.
        pretrained: the base weights are pretrained.
    """

    yaml: NetworkYaml
    family: str
    classes: tuple[str, ...]
    base: str
    pretrained: bool


class DetectionNetwork:
    """A network with its specification.

    Args:
        module: torch module in float32 and evaluation mode, on the CPU.
        spec: the specification.
    """

    def __init__(self, module: Any, spec: NetworkSpec) -> None:
        self._module = module
        self.spec = spec

    @property
    def module(self) -> Any:
        """Torch module in float32 and evaluation mode, on the CPU."""
        return self._module

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the output levels in pixels."""
        return tuple(int(stride) for stride in self.module.stride)

    @property
    def stride(self) -> int:
        """Maximum stride in pixels, at least 32."""
        return max(32, *self.strides)


class StoredNetwork(DetectionNetwork):
    """A saved network whose module is built at first use, as a converted network needs no torch.

    Args:
        weights: content of the weights file; its folder may be deleted meanwhile.
        spec: the specification.
        strides: strides of the output levels in pixels.
        folder: folder of :func:`save_network`, for the message of an error.
    """

    def __init__(
        self, weights: bytes, spec: NetworkSpec, strides: tuple[int, ...], folder: Path
    ) -> None:
        super().__init__(None, spec)
        self._weights = weights
        self._strides = strides
        self._folder = folder
        self._load_lock = threading.Lock()

    @property
    def module(self) -> Any:
        """Torch module in float32 and evaluation mode, on the CPU.

        Raises:
            DetectorError: the weights do not fit the specification.
        """
        with self._load_lock:
            if self._module is None:
                self._module = _load_module(self._weights, self.spec, self._folder)
                self._weights = b""
        return self._module

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the output levels in pixels."""
        return self._strides


def load_base_network(path: Path) -> DetectionNetwork:
    """Load a network from weights, or build an untrained network from a model YAML.

    Args:
        path: ``.pt`` or ``.yaml`` file.

    Raises:
        DetectorError: the file cannot be read safely, or is not a detection network.
    """
    if path.suffix in (".yaml", ".yml"):
        return _build_untrained(path)
    checkpoint = load_checkpoint(path, error_type=DetectorError)
    family = _network_family(checkpoint.network.yaml, path)
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
    """Copy a network with other classes.

    Weights of the class layers are copied per class; classes without a source are initialized
    randomly with a fixed seed.

    Args:
        base: source of all other weights.
        classes: new class names.
        class_sources: new class → class of ``base`` to copy; default by equal names.
        donor: second network with the same layers, or None.
        donor_classes: new class → class of ``donor`` to copy, overriding ``class_sources``.
    """
    spec = replace(base.spec, yaml={**base.spec.yaml, "nc": len(classes)}, classes=tuple(classes))
    module = _build_seeded(spec)
    initial_weights = {name: weight.clone() for name, weight in _class_weights(module).items()}
    module.load(deepcopy(base.module), verbose=False)
    if class_sources is None:
        class_sources = match_names(base.spec.classes, classes)
    sources = [(base, class_sources), *([(donor, donor_classes)] if donor else [])]
    for name, class_weight in _class_weights(module).items():
        initial = initial_weights[name]
        same_shape = initial.shape == class_weight.shape
        class_weight.copy_(initial if same_shape else _random_weights_like(class_weight))
        for network, mapping in sources:
            source_weight = _class_weights(network.module)[name]
            if source_weight.shape[1:] == class_weight.shape[1:]:
                for new_class, old_class in mapping.items():
                    class_weight[new_class] = source_weight[old_class]
    return DetectionNetwork(module.float().eval(), spec)


def match_names(known_names: Sequence[str], requested_names: Sequence[str]) -> dict[int, int]:
    """Map each requested index to the index of the first known name that is equal.

    An exact match is preferred; otherwise case is ignored.

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
    """Save a network to a folder in half precision, as ultralytics does."""
    import torch
    from safetensors.torch import save

    state = network.module.state_dict()
    half = {k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}
    weights = save({k: v.contiguous() for k, v in half.items()})
    stored = {**asdict(network.spec), "strides": network.strides}
    stored["digest"] = _stored_digest(stored, weights)
    (folder / WEIGHTS_FILE).write_bytes(weights)
    (folder / NETWORK_SPEC_FILE).write_text(json.dumps(stored), encoding="utf-8")


def load_network(folder: Path) -> DetectionNetwork:
    """Load a network saved by :func:`save_network`.

    The module of an undamaged network is built at first use.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    try:
        stored = json.loads((folder / NETWORK_SPEC_FILE).read_text(encoding="utf-8"))
        known = {item.name: stored[item.name] for item in fields(NetworkSpec)}
        spec = NetworkSpec(**{**known, "classes": tuple(known["classes"])})
        digest = stored.pop("digest", "")  # missing in versions of early releases
        weights = (folder / WEIGHTS_FILE).read_bytes()  # load_file would keep the file open
        if digest and digest == _stored_digest(stored, weights):
            return StoredNetwork(weights, spec, tuple(stored["strides"]), folder)
    except Exception as error:  # json and NetworkSpec raise many exception types
        raise damaged_detector_error(folder, error) from error
    return DetectionNetwork(_load_module(weights, spec, folder), spec)


def _load_module(weights: bytes, spec: NetworkSpec, folder: Path) -> Any:
    """Build the module of a saved network; raises DetectorError."""
    from safetensors.torch import load

    try:
        state = load(weights)
        module = _match_class_width(_build_module(spec), spec, state)
        single = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        module.load_state_dict(single)
    except Exception as error:  # safetensors and torch raise many exception types
        raise damaged_detector_error(folder, error) from error
    return module.eval()


def _stored_digest(stored: Mapping[str, object], weights: bytes) -> str:
    """Return a digest of a saved network: its specification and weights."""
    digest = hashlib.sha256(json.dumps(stored, sort_keys=True).encode())
    digest.update(weights)
    return digest.hexdigest()


def damaged_detector_error(folder: Path, error: Exception) -> DetectorError:
    """Return the error for a detector whose files are missing, damaged or unreadable."""
    is_unreadable = isinstance(error, MemoryError | OSError)
    is_missing = isinstance(error, FileNotFoundError)
    error_class = DetectorError if is_unreadable and not is_missing else DamagedDetectorError
    return error_class(
        f"The detector in {folder} is damaged ({type(error).__name__}): roll back to another "
        "version, or train again."
    )


def find_base_weights(setting: str, weights_dir: Path, download: bool) -> Path | None:
    """Return the weights file or model YAML for a setting.

    Args:
        setting: ``builtin``, a path, or the name of published weights or a published ``.yaml``.
        weights_dir: folder of downloaded weights.
        download: download published weights if they are missing.

    Returns:
        the file; None if it is missing and ``download`` is false.

    Raises:
        DetectorError: there is no such file or name, or the download failed.
    """
    if setting == BUILTIN_SETTING:
        return SMALL_NETWORK_FILE
    if file := find_checkpoint(setting, weights_dir):
        return file
    path = Path(setting).expanduser()
    if path.suffix in (".yaml", ".yml") and path.name == setting:
        return path  # bundled with ultralytics
    if path.suffix != ".pt" or path.name != setting:
        raise DetectorError(
            f"There is no detector {setting!r}: PRELABEL_DETECTOR is auto, builtin, a weights "
            f"file or name such as {DEFAULT_WEIGHTS}, or a .yaml to train from scratch."
        )
    return download_checkpoint(setting, weights_dir, error_type=DetectorError) if download else None


def _build_untrained(path: Path) -> DetectionNetwork:
    description = _without_end2end_head(read_network_yaml(path))
    base = f"{path.name}:{_description_digest(description)}"
    spec = NetworkSpec(
        description, _network_family(description, path), ("object",), base, pretrained=False
    )
    try:
        return DetectionNetwork(_build_seeded(spec), spec)
    except Exception as error:  # ultralytics raises many exception types
        raise DetectorError(f"{path} does not describe a network ({error}).") from error


def _build_seeded(spec: NetworkSpec) -> Any:
    """Build a module with random weights from a fixed seed."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _build_module(spec)


def _class_weights(module: Any) -> dict[str, Any]:
    """Return views of the per-class parameters of the head, (classes, …), by name."""
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
    """Return default-initialized weights of the same shape, from a fixed seed."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(class_weight.shape[1], class_weight.shape[0], 1)
        return layer.weight.data


def _without_end2end_head(description: NetworkYaml) -> dict[str, object]:
    return {**json.loads(json.dumps(dict(description), default=str)), "end2end": False}


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
    """Widen the class branch to the stored weights; its width depends on the base's class count."""
    head = module.model[-1]
    if spec.family == QUERY_FAMILY:
        return module
    width = state[f"model.{head.i}.cv3.0.{len(head.cv3[0]) - 1}.weight"].shape[1]
    if width != head.cv3[0][-1].in_channels:
        names = tuple(f"from {number}" for number in range(width))
        module.load(_build_module(replace(spec, classes=names)), verbose=False)
    return module


def _network_family(description: NetworkYaml, path: Path) -> str:
    """Return ``grid`` or ``queries`` by the last layer of a model YAML."""
    layers = description.get("head")
    last_layer = str(layers[-1][2]) if isinstance(layers, list) and layers else "nothing"
    if last_layer not in FAMILY_BY_HEAD:
        raise DetectorError(
            f"{path} is not a detection network (its last layer is {last_layer}): use weights for "
            "detection, such as yolo26n.pt, a YOLO11 or an RT-DETR."
        )
    return FAMILY_BY_HEAD[last_layer]


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _description_digest(description: NetworkYaml) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
