"""Open-vocabulary detection with ultralytics' YOLOE, from text or visual prompts.

Text prompts need a text encoder in a separate file; visual prompts (drawn boxes) do not. Nothing is
installed or downloaded here; :func:`missing_prompt_files` returns the commands.
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
"""Texts → (n, 77) CLIP token ids, for example ``open_clip.tokenize`` or ``clip.tokenize``."""
PROMPTS_HINT = (
    "Optional: an open-vocabulary network suggests objects by your label names before the first "
    "label."
)
DEFAULT_LONGEST_EDGE_PX = 640
"""Longer edge of the input of published networks in pixels."""
STRIDE_PX = 32
"""Maximum stride of the network; input edges are padded to multiples of it."""
MASK_CELL_PX = 8
"""Cell size of visual-prompt masks: the stride of the finest feature map."""
PROMPT_IOU_THRESHOLD = 0.7
"""IoU above which the less confident of two boxes is dropped, as in ultralytics."""
MAX_BOXES = 300
MAX_NMS_CANDIDATES = 3000
RECOMMENDED_WEIGHTS = "yoloe-26s-seg.pt"
MODEL_FAMILIES = ("yoloe-26", "yoloe-11", "yoloe-v8")
"""Prefixes of weights files, best first."""
TEXT_ENCODER_FILES = {"mobileclip2": "mobileclip2_b.ts", "mobileclip": "mobileclip_blt.ts"}
"""File name of each text encoder."""
RELEASE_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
"""URL of both files in ultralytics 8.4.190 (``utils/downloads.py``)."""
MISSING_CLIP_MESSAGE = (
    "Text prompts need the package clip: uv pip install git+https://github.com/ultralytics/CLIP.git"
)


def find_yoloe_weights(folder: Path) -> Path | None:
    """Return the best promptable weights in a folder: newest family, then smallest file."""
    files = [file for file in folder.glob("yoloe-*.pt") if "-pf" not in file.name]
    return min(files, key=_weights_rank, default=None)


def missing_prompt_files(folder: Path, *, tokenizer: bool = False) -> str:
    """Return the missing files with the commands to get them, on one line; empty if complete.

    Args:
        folder: weights folder.
        tokenizer: the caller provides a tokenizer, so that the package ``clip`` is not needed.
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
    """Return name and size in bytes of the files used for prompts; empty without YOLOE weights."""
    weights = find_yoloe_weights(folder)
    if weights is None:
        return []
    files = [weights, folder / _text_encoder_file(weights.name)]
    return [(file.name, file.stat().st_size) for file in files if file.is_file()]


