"""Open vocabulary: YOLOE of ultralytics finds what a few words or a few drawn boxes describe.

Words need a text encoder, which is a second file; boxes need the network alone. Both become
prompt embeddings, plain rows of numbers that can be kept with the project. Nothing is installed
and nothing is downloaded here: :func:`missing` says what a person has to fetch.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.arrays import Floats, Ints
from backend.errors import EncoderError
from backend.vision.batching import device_here
from backend.vision.detection.detections import best_apart
from backend.vision.images.aspect_ratio import MOST
from backend.vision.ultralytics_models import load_checkpoint

if TYPE_CHECKING:
    import torch
    from PIL import Image

Tokenize = Callable[[list[str]], Any]
"""Texts → (n, 77) whole numbers, CLIP's; ``open_clip.tokenize`` and ``clip.tokenize`` agree."""
SIDE = 640
"""Pixels of the longer edge that published networks are trained on."""
STRIDE = 32
"""Edges are padded to a multiple of it: a cell of the coarsest feature map."""
CELL = 8
"""Pixels of a cell of the finest feature map, in which drawn boxes are shown to the network."""
GREY = 114
"""Of the padding, as in ultralytics."""
OVERLAP = 0.7
"""IoU above which the less confident of two boxes is left out, as in ultralytics."""
MOST_BOXES = 300
MOST_CANDIDATES = 3000
ADVISED = "yoloe-26s-seg.pt"
FAMILIES = ("yoloe-26", "yoloe-11", "yoloe-v8")
"""Best first."""
ENCODERS = {"mobileclip2": "mobileclip2_b.ts", "mobileclip": "mobileclip_blt.ts"}
"""The file of the text encoder by the start of the name that a network gives it."""
RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
"""Where ultralytics 8.4.190 fetches both from (``utils/downloads.py``)."""
CLIP_PACKAGE = "git+https://github.com/ultralytics/CLIP.git"


@dataclass(frozen=True)
class Found:
    """What is in one image, best first.

    Attributes:
        boxes: (n, 4) float32 x0 y0 x1 y1, 0–1 of the upright image.
        confidence: (n,) float32, 0–1.
        labels: (n,) rows of the prompt embeddings.
    """

    boxes: Floats
    confidence: Floats
    labels: Ints


def find_weights(folder: Path) -> Path | None:
    """The best network in a folder: newest family, then smallest; no prompt-free one (``-pf``)."""
    files = [file for file in folder.glob("yoloe-*.pt") if "-pf" not in file.name]
    return min(files, key=_preference, default=None)


def missing(folder: Path, *, tokenizer: bool = False) -> str:
    """What has to be fetched by hand, and how: one line; empty when all is there.

    Args:
        folder: of the weights.
        tokenizer: the caller brings one, see :class:`OpenVocabulary`.
    """
    weights = find_weights(folder)
    parts = [] if weights else [f"Visual and text prompts need {ADVISED}: {_curl(ADVISED, folder)}"]
    needs = _encoder_of(weights.name if weights else ADVISED)
    if not (folder / needs).is_file():
        parts.append(f"Text prompts need {needs}: {_curl(needs, folder)}")
    if not tokenizer and not _has_clip():
        parts.append(f"Text prompts need the package clip: uv pip install {CLIP_PACKAGE}")
    return "; ".join(parts)


def prompt_files(folder: Path) -> list[tuple[str, int]]:
    """Name and bytes of the files that finding by prompts rests on; none without a network."""
    weights = find_weights(folder)
    if weights is None:
        return []
    files = [weights, folder / _encoder_of(weights.name)]
    return [(file.name, file.stat().st_size) for file in files if file.is_file()]


