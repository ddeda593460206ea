"""A linear head on frozen embeddings, regularized towards the label names.

The weights of each label are initialized at an anchor, and the L2 penalty is on the distance from
the anchor. The anchor is the text embedding of the label name or, without a text encoder, the mean
embedding of the label's images. The problem is convex, so a warm start does not change the result.
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
"""Hyperparameters are reused if the previous head was trained on at least this share of rows."""
CENTRE_PRIOR_COUNT = 10.0
"""Number of pseudo-embeddings at the origin that shrink the centre of small pools."""
MIN_SPREAD = 1e-3
"""Minimum spread, used for identical images."""
THRESHOLD_SAMPLE_SIZE = 2000
"""Maximum number of pool images from which sigmoid biases are fitted."""
HEAD_WEIGHTS_FILE, HEAD_METADATA_FILE = "head.safetensors", "head.json"


@dataclass(frozen=True)
class Head:
    """A linear classifier on embeddings: probabilities = softmax or sigmoid of (x Wᵀ + b) / t.

    Attributes:
        labels: K label names.
        multiple: multi-label: K sigmoids instead of one softmax.
        weight: (K, d) float32.
        bias: (K,) float32; −1e4 for a label with neither an example nor a text anchor, unless only
            one label has an example.
        temperature: t > 0.
        ridge: L2 penalty on the distance from the anchors; 0 for an untrained head.
        ridge_from: ``cross-validation``, ``previous``, ``default``, or ``none``.
        temperature_from: ``out-of-fold``, ``held-out``, ``previous``, ``default``, or ``none``.
        anchored: type of the anchors: ``text`` or ``class means``.
        examples: number of labeled training images.
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
        """Return the calibrated logits of (n, d) embeddings: (n, K) float32."""
        raw = embeddings @ self.weight.T + self.bias
        return np.asarray(raw / np.float32(self.temperature), dtype=np.float32)

    def probabilities(self, embeddings: Floats) -> Floats:
        """Return calibrated probabilities: (n, K) float32; rows sum to 1 unless ``multiple``.

        Args:
            embeddings: (n, d) float32 of unit length.
        """
        return calibration.to_probabilities(self.logits(embeddings), self.multiple)


@dataclass(frozen=True)
class TextAnchors:
    """Text embeddings of the labels.

    Attributes:
        embeddings: (K, d) float32 of unit length, in the order of the labels.
        logit_scale: ``Encoder.logit_scale``.
        logit_bias: ``Encoder.logit_bias``; 0 for CLIP.
    """

    embeddings: Floats
    logit_scale: float = 1.0
    logit_bias: float = 0.0


def zero_shot_head(
    labels: tuple[str, ...], anchors: TextAnchors, multiple: bool, *, pool: Floats | None = None
) -> Head:
    """Return a zero-shot head, which compares images with label names.

    A single-label head is CLIP's softmax of scale · cosine. A multi-label head is SigLIP's sigmoid
    of scale · cosine + bias if the encoder was trained with a bias. CLIP was not, so its biases are
    fitted: with a pool, such that the mean probability of each label over the pool is 1 / (K + 1).
    Without a pool, the logit is relative to the mean over all label names, minus log K.

    Args:
        labels: K label names.
        anchors: text embeddings of the labels.
        multiple: multi-label.
        pool: (m, d) float32 embeddings of project images, or None.

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
    """Return weights and biases of a multi-label head for an encoder without a logit bias."""
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

    Minimizes Σ losses + ridge / 2 · ‖W − anchors‖² (:class:`LogisticProblems`) on embeddings that
    are centred and scaled to unit mean squared norm over the pool. The ridge is chosen by
    cross-validated log-loss once every label has 5 examples, the temperature by held-out log-loss.
    Both are reused from ``previous`` if it was trained on at least 90 % as many images.

    If only one of several labels has an example, and none a text anchor, nothing can be separated.
    Then the confidence is the same for every image, and below 1 (:func:`_single_label_head`).

    Args:
        embeddings: (n, d) float32 of unit length, n ≥ 0.
        targets: (n, K) float32: 1 chosen, 0 not chosen, NaN not offered. Unless ``multiple``, rows
            without a choice are ignored, and several choices share the weight of a row.
        labels: K label names.
        multiple: multi-label: K sigmoids instead of one softmax.
        anchors: text embeddings of the labels; None without a text encoder. Labels without examples
            cannot be predicted then.
        pool: (m, d) float32 embeddings of all project images; default the labeled ones.
        previous: head for a warm start; labels are matched by name.
        seed: random seed of folds and subsets.

    Raises:
        ValueError: shapes do not match, or an embedding is not finite.
    """
    _validate_inputs(embeddings, targets, labels, anchors)
    embeddings, targets = embeddings.astype(np.float32), targets.astype(np.float32)
    labeled = _labeled_mask(targets, multiple)
    text_head = zero_shot_head(labels, anchors, multiple, pool=pool) if anchors else None
    if not labeled.any():
        return text_head or _untrained_head(labels, multiple, embeddings.shape[1])
    has_examples = np.nan_to_num(targets[labeled]).sum(0) > 0
    if not anchors and not multiple and has_examples.sum() == 1 < len(labels):
        return _single_label_head(labels, has_examples, embeddings[labeled])
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
    """Save a head to an existing folder as safetensors and JSON.

    Raises:
        StoreError: the files cannot be written.
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
    """Load a head saved by :func:`save_head`.

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
    """Raise ValueError if a loaded head is inconsistent."""
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
    """Raise ValueError if shapes do not match or embeddings are not finite."""
    if embeddings.ndim != 2 or targets.shape != (len(embeddings), len(labels)):
        raise ValueError(
            f"Embeddings {embeddings.shape} and targets {targets.shape} do not match {labels}."
        )
    if anchors and anchors.embeddings.shape != (len(labels), embeddings.shape[1]):
        raise ValueError(f"Anchors {anchors.embeddings.shape} do not match {len(labels)} labels.")
    if not np.isfinite(embeddings).all():
        raise ValueError("Embeddings must be finite.")