class OpenVocabulary:
    """A YOLOE network; thread-safe, calls are serialized.

    Args:
        weights: ``.pt`` file; the text encoder is in the same folder.
        folder: config folder of ultralytics.
        tokenize: tokenizer for text prompts; default from the package ``clip``.
        side: longer edge of the input in pixels.

    Raises:
        EncoderError: the file is not a YOLOE network, or a prompt-free one.
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
        self._head.agnostic_nms = True  # one label per object with the NMS-free head too
        self._device = detect_device()
        self._network = network.requires_grad_(False).to(self._device)
        self._tokenize, self._longest_edge = tokenize, max(STRIDE_PX, side // STRIDE_PX * STRIDE_PX)
        text_model = str(getattr(network, "text_model", ""))
        self._encoder_file = weights.parent / _text_encoder_file(text_model)
        self._encoder: Any = None
        self._lock = threading.Lock()  # the head caches the shape of the last image
        self.dim = int(self._head.embed)

    def text_embeddings(self, names: Sequence[str]) -> Floats:
        """Embed label names: (K, dim) float32 rows of unit length.

        Raises:
            EncoderError: the text encoder or tokenizer is missing, or the file is damaged.
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
        """Embed labels by drawn boxes (visual prompts).

        As in training, all boxes of a label in one image are embedded together. Embeddings are
        averaged over images.

        Args:
            images: n upright images.
            boxes: for each image (m, 4) x0 y0 x1 y1, 0 to 1.
            labels: for each image m label indices.

        Returns:
            (K, dim) float32 of unit length, K = largest label index + 1. Rows of labels without a
            box are zero and ignored by :meth:`detect`.

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
        """Detect objects; labels are row indices of ``embeddings``.

        Args:
            images: n upright images.
            embeddings: (K, dim) from text or visual prompts, or both.
            confidence: confidence threshold, 0 to 1.

        Raises:
            ValueError: the shape of the embeddings does not match the network.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(f"Embeddings of shape (K, {self.dim}) are needed.")
        prompted_rows = np.flatnonzero(np.any(embeddings != 0, axis=1))
        if len(prompted_rows) == 0:
            return [NO_DETECTIONS for _ in images]
        return [
            self._detect_one(image, embeddings[prompted_rows], prompted_rows, confidence)
            for image in images
        ]

    def _embed_boxes(self, image: Image.Image, boxes: Floats, labels: Ints) -> Floats:
        """Return one row per distinct label, in ascending order."""
        import torch

        pixels, position = self._letterbox(image)
        masks = [box_mask(boxes[labels == label], position) for label in np.unique(labels)]
        box_masks = torch.from_numpy(np.stack(masks))[None].to(self._device)
        with self._lock, torch.inference_mode():
            return to_array(self._network(pixels, vpe=box_masks, return_vpe=True)[0])

    def _letterbox(self, image: Image.Image) -> tuple[torch.Tensor, Letterbox]:
        import torch

        min_edge = -(
            -self._longest_edge // MAX_ASPECT_RATIO
        )  # more extreme aspect ratios are stretched
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
        while not hasattr(output, "shape"):  # nested: boxes come first, then masks and raw outputs
            output = output[0]
        boxes, scores, labels = _decode_candidates(
            to_array(output[0]), len(rows), is_nms_free, confidence
        )
        if is_nms_free:  # no duplicates
            keep = np.argsort(-scores, kind="stable")[:MAX_BOXES]
        else:  # class-agnostic NMS, as in ultralytics' YOLOE
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
                with (
                    warnings.catch_warnings()
                ):  # torch.jit is deprecated, but the only published format
                    warnings.simplefilter("ignore")
                    file = str(self._encoder_file)
                    self._encoder = torch.jit.load(file, map_location=self._device)
            except (RuntimeError, ValueError) as error:
                raise EncoderError(
                    f"{self._encoder_file} is not a text encoder: delete it and download it again."
                ) from error
        return tokenize, self._encoder


def box_mask(boxes: Floats, position: Letterbox) -> Floats:
    """Return the visual-prompt mask: 1 in cells that are inside any box, at least one cell per box.

    Args:
        boxes: (m, 4) x0 y0 x1 y1, 0 to 1 of the image, m ≥ 1.
        position: position of the image in the input.

    Returns:
        (height / MASK_CELL_PX, width / MASK_CELL_PX) float32, 0 or 1.
    """
    width, height = (edge // MASK_CELL_PX for edge in position.input_size)
    mask = np.zeros((height, width), dtype=np.float32)
    cells = np.asarray(position.to_input_boxes(np.clip(boxes, 0, 1)) / MASK_CELL_PX, np.float32)
    for x0, y0, x1, y1 in cells:
        # As in ultralytics' LoadVisualPrompt, but a box between two cells is not dropped.
        left = min(int(np.ceil(x0)), int((x0 + x1) / 2), width - 1)
        top = min(int(np.ceil(y0)), int((y0 + y1) / 2), height - 1)
        bottom, right = max(top + 1, int(np.ceil(y1))), max(left + 1, int(np.ceil(x1)))
        mask[top:bottom, left:right] = 1
    return mask


def _decode_candidates(
    rows: Floats, count: int, is_nms_free: bool, confidence: float
) -> tuple[Floats, Floats, Ints]:
    """Return boxes in pixels, confidence and label of each candidate.

    Args:
        rows: network output for one image. NMS-free head: (n, ≥ 6) x0 y0 x1 y1 confidence label.
            Otherwise (≥ 4 + count, n): centre, width, height, then confidence per label.
        count: number of labels.
        is_nms_free: the output is of the NMS-free head.
        confidence: confidence threshold, 0 to 1.
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
    """Return the text encoder's file for a network's file name or its ``text_model`` attribute."""
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
