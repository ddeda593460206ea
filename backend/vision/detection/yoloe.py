"""Open-vocabulary detection with text or visual prompts: YOLOE of ultralytics.

Text prompts need a text encoder, which is a second file. Visual prompts (drawn boxes) need only
the network. Both become prompt embeddings that are stored with the project. Nothing is installed
or downloaded here; :func:`missing_prompt_files` returns the commands for that.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.arrays import Floats, Ints
from backend.errors import EncoderError
from backend.vision.batching import detect_device, to_array
from backend.vision.detection.detections import NO_DETECTIONS, Detections, greedy_nms
from backend.vision.detection.letterbox import Letterbox, letterbox
from backend.vision.encoders.base import normalize_rows
from backend.vision.images.decode import MAX_ASPECT_RATIO
from backend.vision.ultralytics_models import load_checkpoint

if TYPE_CHECKING:
    import torch
    from PIL import Image

Tokenizer = Callable[[list[str]], Any]
"""Texts → (n, 77) token ids of CLIP, as from ``open_clip.tokenize`` or ``clip.tokenize``."""
DEFAULT_LONGEST_EDGE_PX = 640
"""Longer edge in pixels that published networks are trained with."""
STRIDE_PX = 32
"""Input edges are padded to a multiple of this, the cell size of the coarsest feature map."""
MASK_CELL_PX = 8
"""Cell size of the finest feature map, which is the resolution of visual prompts."""
PROMPT_IOU_THRESHOLD = 0.7
"""IoU above which the less confident of two boxes is dropped, as in ultralytics."""
MAX_BOXES = 300
MAX_NMS_CANDIDATES = 3000
RECOMMENDED_WEIGHTS = "yoloe-26s-seg.pt"
MODEL_FAMILIES = ("yoloe-26", "yoloe-11", "yoloe-v8")
"""Best first."""
TEXT_ENCODER_FILES = {"mobileclip2": "mobileclip2_b.ts", "mobileclip": "mobileclip_blt.ts"}
"""File of the text encoder by the start of the name that a network refers to."""
RELEASE_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
"""Source of both files in ultralytics 8.4.190 (``utils/downloads.py``)."""
MISSING_CLIP_MESSAGE = (
    "Text prompts need the package clip: uv pip install git+https://github.com/ultralytics/CLIP.git"
)


def find_yoloe_weights(folder: Path) -> Path | None:
    """Return the best network in a folder: newest family, then smallest, never ``-pf``."""
    files = [file for file in folder.glob("yoloe-*.pt") if "-pf" not in file.name]
    return min(files, key=_weights_rank, default=None)


def missing_prompt_files(folder: Path, *, tokenizer: bool = False) -> str:
    """Return which files are missing and the commands to get them, in one line, or "".

    Args:
        folder: of the weights.
        tokenizer: the caller provides one, see :class:`OpenVocabulary`.
    """
    weights = find_yoloe_weights(folder)
    name = weights.name if weights else RECOMMENDED_WEIGHTS
    text_encoder = _text_encoder_file(name)
    instructions = []
    if weights is None:
        instructions.append(f"Visual and text prompts need {name}: {_curl_command(name, folder)}")
    if not (folder / text_encoder).is_file():
        instructions.append(
            f"Text prompts need {text_encoder}: {_curl_command(text_encoder, folder)}"
        )
    if not tokenizer and not _has_clip_package():
        instructions.append(MISSING_CLIP_MESSAGE)
    return "; ".join(instructions)


def prompt_files(folder: Path) -> list[tuple[str, int]]:
    """Return name and size in bytes of the files used for prompts; empty without a network."""
    weights = find_yoloe_weights(folder)
    if weights is None:
        return []
    files = [weights, folder / _text_encoder_file(weights.name)]
    return [(file.name, file.stat().st_size) for file in files if file.is_file()]


class OpenVocabulary:
    """A YOLOE network. Threads can share it; calls are serialized.

    Args:
        weights: the ``.pt`` file, with the text encoder in the same folder.
        folder: where ultralytics may store its settings.
        tokenize: for text prompts; by default the package ``clip``.
        side: pixels of the longer edge that images are scaled to.

    Raises:
        EncoderError: the file is not a YOLOE network, or one without prompts.
    """

    def __init__(
        self,
        weights: Path,
        folder: Path | None = None,
        *,
        tokenize: Tokenizer | None = None,
        side: int = DEFAULT_LONGEST_EDGE_PX,
    ) -> None:
        network = load_checkpoint(weights, folder).network
        self._head = network.model[-1]
        if not hasattr(self._head, "savpe") or hasattr(self._head, "lrpc") or self._head.is_fused:
            raise EncoderError(
                f"{weights.name} takes no prompts: use a yoloe-…-seg.pt without -pf."
            )
        self._head.agnostic_nms = True  # the NMS-free head gives an object one label as well
        self._device = detect_device()
        self._network = network.requires_grad_(False).to(self._device)
        self._tokenize, self._longest_edge = tokenize, max(STRIDE_PX, side // STRIDE_PX * STRIDE_PX)
        text_model = str(getattr(network, "text_model", ""))
        self._encoder_file = weights.parent / _text_encoder_file(text_model)
        self._encoder: Any = None
        self._lock = threading.Lock()  # the head caches the shape of the last image
        self.dim = int(self._head.embed)

    def text_embeddings(self, names: Sequence[str]) -> Floats:
        """Embed names: (K, dim) float32 rows of unit length.

        Raises:
            EncoderError: the text encoder or the tokenizer is missing or cannot be read.
        """
        import torch

        if not names:
            return np.zeros((0, self.dim), dtype=np.float32)
        with self._lock, torch.inference_mode():
            tokenize, encode = self._text_encoder()
            rows = encode(tokenize(list(names)).to(self._device)).float()
            return to_array(self._head.get_tpe(rows[None])[0])

    def visual_embeddings(
        self,
        images: Sequence[Image.Image],
        boxes: Sequence[Floats],
        labels: Sequence[Sequence[int]],
    ) -> Floats:
        """Embed labels by drawn boxes; no text encoder is needed.

        As in training, all boxes of a label in one image make one row. A label's rows are averaged
        over its images.

        Args:
            images: n upright images.
            boxes: for each image (m, 4) x0 y0 x1 y1, 0 to 1.
            labels: for each image m numbers from 0.

        Returns:
            (K, dim) float32, K the largest label plus 1, of unit length, or zeros for a label
            without a box; :meth:`detect` ignores such rows.

        Raises:
            ValueError: images, boxes and labels do not match.
        """
        row_sums = np.zeros(
            (1 + max((max(row, default=-1) for row in labels), default=-1), self.dim)
        )
        for image, image_boxes, box_labels in zip(images, boxes, labels, strict=True):
            label_indices = sorted(set(box_labels))
            if len(image_boxes) != len(box_labels) or (label_indices and label_indices[0] < 0):
                raise ValueError("Every box needs one label, a number from 0.")
            if label_indices:
                row_sums[label_indices] += self._embed_boxes(
                    image, np.asarray(image_boxes), np.asarray(box_labels)
                )
        return normalize_rows(row_sums)

    def detect(
        self, images: Sequence[Image.Image], embeddings: Floats, confidence: float = 0.25
    ) -> list[Detections]:
        """Return the detections of each image, labels as rows of ``embeddings``.

        Args:
            images: n upright images.
            embeddings: (K, dim) from texts or boxes, also mixed.
            confidence: lowest reported confidence, 0 to 1.

        Raises:
            ValueError: the embeddings belong to another network.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(f"Embeddings of shape (K, {self.dim}) are needed.")
        described_rows = np.flatnonzero(np.any(embeddings != 0, axis=1))
        if len(described_rows) == 0:
            return [NO_DETECTIONS for _ in images]
        return [
            self._detect_one(image, embeddings[described_rows], described_rows, confidence)
            for image in images
        ]

    def _embed_boxes(self, image: Image.Image, boxes: Floats, labels: Ints) -> Floats:
        """Return a row for each of the sorted distinct labels."""
        import torch

        pixels, position = self._letterbox(image)
        masks = [box_mask(boxes[labels == label], position) for label in np.unique(labels)]
        box_masks = torch.from_numpy(np.stack(masks))[None].to(self._device)
        with self._lock, torch.inference_mode():
            return to_array(self._network(pixels, vpe=box_masks, return_vpe=True)[0])

    def _letterbox(self, image: Image.Image) -> tuple[torch.Tensor, Letterbox]:
        import torch

        min_edge = -(-self._longest_edge // MAX_ASPECT_RATIO)  # slimmer images are stretched
        pixels, position = letterbox(image.convert("RGB"), self._longest_edge, STRIDE_PX, min_edge)
        return torch.from_numpy(pixels).to(self._device), position

    def _detect_one(
        self, image: Image.Image, rows: Floats, label_indices: Ints, confidence: float
    ) -> Detections:
        import torch

        pixels, position = self._letterbox(image)
        with self._lock, torch.inference_mode():
            prompts = torch.from_numpy(np.ascontiguousarray(rows))[None].to(self._device)
            output = self._network(pixels, vpe=prompts)
            is_nms_free = bool(self._network.end2end)
        while not hasattr(output, "shape"):  # boxes come first, then masks and raw values
            output = output[0]
        boxes, scores, labels = _decode_candidates(
            to_array(output[0]), len(rows), is_nms_free, confidence
        )
        if is_nms_free:  # this head returns every object once
            keep = np.argsort(-scores, kind="stable")[:MAX_BOXES]
        else:  # across labels, as ultralytics does for YOLOE: an object has one label
            keep = greedy_nms(boxes, scores, PROMPT_IOU_THRESHOLD, MAX_BOXES)
        image_boxes = np.clip(position.to_image_boxes(boxes[keep]), 0, 1)
        return Detections(image_boxes, scores[keep], label_indices[labels[keep]])

    def _text_encoder(self) -> tuple[Tokenizer, Any]:
        import torch

        tokenize = self._tokenize or _clip_tokenizer()
        if not self._encoder_file.is_file():
            name, folder = self._encoder_file.name, self._encoder_file.parent
            raise EncoderError(f"Text prompts need {name}: {_curl_command(name, folder)}")
        if self._encoder is None:
            try:  # TorchScript contains tensors and operations, no Python code
                with warnings.catch_warnings():  # deprecated, but there is no other format
                    warnings.simplefilter("ignore")
                    file = str(self._encoder_file)
                    self._encoder = torch.jit.load(file, map_location=self._device)
            except (RuntimeError, ValueError) as error:
                raise EncoderError(
                    f"{self._encoder_file} is not a text encoder: delete it and download it again."
                ) from error
        return tokenize, self._encoder


def box_mask(boxes: Floats, position: Letterbox) -> Floats:
    """Return the cells inside any box: (height / cell, width / cell) float32, 0 or 1, never all 0.

    Args:
        boxes: (m, 4) x0 y0 x1 y1, 0 to 1 of the image, m at least 1.
        position: of the image in the input.
    """
    width, height = (edge // MASK_CELL_PX for edge in position.input_size)
    mask = np.zeros((height, width), dtype=np.float32)
    cells = np.asarray(position.to_input_boxes(np.clip(boxes, 0, 1)) / MASK_CELL_PX, np.float32)
    for x0, y0, x1, y1 in cells:
        # As LoadVisualPrompt of ultralytics, except that a box between two cells gets one cell.
        left = min(int(np.ceil(x0)), int((x0 + x1) / 2), width - 1)
        top = min(int(np.ceil(y0)), int((y0 + y1) / 2), height - 1)
        bottom, right = max(top + 1, int(np.ceil(y1))), max(left + 1, int(np.ceil(x1)))
        mask[top:bottom, left:right] = 1
    return mask


def _decode_candidates(
    rows: Floats, count: int, is_nms_free: bool, confidence: float
) -> tuple[Floats, Floats, Ints]:
    """Return boxes in pixels, confidence and the best label of each.

    Args:
        rows: the network's output for one image. With the NMS-free head (n, 6+) x0 y0 x1 y1
            confidence label; else (4 + count +, n) centre, width and height, confidence per label.
        count: number of labels.
        is_nms_free: the NMS-free head is used.
        confidence: lowest reported confidence, 0 to 1.
    """
    if is_nms_free:
        rows = rows[rows[:, 4] >= confidence]
        return rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64)
    labels = rows[4 : 4 + count].argmax(axis=0)
    scores = rows[4 : 4 + count].max(axis=0)
    best = np.argsort(-scores, kind="stable")[:MAX_NMS_CANDIDATES]
    best = best[scores[best] >= confidence]
    centre, half = rows[:2, best].T, rows[2:4, best].T / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return boxes, scores[best], labels[best].astype(np.int64)


def _weights_rank(file: Path) -> tuple[int, int, str]:
    ranks = [rank for rank, prefix in enumerate(MODEL_FAMILIES) if file.name.startswith(prefix)]
    return (ranks or [len(MODEL_FAMILIES)])[0], file.stat().st_size, file.name


def _text_encoder_file(name: str) -> str:
    """Return the file of the text encoder by the network's file name or its ``text_model``."""
    is_newer = name.startswith(("yoloe-26", "mobileclip2"))
    return TEXT_ENCODER_FILES["mobileclip2" if is_newer else "mobileclip"]


def _curl_command(name: str, folder: Path) -> str:
    return f"curl -fL -o {shlex.quote(str(folder / name))} {RELEASE_URL}/{name}"


def _clip_tokenizer() -> Tokenizer:
    if not _has_clip_package():
        raise EncoderError(MISSING_CLIP_MESSAGE)
    return partial(importlib.import_module("clip").tokenize, truncate=True)


def _has_clip_package() -> bool:
    try:
        return importlib.util.find_spec("clip") is not None
    except ValueError:  # sys.modules["clip"] is None
        return False