def _labeled_mask(targets: Floats, multiple: bool) -> Bools:
    """Return an (n,) mask of rows with a chosen label, or with an offered one if ``multiple``."""
    is_answered = ~np.isnan(targets) if multiple else np.nan_to_num(targets) > 0
    return np.asarray(is_answered.any(axis=1))


def _normalize_targets(targets: Floats, multiple: bool) -> Floats:
    """Scale rows to sum to 1 unless ``multiple``."""
    if multiple:
        return targets
    return np.asarray(targets / np.nansum(targets, axis=1, keepdims=True), dtype=np.float32)


def _untrained_head(labels: tuple[str, ...], multiple: bool, width: int) -> Head:
    """Return a head that predicts all labels equally, used without labeled images and text."""
    weight = np.zeros((len(labels), width), dtype=np.float32)
    bias = np.full(len(labels), IMPOSSIBLE_LOGIT, dtype=np.float32)
    return Head(labels, multiple, weight, bias, 1.0, 0.0, "none", "none", "class means", 0)


def _single_label_head(labels: tuple[str, ...], has_examples: Bools, embeddings: Floats) -> Head:
    """Return the head of a project in which only one label has examples.

    Its confidence in that label is (n + 1) / (n + K) after n examples (Laplace's rule of
    succession), and the other labels share the rest.
    """
    count = len(embeddings)
    weight = np.zeros((len(labels), embeddings.shape[1]), dtype=np.float32)
    bias = np.where(has_examples, np.float32(math.log(count + 1)), np.float32(0))
    return Head(labels, False, weight, bias, 1.0, 0.0, "none", "none", "class means", count)


@dataclass(frozen=True)
class _FeatureScaler:
    """Converts embeddings x to features z = ((x − centre) / spread, 1).

    Attributes:
        centre: (d,) float32.
        spread: root mean square distance from the centre, > 0.
    """

    centre: Floats
    spread: float

    @classmethod
    def from_pool(cls, pool: Floats) -> _FeatureScaler:
        """Fit to (m, d) embeddings, m ≥ 1; the centre of small pools is shrunk to the origin."""
        centre = pool.sum(0) / (len(pool) + CENTRE_PRIOR_COUNT)
        squares = float(np.linalg.norm(pool)) ** 2 / len(pool) + float(centre @ centre)
        spread = math.sqrt(max(0.0, squares - 2 * float(pool.mean(0) @ centre)))
        return cls(centre.astype(np.float32), max(spread, MIN_SPREAD))

    def transform(self, embeddings: Floats) -> Floats:
        """Convert (n, d) embeddings to (n, d + 1) features; the last column is 1."""
        scaled = (embeddings - self.centre) / np.float32(self.spread)
        ones = np.ones((len(embeddings), 1), dtype=np.float32)
        return np.concatenate([scaled, ones], axis=1, dtype=np.float32)

    def to_feature_weights(self, weight: Floats, bias: Floats) -> Floats:
        """Convert weights (K, d) and biases (K,) on embeddings to (K, d + 1) on features."""
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
    """Return initial weights (NaN for new labels) and hyperparameters to reuse, or None."""
    same_width = previous is not None and previous.weight.shape[1] + 1 == rows.features.shape[1]
    if previous is None or not same_width or previous.multiple != rows.multiple:
        return None, None
    previous_weights = scaler.to_feature_weights(previous.weight, previous.bias)
    is_unfitted = (previous.bias <= IMPOSSIBLE_LOGIT / 2) | ~previous.weight.any(axis=1)
    previous_weights[is_unfitted] = np.nan
    row_by_label = dict(zip(previous.labels, previous_weights, strict=True))
    unset_row = np.full(previous_weights.shape[1], np.nan, dtype=np.float32)
    start_weights = np.stack([row_by_label.get(label, unset_row) for label in labels])
    has_most_rows = previous.examples >= MIN_KNOWN_ROW_SHARE * len(rows.features)
    if not has_most_rows or previous.labels != labels or previous.ridge_from == "none":
        return start_weights, None
    reused = HeadHyperparameters(previous.ridge, previous.temperature, "previous", "previous")
    return start_weights, reused
