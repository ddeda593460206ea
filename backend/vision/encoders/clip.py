"""CLIP encoders, loaded with open_clip; the only module that imports open_clip."""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.arrays import Floats
from backend.callbacks import LogCallback
from backend.errors import EncoderError
from backend.vision.batching import encode_in_batches, to_array
from backend.vision.encoders.base import ENCODER_SETTING_HELP, NetworkEncoder, wrap_network
from backend.vision.hub import CLIP_FILES, find_cached_file, hub_unavailable_reason

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from backend.vision.onnx.preprocessing import PortableEncoder

RESEARCH_ONLY_PREFIX = "MobileCLIP"
PREPROCESSING_KEYS = ("mean", "std", "interpolation", "resize_mode")


class ClipEncoder(NetworkEncoder):
    """A CLIP model; see :class:`backend.vision.encoders.base.Encoder`.

    Args:
        model: open_clip model.
        preprocess: image transform of the model.
        tokenizer: tokenizer of the model.
        name: the ``PRELABEL_ENCODER`` setting.
        id: see :class:`Encoder`.
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
        self._model = model.eval().requires_grad_(False)
        tower = wrap_network(self._model, lambda clip, images: clip.encode_image(images))
        super().__init__(lambda: tower, preprocess)
        self._tokenizer = tokenizer
        self.logit_scale = float(model.logit_scale.exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else float(bias)
        self.dim = int(self._encode_text_batch(["a photo"]).shape[1])

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """See :meth:`Encoder.encode_texts`."""
        return encode_in_batches(self._encode_text_batch, texts, self.dim, self._device)

    def to_portable(self) -> PortableEncoder:
        """See :meth:`SupportsExport.to_portable`."""
        from backend.vision.onnx.preprocessing import read_transforms

        return self._export(*read_transforms(self.name, self._preprocess))

    def _encode_text_batch(self, texts: Sequence[str]) -> Floats:
        tokens = self._tokenizer(list(texts)).to(self._device)
        return to_array(self._model.encode_text(tokens, normalize=True))


def tokenize(texts: list[str]) -> Any:
    """Return CLIP token ids, (n, 77), which YOLOE uses too."""
    import open_clip

    return open_clip.tokenize(texts)


def load_clip(setting: str, log: LogCallback) -> ClipEncoder:
    """Load an open_clip model.

    Args:
        setting: ``model/weights``; the weights are a published tag or a file.
        log: receives a warning if the weights are licensed for research only.

    Raises:
        EncoderError: open_clip has no such model, or the weights are not available.
    """
    model, _, weights = setting.partition("/")
    path = Path(weights).expanduser()
    _validate_weights(model, weights, path)
    if model.startswith(RESEARCH_ONLY_PREFIX):
        log(f"Encoder: the weights of {model} are licensed for research only.")
    try:
        clip_model, preprocess, tokenizer = _create_model(model, weights, path)
        encoder_id = _encoder_id(clip_model, model, path)
        return ClipEncoder(clip_model, preprocess, tokenizer, setting, encoder_id)
    except EncoderError:
        raise
    except Exception as error:  # open_clip, huggingface_hub and torch raise many exception types
        raise EncoderError(_load_error_message(model, weights, path, error)) from error


def is_clip_local(setting: str) -> bool:
    """Return whether ``model/weights`` can be loaded without a download.

    Raises:
        EncoderError: open_clip has no such model or weights.
    """
    model, _, weights = setting.partition("/")
    path = Path(weights).expanduser()
    _validate_weights(model, weights, path)
    return path.is_file() or bool(_cached_weights(model, weights))


def _validate_weights(model: str, weights: str, path: Path) -> None:
    import open_clip

    if open_clip.get_model_config(model) is None:
        close_matches = difflib.get_close_matches(model, open_clip.list_models(), n=3)
        hint = f" (similar: {', '.join(close_matches)})" if close_matches else ""
        raise EncoderError(f"open_clip has no model {model!r}{hint}. {ENCODER_SETTING_HELP}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not path.is_file() and not open_clip.is_pretrained_cfg(model, weights):
        known_tags = ", ".join(tags) or "none are published"
        raise EncoderError(
            f"{weights!r} is neither a file nor published weights of {model} ({known_tags}). "
            f"{ENCODER_SETTING_HELP}"
        )
    _validate_activation(model, weights)


def _validate_activation(model: str, weights: str) -> None:
    """Raise EncoderError for weights trained with another GELU, which open_clip does not check."""
    import open_clip

    config = open_clip.get_pretrained_cfg(model, weights) or {}
    uses_quick_gelu = bool(config.get("quick_gelu"))
    other_model = f"{model}-quickgelu" if uses_quick_gelu else model.removesuffix("-quickgelu")
    differs = uses_quick_gelu != bool(open_clip.get_model_config(model).get("quick_gelu"))
    if differs and other_model != model and open_clip.is_pretrained_cfg(other_model, weights):
        raise EncoderError(
            f"{weights} was trained with another activation than that of {model}: "
            f"set PRELABEL_ENCODER={other_model}/{weights}."
        )


def _create_model(model: str, weights: str, path: Path) -> tuple[Any, Any, Any]:
    """Return model, image transform and tokenizer; unpickling is limited to tensors."""
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
    """Return the path of published weights, downloading them if they are not cached."""
    import open_clip

    weights_config = open_clip.get_pretrained_cfg(model, tag)
    repository, cached_path = _hub_repository(weights_config), _cached_weights(model, tag)
    if cached_path:
        return cached_path
    if repository and (reason := hub_unavailable_reason()):
        raise EncoderError(_missing_weights_message(model, tag, reason))
    return str(open_clip.download_pretrained(weights_config))


def _cached_weights(model: str, tag: str) -> str | None:
    """Return the path of published weights if they are cached."""
    import open_clip

    weights_config = open_clip.get_pretrained_cfg(model, tag)
    repository = _hub_repository(weights_config)
    name = str(weights_config.get("hf_hub") or "").rpartition("/")[2]
    names = (str(Path(name).with_suffix(".safetensors")), name) if name else CLIP_FILES
    return find_cached_file(repository, names) if repository else None


def _hub_repository(weights_config: dict[str, Any]) -> str:
    return str(weights_config.get("hf_hub") or "").rpartition("/")[0]


def _preprocessing_options(model: str, weights: str) -> dict[str, Any]:
    """Return preprocessing options for a model whose weights are loaded from a file.

    For files, open_clip defaults to the mean and resizing of OpenAI's CLIP, which is wrong for
    SigLIP and PE. The options of the published weights are used if they agree, else the default.
    """
    import open_clip

    tags = [weights]
    if not open_clip.is_pretrained_cfg(model, weights):
        tags = open_clip.list_pretrained_tags_by_model(model)
    weights_configs = [open_clip.get_pretrained_cfg(model, tag) for tag in tags]
    options = [{f"image_{key}": c.get(key) for key in PREPROCESSING_KEYS} for c in weights_configs]
    return options[0] if options and all(other == options[0] for other in options) else {}


def _encoder_id(clip_model: Any, model: str, path: Path) -> str:
    import open_clip

    weights = path.name
    if path.is_file():
        with path.open("rb") as file:
            weights = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:16]
    config = open_clip.get_model_preprocess_cfg(clip_model)
    preprocess = json.dumps(config, sort_keys=True, default=str)
    digest = hashlib.sha256(preprocess.encode()).hexdigest()[:8]
    return f"open_clip:{model}/{weights}/{digest}"


def _load_error_message(model: str, weights: str, path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
    if isinstance(error, ImportError):
        return f"{model} needs a package that is not installed ({reason}): install it and retry."
    if path.is_file():
        return f"{path} cannot be read as weights of {model} ({reason}): check model and file."
    return _missing_weights_message(model, weights, reason)


def _missing_weights_message(model: str, weights: str, reason: str) -> str:
    return (
        f"The weights {weights} of {model} are not on this machine and cannot be downloaded "
        f"({reason}): copy them from a machine with internet, or set PRELABEL_ENCODER=builtin."
    )
