"""The one owner of open_clip."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.errors import EncoderError
from backend.vision.encoder import SPELLINGS, Say, Vectors

if TYPE_CHECKING:
    import torch
    from PIL import Image

BATCH = 32
RESEARCH_ONLY = ("MobileCLIP",)


class ClipEncoder:
    """A CLIP model of open_clip; see :class:`backend.vision.encoder.Encoder`.

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
        import torch

        self.name, self.id = name, id
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self.logit_scale = float(model.logit_scale.exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else float(bias)
        self.dim = int(self.encode_texts(["a photo"]).shape[1])

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """(n, dim) float32 of unit length."""
        import torch

        inputs = (torch.stack([self._preprocess(i) for i in part]) for part in _parts(images))
        return self._encode(partial(self._model.encode_image, normalize=True), inputs)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """(n, dim) float32 of unit length."""
        inputs = (self._tokenizer(list(part)) for part in _parts(texts))
        return self._encode(partial(self._model.encode_text, normalize=True), inputs)

    def _encode(
        self, encode: Callable[[torch.Tensor], torch.Tensor], inputs: Iterable[torch.Tensor]
    ) -> Vectors:
        import torch

        with torch.inference_mode():
            rows = [encode(part.to(self._device)).float().cpu().numpy() for part in inputs]
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)


def load_clip(setting: str, say: Say) -> ClipEncoder:
    """Load ``model/weights``; the weights are a published tag or a file.

    Raises:
        EncoderError: open_clip does not know it, or the weights cannot be had.
    """
    model, _, weights = setting.partition("/")
    _check(model, weights)
    if model.startswith(RESEARCH_ONLY):
        say(f"{model}: its weights are licensed for research only.")
    try:
        made, preprocess, tokenizer = _create(model, weights)
    except Exception as error:  # open_clip, the hub and torch each raise their own kinds
        raise EncoderError(
            f"The weights {weights} of {model} cannot be loaded ({_short(error)}): download them "
            "on a machine with internet, or choose another PRELABEL_ENCODER."
        ) from error
    identity = weights
    if Path(weights).is_file():
        identity = "sha256:" + hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]
    return ClipEncoder(made, preprocess, tokenizer, setting, f"open_clip:{model}/{identity}")


def is_cached(setting: str) -> bool:
    """Whether the published weights are on this machine already."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    model, _, tag = setting.partition("/")
    published = open_clip.get_pretrained_cfg(model, tag) or {}
    repository = str(published.get("hf_hub", "")).strip("/")
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, n), str) for n in names if repository)


def _check(model: str, weights: str) -> None:
    import open_clip

    if model not in open_clip.list_models():
        raise EncoderError(f"open_clip has no model {model!r}. {SPELLINGS}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not Path(weights).is_file() and weights.lower() not in [tag.lower() for tag in tags]:
        known = ", ".join(tags) or "a file only"
        raise EncoderError(
            f"{weights!r} is neither a file nor a published tag of {model} ({known}). {SPELLINGS}"
        )


def _create(model: str, weights: str) -> tuple[Any, Any, Any]:
    """Model, preprocessing and tokenizer. Files are read as plain tensors, never as code."""
    import open_clip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of quick-GELU and timm's names, meant for its authors
        made, _, preprocess = open_clip.create_model_and_transforms(
            model, pretrained=weights, weights_only=True
        )
        return made, preprocess, open_clip.get_tokenizer(model)


def _parts(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
