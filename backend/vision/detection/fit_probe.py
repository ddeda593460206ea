"""Train the linear layers of a probe on cached features, with out-of-fold probes for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.arrays import Bools, Floats, Ints
from backend.vision.detection.box_features import box_features
from backend.vision.detection.feature_network import ImageFeatures
from backend.vision.detection.network_runner import cell_centres
from backend.vision.detection.probe_detector import Probe, to_squares
from backend.vision.heads.logistic_regression import LogisticProblems, solve_problems

POSITIVE_CELLS = 10
"""Cells per object that become positive examples, as in ultralytics' assigner."""
ALIGNMENT_EXPONENT = 6
"""Exponent of the IoU in the target of a cell (TAL, arXiv 2108.07755)."""
MAX_CELLS, MAX_CELL_TARGETS = 60_000, 360_000
"""Maximum number of cells and of targets (cells · scores) per output level; the other cells are
represented by weights."""
CELL_RIDGE, LABEL_RIDGE = 10.0, 100.0
"""Regularization of the two layers on standardized features."""
FOLD_COUNT = 3
BIAS_INPUT = 10.0
"""Constant input for the bias, large so that the bias is hardly regularized."""
MIN_STD = 1e-3


@dataclass(frozen=True)
class ProbeExample:
    """The features of a labeled image.

    Attributes:
        features: its features.
        boxes: (n, 4) float32 x0 y0 x1 y1 of its objects in pixels of the input.
        labels: (n,) int64 label indices.
    """

    features: ImageFeatures
    boxes: Floats
    labels: Ints


@dataclass(frozen=True)
class FittedProbes:
    """Probes of one kind.

    Attributes:
        final: trained on all examples.
        out_of_fold: for each example, the probe that was trained without it.
    """

    final: Probe
    out_of_fold: tuple[Probe, ...]


def fit_probes(
    examples: Sequence[ProbeExample],
    label_count: int,
    *,
    scores_labels: bool,
    square_px: float,
    seed: int,
) -> FittedProbes:
    """Train a probe on all examples, and one without each fold.

    Args:
        examples: labeled images with at least one object in total.
        label_count: number of labels.
        scores_labels: score each cell per label, instead of once, with the label decided by the
            features inside the box.
        square_px: side of the squares around points in pixels of the input; 0 for boxes.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    fold_count = min(FOLD_COUNT, len(examples))
    folds = np.asarray(rng.permutation(len(examples)) % fold_count)
    masks = np.array([folds != fold for fold in range(fold_count)] + [folds >= 0])
    score_count = label_count if scores_labels else 1
    cell_layers = _fit_cell_layers(examples, masks, score_count, square_px, rng)
    needs_labels = not scores_labels and label_count > 1
    label_layers = (
        _fit_label_layers(examples, masks, label_count)
        if needs_labels
        else [(np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.float32))] * len(masks)
    )
    probes = [
        Probe(*cells, *labels) for cells, labels in zip(cell_layers, label_layers, strict=True)
    ]
    return FittedProbes(probes[-1], tuple(probes[fold] for fold in folds.tolist()))


def cell_targets(example: ProbeExample, score_count: int, square_px: float) -> Floats:
    """Return the target of each cell, (cells, score_count) float32, 0 to 1.

    The targets of the best cells of an object are the IoU of the cell's box with it, sharpened as
    in task-aligned learning. All other targets are 0.
    """
    features = example.features
    centres, strides = cell_centres(features.position.input_size, features.strides)
    pixels = centres * strides[:, None]
    targets = np.zeros((len(pixels), score_count), dtype=np.float32)
    for box, label in zip(example.boxes, example.labels, strict=True):
        inside = ((pixels > box[:2]) & (pixels < box[2:])).all(axis=1)
        cells = np.flatnonzero(inside)
        if not len(cells):  # smaller than a cell
            distances = np.abs(pixels - (box[:2] + box[2:]) / 2).sum(axis=1)
            cells = np.array([distances.argmin()])
        boxes = to_squares(features.boxes(cells), square_px)
        iou = _iou(boxes, box)
        best = np.argsort(-iou, kind="stable")[:POSITIVE_CELLS]
        peak = max(float(iou.max()), 1e-6)
        column = label if score_count > 1 else 0
        values = (iou[best] / peak) ** ALIGNMENT_EXPONENT * peak
        targets[cells[best], column] = np.maximum(targets[cells[best], column], values)
    return targets


def _iou(boxes: Floats, box: Floats) -> Floats:
    """Return the IoU of boxes with one box, (n,)."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1) + (box[2:] - box[:2]).prod()
    return np.asarray(intersection / np.maximum(areas - intersection, MIN_STD))


