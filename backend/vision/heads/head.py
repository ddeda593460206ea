"""A linear head on frozen embeddings, anchored at the label names.

The weight vector of each label starts at its anchor, the embedding of its name, and the fit pulls
it towards that anchor. Without text the anchor is the mean of the label's images. The problem is
convex, so warm and cold starts end alike; prediction is one matrix product.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from backend.arrays import Bools, Floats
from backend.errors import DamagedFileError, StoreError
from backend.vision.heads import calibration
from backend.vision.heads.fit import HeadHyperparameters, LabeledRows, fit_weights
from backend.vision.heads.logistic_regression import IMPOSSIBLE_LOGIT

MIN_KNOWN_ROW_SHARE = 0.9
"""Share of rows known to the previous head from which its hyperparameters are reused."""
CENTRE_PRIOR_COUNT = 10.0
"""Images at the origin that the centre of the embeddings is averaged with, for tiny projects."""
MIN_SPREAD = 1e-3
"""Minimum spread, for images that are all the same."""
THRESHOLD_SAMPLE_SIZE = 2000
"""Maximum number of images from which thresholds are set."""
HEAD_WEIGHTS_FILE, HEAD_METADATA_FILE = "head.safetensors", "head.json"


@dataclass(frozen=True)
class Head:
    """A linear classifier on embeddings: confidence = softmax or sigmoid of (x Wᵀ + b) / t.

    Attributes:
        labels: (K) names.
        multiple: several labels may be right at once: K sigmoids instead of one softmax.
        weight: (K, d) float32.
        bias: (K) float32; −1e4 for a label with neither an example nor a text anchor.
        temperature: t > 0.
        ridge: strength of the pull towards the anchors; 0 if nothing was trained.
        ridge_from: ``cross-validation``, ``previous``, ``default``, or ``none``.
        temperature_from: ``out-of-fold``, ``held-out``, ``previous``, or ``none``.
        anchored: to ``text`` or to ``class means``.
        examples: number of labeled images it was trained on.
    """

    labels: tuple[str, ...]
    multiple: bool
    weight: Floats
    bias: Floats
    temperature: float
    ridge: float
    ridge_from: str
    temperature_from: str
    anchored: str
    examples: int

    def logits(self, embeddings: Floats) -> Floats:
        """Return calibrated logits, (n, K) float32, of (n, d) embeddings."""
        raw = embeddings @ self.weight.T + self.bias
        return np.asarray(raw / np.float32(self.temperature), dtype=np.float32)

    def probabilities(self, embeddings: Floats) -> Floats:
        """Return calibrated probabilities, (n, K) float32; rows sum to 1 unless ``multiple``.

        Args:
            embeddings: (n, d) float32 of unit length.
        """
        return calibration.to_probabilities(self.logits(embeddings), self.multiple)


@dataclass(frozen=True)
class TextAnchors:
    """The embedded label names of an encoder with text.

    Attributes:
        embeddings: (K, d) float32 of unit length, in the order of the labels.
        logit_scale: factor of the cosine, as the encoder was trained.
        logit_bias: bias added to it; 0 for plain CLIP.
    """

    embeddings: Floats
    logit_scale: float = 1.0
    logit_bias: float = 0.0


def zero_shot_head(
    labels: tuple[str, ...], anchors: TextAnchors, multiple: bool, *, pool: Floats | None = None
) -> Head:
    """Return the head before the first annotation, which compares images with label names.

    With one label per image it is CLIP's softmax of scale · cosine. With several it is SigLIP's
    sigmoid of scale · cosine + bias, where the encoder was trained with a bias. Plain CLIP has no
    threshold. With a pool, the bias of each label is set so that its mean confidence over the pool
    is 1 / (K + 1), as if an image had one label or none. Without a pool a label competes with the
    mean of all names, at odds of 1 to K.

    Args:
        labels: (K) names.
        anchors: their embeddings.
        multiple: several labels may be right at once.
        pool: (m, d) float32, images of the project, or None.

    Raises:
        ValueError: the shapes do not match.
    """
    embeddings = anchors.embeddings
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise ValueError(f"{len(labels)} labels, but anchors of shape {embeddings.shape}.")
    weight = (anchors.logit_scale * embeddings).astype(np.float32)
    bias = np.full(len(labels), anchors.logit_bias, dtype=np.float32)
    if multiple and anchors.logit_bias == 0:
        weight, bias = _fit_sigmoid_biases(weight, pool)
    return Head(labels, multiple, weight, bias, 1.0, 0.0, "none", "none", "text", 0)


def _fit_sigmoid_biases(weight: Floats, pool: Floats | None) -> tuple[Floats, Floats]:
    """Return weights and biases of sigmoids for an encoder that was trained without a bias."""
    count = len(weight)
    if pool is None or not len(pool):
        uniform_bias = np.full(count, -math.log(count), dtype=np.float32)
        return np.asarray(weight - weight.mean(0), dtype=np.float32), uniform_bias
    logits = pool[:: 1 + len(pool) // THRESHOLD_SAMPLE_SIZE] @ weight.T
    low, high = -logits.max(0) - 20, -logits.min(0) + 20
    for _ in range(40):
        midpoint = (low + high) / 2
        is_above = calibration.to_probabilities(logits + midpoint, True).mean(0) > 1 / (count + 1)
        low, high = np.where(is_above, low, midpoint), np.where(is_above, midpoint, high)
    return weight, np.asarray((low + high) / 2, dtype=np.float32)


def fit_head(
    embeddings: Floats,
    targets: Floats,
    *,
    labels: tuple[str, ...],
    multiple: bool,
    anchors: TextAnchors | None = None,
    pool: Floats | None = None,
    previous: Head | None = None,
    seed: int = 0,
) -> Head:
    """Train a head.

    Minimises Σ losses + ridge / 2 · ‖W − anchors‖² (:class:`LogisticProblems`) on embeddings that
    are centred and scaled to unit mean square length over the pool. The ridge is chosen by
    cross-validated log-loss once every label has 5 examples, the temperature by held-out log-loss.
    Both are reused from ``previous`` while it was trained on nine tenths of the images.

    Args:
        embeddings: (n, d) float32 of unit length, n ≥ 0.
        targets: (n, K) float32: 1 chosen, 0 not chosen, NaN for a label that was not offered. With
            one label per image, a row without a choice is ignored, and several choices share it.
        labels: (K) names.
        multiple: several labels may be right at once.
        anchors: embedded label names; None for an encoder without text. Then a label without an
            example cannot be predicted.
        pool: (m, d) float32, all images of the project, labeled or not; the labeled ones if None.
        previous: a head to start from; labels are matched by name.
        seed: of folds and subsets.

    Raises:
        ValueError: the shapes do not match, or a number is not finite.
    """
    _validate_inputs(embeddings, targets, labels, anchors)
    embeddings, targets = embeddings.astype(np.float32), targets.astype(np.float32)
    labeled = _labeled_mask(targets, multiple)
    text_head = zero_shot_head(labels, anchors, multiple, pool=pool) if anchors else None
    if not labeled.any():
        return text_head or _untrained_head(labels, multiple, embeddings.shape[1])
    scaler = _FeatureScaler.from_pool(
        embeddings[labeled] if pool is None or not len(pool) else pool
    )
    rows = LabeledRows(
        scaler.transform(embeddings[labeled]),
        _normalize_targets(targets[labeled], multiple),
        multiple,
        None if text_head is None else scaler.to_feature_weights(text_head.weight, text_head.bias),
    )
    start_weights, hyperparameters = _warm_start(previous, scaler, labels, rows)
    weights, hyperparameters = fit_weights(
        rows, start_weights, hyperparameters, np.random.default_rng(seed)
    )
    weight, bias = scaler.to_embedding_weights(weights)
    anchored, count = "class means" if text_head is None else "text", len(rows.features)
    chosen = asdict(hyperparameters)
    return Head(labels, multiple, weight, bias, **chosen, anchored=anchored, examples=count)


def save_head(head: Head, folder: Path) -> None:
    """Write a head to two files in an existing folder: arrays, and JSON for the rest.

    Raises:
        StoreError: the disk is full, or the folder is not writable.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    metadata = asdict(head)
    arrays = {name: np.ascontiguousarray(metadata.pop(name)) for name in ("weight", "bias")}
    try:
        save_file(arrays, folder / HEAD_WEIGHTS_FILE)
        text = json.dumps(metadata, ensure_ascii=False, indent=1)
        (folder / HEAD_METADATA_FILE).write_text(text, "utf-8")
    except (OSError, SafetensorError) as error:
        raise StoreError(f"The model cannot be written to {folder} ({error}).") from error


