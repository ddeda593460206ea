"""The trained layer on frozen embeddings: a linear head that starts from the labels' names.

Every label has a weight vector that starts at its anchor, the embedding of its name, and moves away
from it only as far as the labeled images insist; an encoder without text starts from the mean of
the label's images. Convex, so warm and cold starts end alike; one matrix product to predict.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from backend.arrays import Bools, Floats
from backend.errors import StoreError
from backend.vision.heads import calibration
from backend.vision.heads.fit import HeadHyperparameters, LabeledRows, fit_weights
from backend.vision.heads.logistic_regression import IMPOSSIBLE_LOGIT

MIN_KNOWN_ROW_SHARE = 0.9
"""Share of today's rows that the previous head knew, above which its choices are kept."""
CENTRE_PRIOR_COUNT = 10.0
"""Images at the origin that the centre of the embeddings is averaged with, for tiny projects."""
MIN_SPREAD = 1e-3
"""Spread at least, for images that are all the same."""
THRESHOLD_SAMPLE_SIZE = 2000
"""Images at most from which thresholds are set."""
HEAD_WEIGHTS_FILE, HEAD_METADATA_FILE = "head.safetensors", "head.json"


@dataclass(frozen=True)
class Head:
    """A linear classifier on embeddings: confidence = softmax or sigmoid of (x Wᵀ + b) / t.

    Attributes:
        labels: (K) names.
        multiple: several labels may be right at once: K sigmoids instead of one softmax.
        weight: (K, d) float32.
        bias: (K) float32; −1e4 for a label nobody gave yet and no text describes.
        temperature: t > 0.
        ridge: strength of the pull towards the anchors; 0 where nothing was trained.
        ridge_from: ``cross-validation``, ``previous``, ``default``, or ``none``.
        temperature_from: ``out-of-fold``, ``held-out``, ``previous``, or ``none``.
        anchored: to ``text`` or to ``class means``.
        examples: labeled images it was trained on.
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
        """Calibrated logits, (n, K) float32, of (n, d) embeddings."""
        raw = embeddings @ self.weight.T + self.bias
        return np.asarray(raw / np.float32(self.temperature), dtype=np.float32)

    def probabilities(self, embeddings: Floats) -> Floats:
        """Calibrated confidence.

        Args:
            embeddings: (n, d) float32 of unit length.

        Returns:
            (n, K) float32, 0 to 1, in the order of ``labels``; rows sum to 1 unless ``multiple``.
        """
        return calibration.to_probabilities(self.logits(embeddings), self.multiple)


def zero_shot_head(
    labels: tuple[str, ...],
    anchors: Floats,
    logit_scale: float,
    logit_bias: float,
    multiple: bool,
    *,
    pool: Floats | None = None,
) -> Head:
    """The head before the first annotation: image against label name.

    One of many is CLIP's softmax of scale · cosine. Several of many is SigLIP's sigmoid of
    scale · cosine + bias where the encoder was trained with a bias. Plain CLIP has no threshold:
    with a pool, each label's is set so that its mean confidence over the pool is 1 / (K + 1), as
    if an image had one label or none; without a pool a label competes with the mean of all names,
    at odds of 1 to K.

    Args:
        labels: (K) names.
        anchors: (K, d) float32 text embeddings of unit length, in the order of ``labels``.
        logit_scale: factor of the cosine, as the encoder was trained.
        logit_bias: what the encoder adds to it; 0 for plain CLIP.
        multiple: several labels may be right at once.
        pool: (m, d) float32, images of the project, or None.

    Raises:
        ValueError: the shapes do not fit together.
    """
    if anchors.ndim != 2 or len(anchors) != len(labels):
        raise ValueError(f"{len(labels)} labels, but anchors of shape {anchors.shape}.")
    weight = (logit_scale * anchors).astype(np.float32)
    bias = np.full(len(labels), logit_bias, dtype=np.float32)
    if multiple and logit_bias == 0:
        weight, bias = _fit_sigmoid_biases(weight, pool)
    return Head(labels, multiple, weight, bias, 1.0, 0.0, "none", "none", "text", 0)


def _fit_sigmoid_biases(weight: Floats, pool: Floats | None) -> tuple[Floats, Floats]:
    """Weights and biases of sigmoids for an encoder that was trained without a threshold."""
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
    anchors: Floats | None = None,
    pool: Floats | None = None,
    logit_scale: float = 1.0,
    logit_bias: float = 0.0,
    previous: Head | None = None,
    seed: int = 0,
) -> Head:
    """Train a head.

    Minimises Σ losses + ridge / 2 · ‖W − anchors‖² (``heads.logistic.Problems``) on
    embeddings that are centred and scaled to unit mean square length over the pool. The ridge is
    chosen by cross-validated log-loss once every label was given 5 times, the temperature by
    held-out log-loss; both are kept from ``previous`` while it knew nine tenths of the images.

    Args:
        embeddings: (n, d) float32 of unit length, n ≥ 0.
        targets: (n, K) float32: 1 chosen, 0 not chosen, NaN nobody was asked. One of many:
            a row without a choice is left out, one with several is shared between them.
        labels: (K) names.
        multiple: several labels may be right at once.
        anchors: (K, d) float32 text embeddings; None for an encoder without text. Then a label
            without an example cannot be predicted.
        pool: (m, d) float32, all images of the project, labeled or not; the labeled when None.
        logit_scale: of the encoder's text side.
        logit_bias: of the encoder's text side.
        previous: a head to start from; labels are matched by name.
        seed: of folds and subsets.

    Raises:
        ValueError: the shapes do not fit together, or a number is not finite.
    """
    _validate_inputs(embeddings, targets, labels, anchors)
    embeddings, targets = embeddings.astype(np.float32), targets.astype(np.float32)
    labeled = _labeled_mask(targets, multiple)
    text_head = None
    if anchors is not None:
        text_head = zero_shot_head(labels, anchors, logit_scale, logit_bias, multiple, pool=pool)
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
    return Head(
        labels,
        multiple,
        weight,
        bias,
        **asdict(hyperparameters),
        anchored="class means" if text_head is None else "text",
        examples=len(rows.features),
    )


def save_head(head: Head, folder: Path) -> None:
    """Write a head as two files into an existing folder: arrays, and JSON for the rest.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    metadata = asdict(head)
    arrays = {name: np.ascontiguousarray(metadata.pop(name)) for name in ("weight", "bias")}
    try:
        save_file(arrays, folder / HEAD_WEIGHTS_FILE)
        (folder / HEAD_METADATA_FILE).write_text(
            json.dumps(metadata, ensure_ascii=False, indent=1), "utf-8"
        )
    except (OSError, SafetensorError) as error:
        raise StoreError(f"The model cannot be written to {folder} ({error}).") from error