def _fit_cell_layers(
    examples: Sequence[ProbeExample],
    masks: Bools,
    score_count: int,
    square_px: float,
    rng: np.random.Generator,
) -> list[tuple[Floats, Floats]]:
    """Return (weights, biases) of the cell layer for each mask of examples."""
    targets = [cell_targets(example, score_count, square_px) for example in examples]
    level_count = len(examples[0].features.strides)
    cell_levels = [example.features.levels() for example in examples]
    max_cells = min(MAX_CELLS, MAX_CELL_TARGETS / score_count)
    layers: list[list[tuple[Floats, Floats]]] = []
    for level in range(level_count):
        rows = [np.flatnonzero(levels == level) for levels in cell_levels]
        share = min(1.0, max_cells / max(sum(map(len, rows)), 1))
        parts, part_targets, weights, owners = [], [], [], []
        for index, (example, cells) in enumerate(zip(examples, rows, strict=True)):
            positive = targets[index][cells].max(axis=1) > 0
            kept = positive | (rng.random(len(cells)) < share)
            cells, positive = cells[kept], positive[kept]
            parts.append(example.features.cells[:, cells].T)
            part_targets.append(targets[index][cells])
            weights.append(np.where(positive, 1.0, 1 / share))
            owners.append(np.full(len(cells), index))
        owner, weight = np.concatenate(owners), np.concatenate(weights)
        row_masks = (masks[:, owner] * weight).astype(np.float32)
        layers.append(
            _solve(np.concatenate(parts), np.concatenate(part_targets), row_masks, CELL_RIDGE, True)
        )
    return [
        (
            np.stack([layers[level][fold][0] for level in range(level_count)]),
            np.stack([layers[level][fold][1] for level in range(level_count)]),
        )
        for fold in range(len(masks))
    ]


def _fit_label_layers(
    examples: Sequence[ProbeExample], masks: Bools, label_count: int
) -> list[tuple[Floats, Floats]]:
    """Return (weights, biases) of the label layer for each mask of examples."""
    rows = [box_features(e.features.maps, e.boxes, e.features.position) for e in examples]
    owner = np.repeat(np.arange(len(examples)), [len(e.boxes) for e in examples])
    labels = np.concatenate([e.labels for e in examples])
    targets = np.eye(label_count, dtype=np.float32)[labels]
    row_masks = masks[:, owner].astype(np.float32)
    return _solve(np.concatenate(rows), targets, row_masks, LABEL_RIDGE, False)


def _solve(
    features: Floats, targets: Floats, row_masks: Floats, ridge: float, multiple: bool
) -> list[tuple[Floats, Floats]]:
    """Solve a logistic regression per mask, and return (K, r) weights and (K,) biases of each."""
    features = features.astype(np.float32)
    mean, std = features.mean(axis=0), np.maximum(features.std(axis=0), MIN_STD)
    bias_input = np.full((len(features), 1), BIAS_INPUT, dtype=np.float32)
    inputs = np.concatenate([(features - mean) / std, bias_input], axis=1)
    shape = (len(row_masks), targets.shape[1])
    problems = LogisticProblems(
        features=inputs,
        targets=targets,
        row_masks=row_masks,
        prior=np.zeros((*shape, inputs.shape[1]), dtype=np.float32),
        excluded_labels=np.zeros(shape, dtype=bool),
        ridges=(ridge,),
        multiple=multiple,
    )
    solved = solve_problems(problems)[0]  # (F, K, r + 1)
    weights = solved[..., :-1] / std
    biases = solved[..., -1] * BIAS_INPUT - weights @ mean
    return [
        (w.astype(np.float32), b.astype(np.float32)) for w, b in zip(weights, biases, strict=True)
    ]
