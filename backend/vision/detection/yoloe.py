"""Open vocabulary: YOLOE of ultralytics finds what a few words or a few drawn boxes describe.

Words need a text encoder, which is a second file; boxes need the network alone. Both become
prompt embeddings, plain rows of numbers that can be kept with the project. Nothing is installed
and nothing is downloaded here: :func:`missing_prompt_files` says what a person has to fetch.
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
from backend.vision.batching import detect_device
from backend.vision.detection.detections import greedy_nms
from backend.vision.images.aspect_ratio import MAX_ASPECT_RATIO
from backend.vision.ultralytics_models import load_checkpoint

if TYPE_CHECKING:
    import torch
    from PIL import Image

Tokenizer = Callable[[list[str]], Any]
"""Texts → (n, 77) whole numbers, CLIP's; ``open_clip.tokenize`` and ``clip.tokenize`` agree."""
DEFAULT_LONGEST_EDGE_PX = 640
"""Pixels of the longer edge that published networks are trained on."""
STRIDE_PX = 32
"""Edges are padded to a multiple of it: a cell of the coarsest feature map."""
MASK_CELL_PX = 8
"""Pixels of a cell of the finest feature map, in which drawn boxes are shown to the network."""
PROMPT_PADDING_GREY = 114
"""Of the padding, as in ultralytics."""
PROMPT_IOU_THRESHOLD = 0.7
"""IoU above which the less confident of two boxes is left out, as in ultralytics."""
MAX_BOXES = 300
MAX_NMS_CANDIDATES = 3000
RECOMMENDED_WEIGHTS = "yoloe-26s-seg.pt"
MODEL_FAMILIES = ("yoloe-26", "yoloe-11", "yoloe-v8")
"""Best first."""
TEXT_ENCODER_FILES = {"mobileclip2": "mobileclip2_b.ts", "mobileclip": "mobileclip_blt.ts"}
"""The file of the text encoder by the start of the name that a network gives it."""
RELEASE_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
"""Where ultralytics 8.4.190 fetches both from (``utils/downloads.py``)."""
CLIP_PACKAGE_URL = "git+https://github.com/ultralytics/CLIP.git"


@dataclass(frozen=True)
class PromptDetections:
    """What is in one image, best first.

    Attributes:
        boxes: (n, 4) float32 x0 y0 x1 y1, 0–1 of the upright image.
        confidence: (n,) float32, 0–1.
        labels: (n,) rows of the prompt embeddings.
    """

    boxes: Floats
    confidence: Floats
    labels: Ints


def find_yoloe_weights(folder: Path) -> Path | None:
    """The best network in a folder: newest family, then smallest; no prompt-free one (``-pf``)."""
    files = [file for file in folder.glob("yoloe-*.pt") if "-pf" not in file.name]
    return min(files, key=_weights_rank, default=None)


def missing_prompt_files(folder: Path, *, tokenizer: bool = False) -> str:
    """What has to be fetched by hand, and how: one line; empty when all is there.

    Args:
        folder: of the weights.
        tokenizer: the caller brings one, see :class:`OpenVocabulary`.
    """
    weights = find_yoloe_weights(folder)
    instructions = (
        []
        if weights
        else [
            f"Visual and text prompts need {RECOMMENDED_WEIGHTS}: {_curl_command(RECOMMENDED_WEIGHTS, folder)}"
        ]
    )
    text_encoder_file = _text_encoder_file(weights.name if weights else RECOMMENDED_WEIGHTS)
    if not (folder / text_encoder_file).is_file():
        instructions.append(
            f"Text prompts need {text_encoder_file}: {_curl_command(text_encoder_file, folder)}"
        )
    if not tokenizer and not _has_clip_package():
        instructions.append(
            f"Text prompts need the package clip: uv pip install {CLIP_PACKAGE_URL}"
        )
    return "; ".join(instructions)


