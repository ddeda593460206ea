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
from backend.vision.batching import device_here, in_batches
from backend.vision.encoders.base import SPELLINGS, noise, unit_rows
from backend.vision.hub import CLIP_FILES, kept_file, why_not_asked
from backend.vision.images.aspect_ratio import not_too_slim
from backend.vision.runtime import Runner, TorchRunner, fastest

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from backend.vision.onnx.preprocessing import PortableEncoder

RESEARCH_ONLY = "MobileCLIP"
PREPARATION = ("mean", "std", "interpolation", "resize_mode")


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
        self._device = device_here()
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._preprocess = preprocess
        self._runner: Runner = TorchRunner(_image_side(self._model), self._device)
        self._tokenizer = tokenizer
        self.logit_scale = float(model.logit_scale.exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else float(bias)
        self.dim = int(self._texts(["a photo"]).shape[1])

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """(n, dim) float32 of unit length."""
        return in_batches(self._images, images, self.dim, self._device)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """(n, dim) float32 of unit length."""
        return in_batches(self._texts, texts, self.dim, self._device)

    def hasten(self, folder: Path | None, say: LogCallback) -> None:
        """Run the image side the fastest way there is; see :func:`fastest`.

        Args:
            folder: where converted networks are kept.
            say: told why a faster way was not taken.
        """
        example = self._prepared([noise()])
        side = _image_side(self._model)
        self._runner = fastest(side, example, key=self.id, family=self.id, folder=folder, say=say)

    def portable(self) -> PortableEncoder:
        """See :class:`backend.vision.encoders.base.Portable`."""
        from backend.vision.onnx.preprocessing import PortableEncoder, encoder_graph, read_steps

        preparation, mean, std = read_steps(self.name, self._preprocess)
        side = _image_side(deepcopy(self._model).cpu().float())
        return PortableEncoder(encoder_graph(side, preparation.side, mean, std), preparation)

    def _images(self, images: Sequence[Image.Image]) -> Floats:
        return unit_rows(self._runner(self._prepared(images))[0])

    def _prepared(self, images: Sequence[Image.Image]) -> Floats:
        import torch

        batch = torch.stack([self._preprocess(not_too_slim(image)) for image in images])
        return np.asarray(batch.numpy(), dtype=np.float32)

    def _texts(self, texts: Sequence[str]) -> Floats:
        tokens = self._tokenizer(list(texts)).to(self._device)
        return _rows(self._model.encode_text(tokens, normalize=True))


def tokenize(texts: list[str]) -> Any:
    """Texts as CLIP's numbers, (n, 77) whole numbers; other networks split texts the same way."""
    import open_clip

    return open_clip.tokenize(texts)


def _image_side(model: Any) -> Any:
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
    _check(model, weights, path)
    if model.startswith(RESEARCH_ONLY):
        say(f"Encoder: the weights of {model} are licensed for research only.")
    try:
        made, preprocess, tokenizer = _create(model, weights, path)
        return ClipEncoder(made, preprocess, tokenizer, setting, _identity(made, model, path))
    except EncoderError:
        raise
    except Exception as error:  # open_clip, the hub and torch raise many kinds
        raise EncoderError(_advice(model, weights, path, error)) from error


def clip_here(setting: str) -> bool:
    """Whether ``model/weights`` are on this machine.

    Raises:
        EncoderError: open_clip does not know them.
    """
    model, _, weights = setting.partition("/")
    path = Path(weights).expanduser()
    _check(model, weights, path)
    return path.is_file() or bool(_kept(model, weights))


def _check(model: str, weights: str, path: Path) -> None:
    import open_clip

    if open_clip.get_model_config(model) is None:
        near = difflib.get_close_matches(model, open_clip.list_models(), n=3)
        hint = f" (near: {', '.join(near)})" if near else ""
        raise EncoderError(f"open_clip has no model {model!r}{hint}. {SPELLINGS}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not path.is_file() and not open_clip.is_pretrained_cfg(model, weights):
        known = ", ".join(tags) or "a file only"
        raise EncoderError(
            f"{weights!r} is neither a file nor published weights of {model} ({known}). {SPELLINGS}"
        )
    _check_activation(model, weights)


def _check_activation(model: str, weights: str) -> None:
    """Weights that were trained with another activation give wrong vectors without a complaint."""
    import open_clip

    trained = bool((open_clip.get_pretrained_cfg(model, weights) or {}).get("quick_gelu"))
    other = f"{model}-quickgelu" if trained else model.removesuffix("-quickgelu")
    differs = trained != bool(open_clip.get_model_config(model).get("quick_gelu"))
    if differs and other != model and open_clip.is_pretrained_cfg(other, weights):
        raise EncoderError(
            f"{weights} was trained with another activation than {model} has: "
            f"set PRELABEL_ENCODER={other}/{weights}."
        )


def _create(model: str, weights: str, path: Path) -> tuple[Any, Any, Any]:
    """Model, preprocessing and tokenizer. Files are read as plain tensors, never as code."""
    import open_clip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = open_clip.get_tokenizer(model)
        file = str(path) if path.is_file() else _published(model, weights)
        made, _, preprocess = open_clip.create_model_and_transforms(
            model, pretrained=file, weights_only=True, **_preparation(model, weights)
        )
    return made, preprocess, tokenizer


def _published(model: str, tag: str) -> str:
    """The path of published weights: what is here already, or downloaded."""
    import open_clip

    published = open_clip.get_pretrained_cfg(model, tag)
    repository, kept = _repository(published), _kept(model, tag)
    if kept:
        return kept
    if repository and (why_not := why_not_asked()):
        raise EncoderError(_not_here(model, tag, why_not))
    return str(open_clip.download_pretrained(published))


def _kept(model: str, tag: str) -> str | None:
    """The path of published weights that are on this machine already."""
    import open_clip

    published = open_clip.get_pretrained_cfg(model, tag)
    repository = _repository(published)
    name = str(published.get("hf_hub") or "").rpartition("/")[2]
    names = (str(Path(name).with_suffix(".safetensors")), name) if name else CLIP_FILES
    return kept_file(repository, names) if repository else None


def _repository(published: dict[str, Any]) -> str:
    return str(published.get("hf_hub") or "").rpartition("/")[0]


def _preparation(model: str, weights: str) -> dict[str, Any]:
    """How images are prepared for weights that are read from a file.

    open_clip knows this by the name of published weights, and takes the first CLIP's means and
    resizing for a file: wrong for SigLIP or PE. Where all published weights agree, so do we.
    """
    import open_clip

    tags = [weights]
    if not open_clip.is_pretrained_cfg(model, weights):
        tags = open_clip.list_pretrained_tags_by_model(model)
    known = [open_clip.get_pretrained_cfg(model, tag) for tag in tags]
    chosen = [{f"image_{key}": cfg.get(key) for key in PREPARATION} for cfg in known]
    return chosen[0] if chosen and all(other == chosen[0] for other in chosen) else {}


def _identity(made: Any, model: str, path: Path) -> str:
    import open_clip

    weights = path.name
    if path.is_file():
        with path.open("rb") as file:
            weights = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:16]
    preprocess = json.dumps(open_clip.get_model_preprocess_cfg(made), sort_keys=True, default=str)
    digest = hashlib.sha256(preprocess.encode()).hexdigest()[:8]
    return f"open_clip:{model}/{weights}/{digest}"


def _advice(model: str, weights: str, path: Path, error: Exception) -> str:
    why = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
    if isinstance(error, ImportError):
        return f"{model} needs a package that is not installed ({why}): install it, then try again."
    if path.is_file():
        return f"{path} cannot be read as weights of {model} ({why}): check model and file."
    return _not_here(model, weights, why)


def _not_here(model: str, weights: str, why: str) -> str:
    return (
        f"The weights {weights} of {model} are not on this machine and cannot be downloaded "
        f"({why}): get them on a machine with internet, or set PRELABEL_ENCODER=builtin."
    )


def _rows(vectors: torch.Tensor) -> Floats:
    return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)