class OpenVocabulary:
    """A YOLOE network; several threads may use it, one after the other.

    Args:
        weights: the ``.pt`` file. The text encoder is looked for beside it.
        folder: where ultralytics may keep its settings.
        tokenize: for text prompts; the package ``clip`` when not given.
        side: pixels of the longer edge that images are scaled to.

    Raises:
        EncoderError: it is no YOLOE network, or one without prompts.
    """

    def __init__(
        self,
        weights: Path,
        folder: Path | None = None,
        *,
        tokenize: Tokenize | None = None,
        side: int = SIDE,
    ) -> None:
        network = load_checkpoint(weights, folder).network
        self._head = network.model[-1]
        if not hasattr(self._head, "savpe") or hasattr(self._head, "lrpc") or self._head.is_fused:
            raise EncoderError(
                f"{weights.name} takes no prompts: use a yoloe-…-seg.pt without -pf."
            )
        self._head.agnostic_nms = True  # the NMS-free head gives an object one label, too
        self._device = device_here()
        self._network = network.requires_grad_(False).to(self._device)
        self._tokenize, self._side = tokenize, max(STRIDE, side // STRIDE * STRIDE)
        self._encoder_file = weights.parent / _encoder_of(str(getattr(network, "text_model", "")))
        self._encoder: Any = None
        self._one_at_a_time = threading.Lock()  # the head keeps the shape of the last image
        self.dim = int(self._head.embed)

    def text_embeddings(self, names: Sequence[str]) -> Floats:
        """One row per name, of unit length: (K, dim) float32.

        Raises:
            EncoderError: the text encoder or the tokenizer is missing, or cannot be read.
        """
        import torch

        if not names:
            return np.zeros((0, self.dim), dtype=np.float32)
        with self._one_at_a_time, torch.inference_mode():
            tokenize, encode = self._text_encoder()
            rows = encode(tokenize(list(names)).to(self._device)).float()
            return _numbers(self._head.get_tpe(rows[None])[0])

    def visual_embeddings(
        self,
        images: Sequence[Image.Image],
        boxes: Sequence[Floats],
        labels: Sequence[Sequence[int]],
    ) -> Floats:
        """One row per label, from boxes that a person drew: no text encoder is needed.

        All boxes of a label in one image are shown together and make one row, as the network was
        trained; a label's rows are averaged over its images.

        Args:
            images: upright, n of them.
            boxes: for each image (m, 4) x0 y0 x1 y1, 0–1.
            labels: for each image m numbers from 0.

        Returns:
            (K, dim) float32, K the largest label plus 1; of unit length, or zeros where a label
            has no box at all. :meth:`detect` never finds a row of zeros.

        Raises:
            ValueError: images, boxes and labels do not match.
        """
        total = np.zeros((1 + max((max(row, default=-1) for row in labels), default=-1), self.dim))
        for image, drawn, numbers in zip(images, boxes, labels, strict=True):
            shown = sorted(set(numbers))
            if len(drawn) != len(numbers) or (shown and shown[0] < 0):
                raise ValueError("Every box needs one label, a number from 0.")
            if shown:
                total[shown] += self._visual(image, np.asarray(drawn), np.asarray(numbers), shown)
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return np.asarray(total / np.where(length > 0, length, 1), dtype=np.float32)

    def detect(
        self, images: Sequence[Image.Image], embeddings: Floats, confidence: float = 0.25
    ) -> list[Found]:
        """Look for what the rows describe.

        Args:
            images: upright, n of them.
            embeddings: (K, dim) from words or boxes, also mixed.
            confidence: the least, 0–1.

        Returns:
            one entry per image.

        Raises:
            ValueError: the embeddings are of another network.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(f"Embeddings of shape (K, {self.dim}) are needed.")
        described = np.flatnonzero(np.any(embeddings != 0, axis=1))
        if len(described) == 0:
            return [_nothing() for _ in images]
        return [self._find(image, embeddings[described], described, confidence) for image in images]

    def _visual(self, image: Image.Image, boxes: Floats, labels: Ints, shown: list[int]) -> Floats:
        import torch

        frame = Frame(*image.size, self._side)
        masks = [frame.mask(boxes[labels == label]) for label in shown]
        visual = torch.from_numpy(np.stack(masks))[None].to(self._device)
        with self._one_at_a_time, torch.inference_mode():
            pixels = frame.pixels(image).to(self._device)
            return _numbers(self._network(pixels, vpe=visual, return_vpe=True)[0])

    def _find(self, image: Image.Image, rows: Floats, numbers: Ints, confidence: float) -> Found:
        import torch

        frame = Frame(*image.size, self._side)
        with self._one_at_a_time, torch.inference_mode():
            prompts = torch.from_numpy(np.ascontiguousarray(rows))[None].to(self._device)
            answer = self._network(frame.pixels(image).to(self._device), vpe=prompts)
            straight = bool(self._network.end2end)
        while not hasattr(answer, "shape"):  # boxes come first, then masks and raw values
            answer = answer[0]
        boxes, scores, labels = _candidates(_numbers(answer[0]), len(rows), straight, confidence)
        if straight:  # the NMS-free head names every object once
            kept = np.argsort(-scores, kind="stable")[:MOST_BOXES]
        else:  # across labels, as ultralytics does for YOLOE: an object has one
            kept = best_apart(boxes, scores, OVERLAP, MOST_BOXES)
        return Found(frame.undo(boxes[kept]), scores[kept], numbers[labels[kept]])

    def _text_encoder(self) -> tuple[Tokenize, Any]:
        import torch

        tokenize = self._tokenize or _clip_tokenizer()
        if not self._encoder_file.is_file():
            name, folder = self._encoder_file.name, self._encoder_file.parent
            raise EncoderError(f"Text prompts need {name}: {_curl(name, folder)}")
        if self._encoder is None:
            try:  # TorchScript: tensors and operations on them, no Python code
                with warnings.catch_warnings():  # deprecated, but published in no other format
                    warnings.simplefilter("ignore")
                    file = str(self._encoder_file)
                    self._encoder = torch.jit.load(file, map_location=self._device)
            except (RuntimeError, ValueError) as error:
                raise EncoderError(
                    f"{self._encoder_file} is no text encoder: remove it and fetch it again."
                ) from error
        return tokenize, self._encoder


class Frame:
    """How an image lies in the network's input: scaled, centred, padded (letterbox).

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        side: of the input's longer edge, pixels, a multiple of ``STRIDE``.
    """

    def __init__(self, width: int, height: int, side: int) -> None:
        gain = side / max(width, height)
        shorter = -(-side // MOST)  # an image so slim that nothing would be left is stretched
        self.size = (max(shorter, round(width * gain)), max(shorter, round(height * gain)))
        self.full = (_padded(self.size[0]), _padded(self.size[1]))
        self.left = (self.full[0] - self.size[0]) // 2
        self.top = (self.full[1] - self.size[1]) // 2

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """(1, 3, height, width) float32 RGB in 0–1."""
        import torch
        from PIL import Image as Pillow

        padded = Pillow.new("RGB", self.full, (GREY,) * 3)
        scaled = image.convert("RGB").resize(self.size, Pillow.Resampling.BILINEAR)
        padded.paste(scaled, (self.left, self.top))
        values = np.array(padded, dtype=np.float32) / 255
        return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()

    def mask(self, boxes: Floats) -> Floats:
        """Cells inside any box: (height / CELL, width / CELL) float32, 1 inside; never all 0.

        Args:
            boxes: (m, 4) x0 y0 x1 y1, 0–1 of the image, m at least 1.
        """
        high, wide = self.full[1] // CELL, self.full[0] // CELL
        inside = np.zeros((high, wide), dtype=np.float32)
        for x0, y0, x1, y1 in self._cells(np.clip(boxes, 0, 1)):
            # As ultralytics' LoadVisualPrompt, but a box between two cells keeps the one it is in.
            left, top = (
                min(int(np.ceil(x0)), int((x0 + x1) / 2)),
                min(int(np.ceil(y0)), int((y0 + y1) / 2)),
            )
            left, top = min(left, wide - 1), min(top, high - 1)
            inside[top : max(top + 1, int(np.ceil(y1))), left : max(left + 1, int(np.ceil(x1)))] = 1
        return inside

    def undo(self, boxes: Floats) -> Floats:
        """Boxes in pixels of the input → 0–1 of the image: (n, 4) float32."""
        shift, size = np.array([self.left, self.top] * 2), np.array(self.size * 2)
        return np.asarray(np.clip((boxes - shift) / size, 0, 1), dtype=np.float32)

    def _cells(self, boxes: Floats) -> Floats:
        shift, size = np.array([self.left, self.top] * 2), np.array(self.size * 2)
        return np.asarray((boxes * size + shift) / CELL, dtype=np.float32)


def _candidates(
    rows: Floats, count: int, straight: bool, confidence: float
) -> tuple[Floats, Floats, Ints]:
    """A network's answer for one image → boxes in pixels, confidence, the best label of each.

    Args:
        rows: (n, 6+) x0 y0 x1 y1 confidence label where ``straight``, the NMS-free head; else
            (4 + count +, n) centre, width and height, then a confidence per label.
        count: of labels.
        straight: see above.
        confidence: the least, 0–1.
    """
    if straight:
        rows = rows[rows[:, 4] >= confidence]
        return rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64)
    labels = rows[4 : 4 + count].argmax(axis=0)
    scores = rows[4 : 4 + count].max(axis=0)
    best = np.argsort(-scores, kind="stable")[:MOST_CANDIDATES]
    best = best[scores[best] >= confidence]
    centre, half = rows[:2, best].T, rows[2:4, best].T / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return boxes, scores[best], labels[best].astype(np.int64)


def _preference(file: Path) -> tuple[int, int, str]:
    family = [rank for rank, start in enumerate(FAMILIES) if file.name.startswith(start)]
    return (family or [len(FAMILIES)])[0], file.stat().st_size, file.name


def _encoder_of(name: str) -> str:
    """The text encoder's file, by a network's file name or by what the network itself says."""
    newer = name.startswith(("yoloe-26", "mobileclip2"))
    return ENCODERS["mobileclip2" if newer else "mobileclip"]


def _curl(name: str, folder: Path) -> str:
    return f"curl -fL -o {shlex.quote(str(folder / name))} {RELEASE}/{name}"


def _clip_tokenizer() -> Tokenize:
    if not _has_clip():
        raise EncoderError(f"Text prompts need the package clip: uv pip install {CLIP_PACKAGE}")
    return partial(importlib.import_module("clip").tokenize, truncate=True)


def _has_clip() -> bool:
    try:
        return importlib.util.find_spec("clip") is not None
    except ValueError:  # somebody put None in its place
        return False


def _padded(edge: int) -> int:
    return -(-edge // STRIDE) * STRIDE


def _numbers(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)


def _nothing() -> Found:
    return Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, dtype=np.int64))