def load_head(folder: Path) -> Head:
    """Read what :func:`save_head` wrote.

    Raises:
        StoreError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(folder / HEAD_WEIGHTS_FILE)
        metadata = json.loads((folder / HEAD_METADATA_FILE).read_text("utf-8"))
        head = Head(weight=arrays["weight"], bias=arrays["bias"], **metadata)
        head = replace(head, labels=tuple(head.labels))
        _validate_head(head)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise StoreError(
            f"The model in {folder} is damaged ({error}): train again, or roll back."
        ) from error
    return head


def _validate_head(head: Head) -> None:
    """Raises ValueError for a head that no fit could have made."""
    count = len(head.labels)
    if not all(isinstance(label, str) for label in head.labels):
        raise ValueError("labels that are no text")
    if not isinstance(head.multiple, bool):
        raise ValueError("neither one of many nor several")
    if head.weight.ndim != 2 or len(head.weight) != count or head.bias.shape != (count,):
        raise ValueError("shapes that do not fit together")
    if head.weight.dtype != np.float32 or head.bias.dtype != np.float32:
        raise ValueError("numbers that are not float32")
    if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
        raise ValueError("numbers that are not finite")
    if not (math.isfinite(head.temperature) and head.temperature > 0):
        raise ValueError("a temperature that is not positive")


def _validate_inputs(
    embeddings: Floats, targets: Floats, labels: tuple[str, ...], anchors: Floats | None
) -> None:
    """Raises ValueError for arguments that do not fit together."""
    if embeddings.ndim != 2 or targets.shape != (len(embeddings), len(labels)):
        raise ValueError(
            f"Embeddings {embeddings.shape} and targets {targets.shape} do not fit {labels}."
        )
    if anchors is not None and anchors.shape != (len(labels), embeddings.shape[1]):
        raise ValueError(f"Anchors {anchors.shape} do not fit {len(labels)} labels.")
    if not np.isfinite(embeddings).all():
        raise ValueError("Embeddings must be finite.")


def _labeled_mask(targets: Floats, multiple: bool) -> Bools:
    """(n) rows that say anything: a label chosen, or with ``multiple`` one asked."""
    is_answered = ~np.isnan(targets) if multiple else np.nan_to_num(targets) > 0
    return np.asarray(is_answered.any(axis=1))


def _normalize_targets(targets: Floats, multiple: bool) -> Floats:
    """One of many: labels given to one image together share it, so that rows sum to 1."""
    if multiple:
        return targets
    return np.asarray(targets / np.nansum(targets, axis=1, keepdims=True), dtype=np.float32)


def _untrained_head(labels: tuple[str, ...], multiple: bool, width: int) -> Head:
    """The head of a project without a label, on an encoder without text: it knows nothing."""
    weight = np.zeros((len(labels), width), dtype=np.float32)
    bias = np.full(len(labels), IMPOSSIBLE_LOGIT, dtype=np.float32)
    return Head(labels, multiple, weight, bias, 1.0, 0.0, "none", "none", "class means", 0)


@dataclass(frozen=True)
class _FeatureScaler:
    """Where and how wide the embeddings of a project lie: z = ((x − centre) / spread, 1).

    Attributes:
        centre: (d) float32.
        spread: root mean square distance from it, > 0.
    """

    centre: Floats
    spread: float

    @classmethod
    def from_pool(cls, pool: Floats) -> _FeatureScaler:
        """Of (m, d) embeddings, m ≥ 1; few are drawn to the origin, so that one is not its own."""
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
        """Weights (K, d) and biases (K) on embeddings → (K, d + 1) on features."""
        feature_bias = bias + weight @ self.centre
        return np.concatenate(
            [weight * np.float32(self.spread), feature_bias[:, None]], axis=1, dtype=np.float32
        )

    def to_embedding_weights(self, weights: Floats) -> tuple[Floats, Floats]:
        """The inverse of :meth:`to_feature_weights`."""
        weight = weights[:, :-1] / np.float32(self.spread)
        bias = weights[:, -1] - weight @ self.centre
        return weight.astype(np.float32), bias.astype(np.float32)


def _warm_start(
    previous: Head | None, scaler: _FeatureScaler, labels: tuple[str, ...], rows: LabeledRows
) -> tuple[Floats | None, HeadHyperparameters | None]:
    """Weights to start from, NaN for new labels; and the choices to keep if little changed."""
    same_width = previous is not None and previous.weight.shape[1] + 1 == rows.features.shape[1]
    if previous is None or not same_width or previous.multiple != rows.multiple:
        return None, None
    previous_weights = scaler.to_feature_weights(previous.weight, previous.bias)
    previous_weights[previous.bias <= IMPOSSIBLE_LOGIT / 2] = np.nan
    index_by_label = {label: k for k, label in enumerate(previous.labels)}
    unset_row = np.full(previous_weights.shape[1], np.nan, dtype=np.float32)
    start_weights = np.stack(
        [previous_weights[index_by_label[n]] if n in index_by_label else unset_row for n in labels]
    )
    mostly_known = previous.examples >= MIN_KNOWN_ROW_SHARE * len(rows.features)
    if not mostly_known or previous.labels != labels or previous.ridge_from == "none":
        return start_weights, None
    return start_weights, HeadHyperparameters(
        previous.ridge, previous.temperature, "previous", "previous"
    )
