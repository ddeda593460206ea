"""The one owner of open_clip."""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.arrays import Floats
from backend.callbacks import LogCallback
from backend.errors import EncoderError
from backend.vision.batching import detect_device, encode_in_batches
from backend.vision.encoders.base import ENCODER_SETTING_HELP, make_noise_image, normalize_rows
from backend.vision.hub import CLIP_FILES, find_cached_file, hub_unavailable_reason
from backend.vision.images.aspect_ratio import crop_extreme_aspect
from backend.vision.runtime import Runner, TorchRunner, select_fastest_runner

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from backend.vision.onnx.preprocessing import PortableEncoder

RESEARCH_ONLY_PREFIX = "MobileCLIP"
PREPROCESSING_KEYS = ("mean", "std", "interpolation", "resize_mode")


class ClipEncoder:
    """A CLIP model of open_clip; see :class:`backend.vision.encoders.base.Encoder`.

    Args:
        model: as open_clip makes it.
        preprocess: the one that open_clip returned with it.
        tokenizer: of the model.
        name: the setting.
        id: the identity.
    """

    has_text = True

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Image.Image], torch.Tensor],
        tokenizer: Callable[[list[str]], torch.Tensor],
        name: str,
        id: str,
    ) -> None:
        self.name, self.id = name, id
        self._device = detect_device()
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._preprocess = preprocess
        self._runner: Runner = TorchRunner(_image_tower(self._model), self._device)
        self._tokenizer = tokenizer
        self.logit_scale = float(model.logit_scale.exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else float(bias)
        self.dim = int(self._encode_text_batch(["a photo"]).shape[1])

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """(n, dim) float32 of unit length."""
        return encode_in_batches(self._encode_image_batch, images, self.dim, self._device)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """(n, dim) float32 of unit length."""
        return encode_in_batches(self._encode_text_batch, texts, self.dim, self._device)

    def use_fastest_runner(self, folder: Path | None, say: LogCallback) -> None:
        """Run the image side the fastest way there is; see :func:`select_fastest_runner`.

        Args:
            folder: where converted networks are kept.
            say: told why a faster way was not taken.
        """
        example = self._preprocess_batch([make_noise_image()])
        tower = _image_tower(self._model)
        self._runner = select_fastest_runner(
            tower, example, key=self.id, family=self.id, folder=folder, say=say
        )

    def to_portable(self) -> PortableEncoder:
        """See :class:`backend.vision.encoders.base.Portable`."""
        from backend.vision.onnx.preprocessing import (
            PortableEncoder,
            build_encoder_graph,
            read_transforms,
        )

        preprocessing, mean, std = read_transforms(self.name, self._preprocess)
        tower = _image_tower(deepcopy(self._model).cpu().float())
        return PortableEncoder(
            build_encoder_graph(tower, preprocessing.side, mean, std), preprocessing
        )

    def _encode_image_batch(self, images: Sequence[Image.Image]) -> Floats:
        return normalize_rows(self._runner(self._preprocess_batch(images))[0])

    def _preprocess_batch(self, images: Sequence[Image.Image]) -> Floats:
        import torch

        batch = torch.stack([self._preprocess(crop_extreme_aspect(image)) for image in images])
        return np.asarray(batch.numpy(), dtype=np.float32)

    def _encode_text_batch(self, texts: Sequence[str]) -> Floats:
        tokens = self._tokenizer(list(texts)).to(self._device)
        return _to_float32(self._model.encode_text(tokens, normalize=True))


def tokenize(texts: list[str]) -> Any:
    """Texts as CLIP's numbers, (n, 77) whole numbers; other networks split texts the same way."""
    import open_clip

    return open_clip.tokenize(texts)


def _image_tower(model: Any) -> Any:
    """The part of a model that turns images into vectors, as a module of its own."""
    import torch

    class ImageSide(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.model.encode_image(images)

    return ImageSide().eval()


def load_clip(setting: str, say: LogCallback) -> ClipEncoder:
    """Load ``model/weights``; the weights are a published tag or a file.

    Args:
        setting: split at the first slash.
        say: told of weights that are for research only.

    Raises:
        EncoderError: open_clip does not know it, or the weights cannot be had.
    """
    model, _, weights = setting.partition("/")
    path = Path(weights).expanduser()
    _validate_weights(model, weights, path)
    if model.startswith(RESEARCH_ONLY_PREFIX):
        say(f"Encoder: the weights of {model} are licensed for research only.")
    try:
        clip_model, preprocess, tokenizer = _create_model(model, weights, path)
        return ClipEncoder(
            clip_model, preprocess, tokenizer, setting, _encoder_id(clip_model, model, path)
        )
    except EncoderError:
        raise
    except Exception as error:  # open_clip, the hub and torch raise many kinds
        raise EncoderError(_load_error_message(model, weights, path, error)) from error


def is_clip_local(setting: str) -> bool:
    """Whether ``model/weights`` are on this machine.

    Raises:
        EncoderError: open_clip does not know them.
    """
    model, _, weights = setting.partition("/")
    path = Path(weights).expanduser()
    _validate_weights(model, weights, path)
    return path.is_file() or bool(_cached_weights(model, weights))


def _validate_weights(model: str, weights: str, path: Path) -> None:
    import open_clip

    if open_clip.get_model_config(model) is None:
        close_matches = difflib.get_close_matches(model, open_clip.list_models(), n=3)
        hint = f" (near: {', '.join(close_matches)})" if close_matches else ""
        raise EncoderError(f"open_clip has no model {model!r}{hint}. {ENCODER_SETTING_HELP}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not path.is_file() and not open_clip.is_pretrained_cfg(model, weights):
        known_tags = ", ".join(tags) or "a file only"
        raise EncoderError(
            f"{weights!r} is neither a file nor published weights of {model} ({known_tags}). {ENCODER_SETTING_HELP}"
        )
    _validate_activation(model, weights)


def _validate_activation(model: str, weights: str) -> None:
    """Weights that were trained with another activation give wrong vectors without a complaint."""
    import open_clip

    trained_quick_gelu = bool(
        (open_clip.get_pretrained_cfg(model, weights) or {}).get("quick_gelu")
    )
    other_model = f"{model}-quickgelu" if trained_quick_gelu else model.removesuffix("-quickgelu")
    differs = trained_quick_gelu != bool(open_clip.get_model_config(model).get("quick_gelu"))
    if differs and other_model != model and open_clip.is_pretrained_cfg(other_model, weights):
        raise EncoderError(
            f"{weights} was trained with another activation than {model} has: "
            f"set PRELABEL_ENCODER={other_model}/{weights}."
        )


def _create_model(model: str, weights: str, path: Path) -> tuple[Any, Any, Any]:
    """Model, preprocessing and tokenizer. Files are read as plain tensors, never as code."""
    import open_clip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = open_clip.get_tokenizer(model)
        file = str(path) if path.is_file() else _fetch_weights(model, weights)
        clip_model, _, preprocess = open_clip.create_model_and_transforms(
            model, pretrained=file, weights_only=True, **_preprocessing_options(model, weights)
        )
    return clip_model, preprocess, tokenizer


def _fetch_weights(model: str, tag: str) -> str:
    """The path of published weights: what is here already, or downloaded."""
    import open_clip

    weights_config = open_clip.get_pretrained_cfg(model, tag)
    repository, cached_path = _hub_repository(weights_config), _cached_weights(model, tag)
    if cached_path:
        return cached_path
    if repository and (reason := hub_unavailable_reason()):
        raise EncoderError(_missing_weights_message(model, tag, reason))
    return str(open_clip.download_pretrained(weights_config))


def _cached_weights(model: str, tag: str) -> str | None:
    """The path of published weights that are on this machine already."""
    import open_clip

    weights_config = open_clip.get_pretrained_cfg(model, tag)
    repository = _hub_repository(weights_config)
    name = str(weights_config.get("hf_hub") or "").rpartition("/")[2]
    names = (str(Path(name).with_suffix(".safetensors")), name) if name else CLIP_FILES
    return find_cached_file(repository, names) if repository else None


def _hub_repository(weights_config: dict[str, Any]) -> str:
    return str(weights_config.get("hf_hub") or "").rpartition("/")[0]


def _preprocessing_options(model: str, weights: str) -> dict[str, Any]:
    """How images are prepared for weights that are read from a file.

    open_clip knows this by the name of published weights, and takes the first CLIP's means and
    resizing for a file: wrong for SigLIP or PE. Where all published weights agree, so do we.
    """
    import open_clip

    tags = [weights]
    if not open_clip.is_pretrained_cfg(model, weights):
        tags = open_clip.list_pretrained_tags_by_model(model)
    weights_configs = [open_clip.get_pretrained_cfg(model, tag) for tag in tags]
    options = [
        {f"image_{key}": cfg.get(key) for key in PREPROCESSING_KEYS} for cfg in weights_configs
    ]
    return options[0] if options and all(other == options[0] for other in options) else {}


def _encoder_id(clip_model: Any, model: str, path: Path) -> str:
    import open_clip

    weights = path.name
    if path.is_file():
        with path.open("rb") as file:
            weights = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:16]
    preprocess = json.dumps(
        open_clip.get_model_preprocess_cfg(clip_model), sort_keys=True, default=str
    )
    digest = hashlib.sha256(preprocess.encode()).hexdigest()[:8]
    return f"open_clip:{model}/{weights}/{digest}"


def _load_error_message(model: str, weights: str, path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
    if isinstance(error, ImportError):
        return (
            f"{model} needs a package that is not installed ({reason}): install it, then try again."
        )
    if path.is_file():
        return f"{path} cannot be read as weights of {model} ({reason}): check model and file."
    return _missing_weights_message(model, weights, reason)


def _missing_weights_message(model: str, weights: str, reason: str) -> str:
    return (
        f"The weights {weights} of {model} are not on this machine and cannot be downloaded "
        f"({reason}): get them on a machine with internet, or set PRELABEL_ENCODER=builtin."
    )


def _to_float32(vectors: torch.Tensor) -> Floats:
    return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)