def prompt_files(folder: Path) -> list[tuple[str, int]]:
    """Name and bytes of the files that finding by prompts rests on; none without a network."""
    weights = find_yoloe_weights(folder)
    if weights is None:
        return []
    files = [weights, folder / _text_encoder_file(weights.name)]
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
        tokenize: Tokenizer | None = None,
        side: int = DEFAULT_LONGEST_EDGE_PX,
    ) -> None:
        network = load_checkpoint(weights, folder).network
        self._head = network.model[-1]
        if not hasattr(self._head, "savpe") or hasattr(self._head, "lrpc") or self._head.is_fused:
            raise EncoderError(
                f"{weights.name} takes no prompts: use a yoloe-…-seg.pt without -pf."
            )
        self._head.agnostic_nms = True  # the NMS-free head gives an object one label, too
        self._device = detect_device()
        self._network = network.requires_grad_(False).to(self._device)
        self._tokenize, self._longest_edge = tokenize, max(STRIDE_PX, side // STRIDE_PX * STRIDE_PX)
        self._encoder_file = weights.parent / _text_encoder_file(
            str(getattr(network, "text_model", ""))
        )
        self._encoder: Any = None
        self._lock = threading.Lock()  # the head keeps the shape of the last image
        self.dim = int(self._head.embed)

    def text_embeddings(self, names: Sequence[str]) -> Floats:
        """One row per name, of unit length: (K, dim) float32.

        Raises:
            EncoderError: the text encoder or the tokenizer is missing, or cannot be read.
        """
        import torch

        if not names:
            return np.zeros((0, self.dim), dtype=np.float32)
        with self._lock, torch.inference_mode():
            tokenize, encode = self._text_encoder()
            rows = encode(tokenize(list(names)).to(self._device)).float()
            return _to_numpy(self._head.get_tpe(rows[None])[0])

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
        row_sums = np.zeros(
            (1 + max((max(row, default=-1) for row in labels), default=-1), self.dim)
        )
        for image, image_boxes, box_labels in zip(images, boxes, labels, strict=True):
            label_indices = sorted(set(box_labels))
            if len(image_boxes) != len(box_labels) or (label_indices and label_indices[0] < 0):
                raise ValueError("Every box needs one label, a number from 0.")
            if label_indices:
                row_sums[label_indices] += self._embed_boxes(
                    image, np.asarray(image_boxes), np.asarray(box_labels), label_indices
                )
        norms = np.linalg.norm(row_sums, axis=1, keepdims=True)
        return np.asarray(row_sums / np.where(norms > 0, norms, 1), dtype=np.float32)

    def detect(
        self, images: Sequence[Image.Image], embeddings: Floats, confidence: float = 0.25
    ) -> list[PromptDetections]:
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
        described_rows = np.flatnonzero(np.any(embeddings != 0, axis=1))
        if len(described_rows) == 0:
            return [_no_detections() for _ in images]
        return [
            self._detect_one(image, embeddings[described_rows], described_rows, confidence)
            for image in images
        ]

    def _embed_boxes(
        self, image: Image.Image, boxes: Floats, labels: Ints, label_indices: list[int]
    ) -> Floats:
        import torch

        letterbox = PromptLetterbox(*image.size, self._longest_edge)
        masks = [letterbox.to_mask(boxes[labels == label]) for label in label_indices]
        box_masks = torch.from_numpy(np.stack(masks))[None].to(self._device)
        with self._lock, torch.inference_mode():
            pixels = letterbox.to_tensor(image).to(self._device)
            return _to_numpy(self._network(pixels, vpe=box_masks, return_vpe=True)[0])

    def _detect_one(
        self, image: Image.Image, rows: Floats, label_indices: Ints, confidence: float
    ) -> PromptDetections:
        import torch

        letterbox = PromptLetterbox(*image.size, self._longest_edge)
        with self._lock, torch.inference_mode():
            prompts = torch.from_numpy(np.ascontiguousarray(rows))[None].to(self._device)
            output = self._network(letterbox.to_tensor(image).to(self._device), vpe=prompts)
            is_nms_free = bool(self._network.end2end)
        while not hasattr(output, "shape"):  # boxes come first, then masks and raw values
            output = output[0]
        boxes, scores, labels = _decode_candidates(
            _to_numpy(output[0]), len(rows), is_nms_free, confidence
        )
        if is_nms_free:  # the NMS-free head names every object once
            keep = np.argsort(-scores, kind="stable")[:MAX_BOXES]
        else:  # across labels, as ultralytics does for YOLOE: an object has one
            keep = greedy_nms(boxes, scores, PROMPT_IOU_THRESHOLD, MAX_BOXES)
        return PromptDetections(
            letterbox.to_image_boxes(boxes[keep]), scores[keep], label_indices[labels[keep]]
        )

    def _text_encoder(self) -> tuple[Tokenizer, Any]:
        import torch

        tokenize = self._tokenize or _clip_tokenizer()
        if not self._encoder_file.is_file():
            name, folder = self._encoder_file.name, self._encoder_file.parent
            raise EncoderError(f"Text prompts need {name}: {_curl_command(name, folder)}")
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


class PromptLetterbox:
    """How an image lies in the network's input: scaled, centred, padded (letterbox).

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        side: of the input's longer edge, pixels, a multiple of ``STRIDE_PX``.
    """

    def __init__(self, width: int, height: int, side: int) -> None:
        resize_factor = side / max(width, height)
        min_edge = -(
            -side // MAX_ASPECT_RATIO
        )  # an image so slim that nothing would be left is stretched
        self.resized_size = (
            max(min_edge, round(width * resize_factor)),
            max(min_edge, round(height * resize_factor)),
        )
        self.padded_size = (
            _pad_to_stride(self.resized_size[0]),
            _pad_to_stride(self.resized_size[1]),
        )
        self.left = (self.padded_size[0] - self.resized_size[0]) // 2
        self.top = (self.padded_size[1] - self.resized_size[1]) // 2

    def to_tensor(self, image: Image.Image) -> torch.Tensor:
        """(1, 3, height, width) float32 RGB in 0–1."""
        import torch
        from PIL import Image as Pillow

        padded = Pillow.new("RGB", self.padded_size, (PROMPT_PADDING_GREY,) * 3)
        scaled = image.convert("RGB").resize(self.resized_size, Pillow.Resampling.BILINEAR)
        padded.paste(scaled, (self.left, self.top))
        values = np.array(padded, dtype=np.float32) / 255
        return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()

    def to_mask(self, boxes: Floats) -> Floats:
        """Cells inside any box: (height / CELL, width / CELL) float32, 1 inside; never all 0.

        Args:
            boxes: (m, 4) x0 y0 x1 y1, 0–1 of the image, m at least 1.
        """
        mask_height, mask_width = (
            self.padded_size[1] // MASK_CELL_PX,
            self.padded_size[0] // MASK_CELL_PX,
        )
        inside_mask = np.zeros((mask_height, mask_width), dtype=np.float32)
        for x0, y0, x1, y1 in self._to_cells(np.clip(boxes, 0, 1)):
            # As ultralytics' LoadVisualPrompt, but a box between two cells keeps the one it is in.
            left, top = (
                min(int(np.ceil(x0)), int((x0 + x1) / 2)),
                min(int(np.ceil(y0)), int((y0 + y1) / 2)),
            )
            left, top = min(left, mask_width - 1), min(top, mask_height - 1)
            inside_mask[
                top : max(top + 1, int(np.ceil(y1))), left : max(left + 1, int(np.ceil(x1)))
            ] = 1
        return inside_mask

    def to_image_boxes(self, boxes: Floats) -> Floats:
        """Boxes in pixels of the input → 0–1 of the image: (n, 4) float32."""
        offsets, extents = np.array([self.left, self.top] * 2), np.array(self.resized_size * 2)
        return np.asarray(np.clip((boxes - offsets) / extents, 0, 1), dtype=np.float32)

    def _to_cells(self, boxes: Floats) -> Floats:
        offsets, extents = np.array([self.left, self.top] * 2), np.array(self.resized_size * 2)
        return np.asarray((boxes * extents + offsets) / MASK_CELL_PX, dtype=np.float32)


def _decode_candidates(
    rows: Floats, count: int, is_nms_free: bool, confidence: float
) -> tuple[Floats, Floats, Ints]:
    """A network's answer for one image → boxes in pixels, confidence, the best label of each.

    Args:
        rows: (n, 6+) x0 y0 x1 y1 confidence label where ``is_nms_free``, the NMS-free head; else
            (4 + count +, n) centre, width and height, then a confidence per label.
        count: of labels.
        is_nms_free: see above.
        confidence: the least, 0–1.
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
    family_ranks = [
        rank for rank, prefix in enumerate(MODEL_FAMILIES) if file.name.startswith(prefix)
    ]
    return (family_ranks or [len(MODEL_FAMILIES)])[0], file.stat().st_size, file.name


def _text_encoder_file(name: str) -> str:
    """The text encoder's file, by a network's file name or by what the network itself says."""
    is_newer = name.startswith(("yoloe-26", "mobileclip2"))
    return TEXT_ENCODER_FILES["mobileclip2" if is_newer else "mobileclip"]


def _curl_command(name: str, folder: Path) -> str:
    return f"curl -fL -o {shlex.quote(str(folder / name))} {RELEASE_URL}/{name}"


def _clip_tokenizer() -> Tokenizer:
    if not _has_clip_package():
        raise EncoderError(f"Text prompts need the package clip: uv pip install {CLIP_PACKAGE_URL}")
    return partial(importlib.import_module("clip").tokenize, truncate=True)


def _has_clip_package() -> bool:
    try:
        return importlib.util.find_spec("clip") is not None
    except ValueError:  # somebody put None in its place
        return False


def _pad_to_stride(edge: int) -> int:
    return -(-edge // STRIDE_PX) * STRIDE_PX


def _to_numpy(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)


def _no_detections() -> PromptDetections:
    return PromptDetections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, dtype=np.int64)
    )