def load_head(folder: Path) -> Head:
    """Read what :func:`save_head` wrote.

    Raises:
        DamagedFileError: a file is missing or damaged.
        StoreError: a file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(folder / HEAD_WEIGHTS_FILE)
        metadata = json.loads((folder / HEAD_METADATA_FILE).read_text("utf-8"))
        known = {item.name for item in fields(Head)} & metadata.keys()
        head = Head(**arrays, **{name: metadata[name] for name in known})
        head = replace(head, labels=tuple(head.labels))
        _validate_head(head)
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        is_unreadable = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        error_class = StoreError if is_unreadable else DamagedFileError
        raise error_class(
            f"The model in {folder} is damaged ({error}): train again or roll back."
        ) from error
    return head


def _validate_head(head: Head) -> None:
    """Raise ValueError for a head that no fit can produce."""
    count = len(head.labels)
    if not all(isinstance(label, str) for label in head.labels):
        raise ValueError("a label is not a string")
    if not isinstance(head.examples, int):
        raise ValueError("the number of examples is not an integer")
    if not isinstance(head.multiple, bool):
        raise ValueError("multiple is not a boolean")
    if head.weight.ndim != 2 or len(head.weight) != count or head.bias.shape != (count,):
        raise ValueError("the shapes do not match")
    if head.weight.dtype != np.float32 or head.bias.dtype != np.float32:
        raise ValueError("the weights are not float32")
    if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
        raise ValueError("a weight is not finite")
    if not (math.isfinite(head.temperature) and head.temperature > 0):
        raise ValueError("the temperature is not positive")


def _validate_inputs(
    embeddings: Floats, targets: Floats, labels: tuple[str, ...], anchors: TextAnchors | None
) -> None:
    """Raise ValueError for arguments that do not match."""
    if embeddings.ndim != 2 or targets.shape != (len(embeddings), len(labels)):
        raise ValueError(
            f"Embeddings {embeddings.shape} and targets {targets.shape} do not match {labels}."
        )
    if anchors and anchors.embeddings.shape != (len(labels), embeddings.shape[1]):
        raise ValueError(f"Anchors {anchors.embeddings.shape} do not match {len(labels)} labels.")
    if not np.isfinite(embeddings).all():
        raise ValueError("Embeddings must be finite.")


def _labeled_mask(targets: Floats, multiple: bool) -> Bools:
    """Return (n) rows with an answer: a chosen label, or with ``multiple`` an offered one."""
    is_answered = ~np.isnan(targets) if multiple else np.nan_to_num(targets) > 0
    return np.asarray(is_answered.any(axis=1))


def _normalize_targets(targets: Floats, multiple: bool) -> Floats:
    """Scale rows to sum 1 unless ``multiple``, so that labels chosen together share an image."""
    if multiple:
        return targets
    return np.asarray(targets / np.nansum(targets, axis=1, keepdims=True), dtype=np.float32)


def _untrained_head(labels: tuple[str, ...], multiple: bool, width: int) -> Head:
    """Return the head of a project without labels on an encoder without text."""
    weight = np.zeros((len(labels), width), dtype=np.float32)
    bias = np.full(len(labels), IMPOSSIBLE_LOGIT, dtype=np.float32)
    return Head(labels, multiple, weight, bias, 1.0, 0.0, "none", "none", "class means", 0)


@dataclass(frozen=True)
class _FeatureScaler:
    """Centre and scale of a project's embeddings: z = ((x − centre) / spread, 1).

    Attributes:
        centre: (d) float32.
        spread: root mean square distance from it, > 0.
    """

    centre: Floats
    spread: float

    @classmethod
    def from_pool(cls, pool: Floats) -> _FeatureScaler:
        """Fit to (m, d) embeddings, m ≥ 1; the centre of few is shrunk to the origin."""
        centre = pool.sum(0) / (len(pool) + CENTRE_PRIOR_COUNT)
        squares = float(np.linalg.norm(pool)) ** 2 / len(pool) + float(centre @ centre)
        spread = math.sqrt(max(0.0, squares - 2 * float(pool.mean(0) @ centre)))
        return cls(centre.astype(np.float32), max(spread, MIN_SPREAD))

    def transform(self, embeddings: Floats) -> Floats:
        """(n, d) → (n, d + 1), the last column 1."""
        scaled = (embeddings - self.centre) / np.float32(self.spread)
        ones = np.ones((len(embeddings), 1), dtype=np.float32)
        return np.concatenate([scaled, ones], axis=1, dtype=np.float32)

    def to_feature_weights(self, weight: Floats, bias: Floats) -> Floats:
        """Convert weights (K, d) and biases (K) on embeddings to (K, d + 1) on features."""
        columns = [weight * np.float32(self.spread), (bias + weight @ self.centre)[:, None]]
        return np.concatenate(columns, axis=1, dtype=np.float32)

    def to_embedding_weights(self, weights: Floats) -> tuple[Floats, Floats]:
        """Invert :meth:`to_feature_weights`."""
        weight = weights[:, :-1] / np.float32(self.spread)
        bias = weights[:, -1] - weight @ self.centre
        return weight.astype(np.float32), bias.astype(np.float32)


def _warm_start(
    previous: Head | None, scaler: _FeatureScaler, labels: tuple[str, ...], rows: LabeledRows
) -> tuple[Floats | None, HeadHyperparameters | None]:
    """Return initial weights, NaN for new labels, and the hyperparameters to reuse, if any."""
    same_width = previous is not None and previous.weight.shape[1] + 1 == rows.features.shape[1]
    if previous is None or not same_width or previous.multiple != rows.multiple:
        return None, None
    previous_weights = scaler.to_feature_weights(previous.weight, previous.bias)
    previous_weights[previous.bias <= IMPOSSIBLE_LOGIT / 2] = np.nan
    row_by_label = dict(zip(previous.labels, previous_weights, strict=True))
    unset_row = np.full(previous_weights.shape[1], np.nan, dtype=np.float32)
    start_weights = np.stack([row_by_label.get(label, unset_row) for label in labels])
    mostly_known = previous.examples >= MIN_KNOWN_ROW_SHARE * len(rows.features)
    if not mostly_known or previous.labels != labels or previous.ridge_from == "none":
        return start_weights, None
    reused = HeadHyperparameters(previous.ridge, previous.temperature, "previous", "previous")
    return start_weights, reused
