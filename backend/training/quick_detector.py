"""Train the quick detector of a box or point control, which only learns a linear last layer.

It is trained in seconds and serves until the fine-tuned detector is ready.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from backend.callbacks import ProgressCallback
from backend.domain import Control
from backend.errors import RoundCancelledError
from backend.inference.detections import (
    RegionSample,
    example_from_sample,
    point_box_sizes,
    points_to_boxes,
    predict_samples,
    to_scored_regions,
)
from backend.learning.detection_metrics import (
    DetectionSample,
    evaluate_detections,
    label_difficulty,
)
from backend.learning.first_labels import MIN_DETECTOR_IMAGES
from backend.learning.thresholds import best_f1_threshold
from backend.vision.detection.detections import MIN_DETECTION_CONFIDENCE
from backend.vision.detection.feature_network import FeatureRunner, ImageFeatures, has_features
from backend.vision.detection.fit_probe import FittedProbes, ProbeExample, fit_probes
from backend.vision.detection.probe_detector import (
    FeatureRunnerLoader,
    ProbeDetector,
    probe_detections,
    square_side_px,
)
from backend.vision.detection.trained_detector import ClassMapping, Detector, hash_network

if TYPE_CHECKING:
    from backend.vision.detection.network import DetectionNetwork

MAX_EXAMPLES = 100
"""Maximum number of training images, a random sample of all."""
MIN_MAP50 = 0.1
"""Cross-validated mAP50 below which suggestions cost annotators more than they save."""
FEATURE_GROUP = 8
"""Images whose features are computed together."""


@dataclass(frozen=True)
class QuickTrainingJob:
    """The inputs for training the quick detector of one control.

    Attributes:
        control: a box or point control.
        samples: its labeled images; those of the audit set are not used.
        network: the network to freeze, with features (`has_features`).
        network_tasks: tasks of the images that the network was trained on. Its features of them
            are too good, so that the others decide.
        rival: the live detector, which the quick one has to surpass; None to accept any.
        input_size: input size of the network in pixels.
        seed: random seed.
        load_feature_runner: loads the runner that computes features.
        report: called with (done, total) images.
        cancelled: polled for each group of images.
    """

    control: Control
    samples: Sequence[RegionSample]
    network: DetectionNetwork
    network_tasks: frozenset[int]
    rival: Detector | None
    input_size: int
    seed: int
    load_feature_runner: FeatureRunnerLoader
    report: ProgressCallback
    cancelled: Callable[[], bool]


def train_quick_detector(job: QuickTrainingJob) -> ProbeDetector | None:
    """Train a detector on the features of a frozen network.

    Whether each label or only the object gets a score per cell is decided by cross-validation.

    Returns:
        the detector; None if the network has no features, if there are too few images that it was
        not trained on, if it is hardly ever right on them, or if the live detector is better.

    Raises:
        RoundCancelledError: training was cancelled.
    """
    samples = _training_samples(job)
    unseen = [i for i, s in enumerate(samples) if s.task_id not in job.network_tasks and s.regions]
    if not has_features(job.network) or len(unseen) < MIN_DETECTOR_IMAGES:
        return None
    labels = job.control.label_names
    mapping = ClassMapping(
        points=job.control.is_points,
        labels=labels,
        classes={i: i for i in range(len(labels))},
        sides=point_box_sizes(job.control, samples, job.input_size),
        size=job.input_size,
    )
    key = hash_network(job.network)
    runner = job.load_feature_runner(job.network, job.input_size, key)
    examples = _probe_examples(job, samples, mapping, runner)
    candidates = [_fit(job, examples, mapping, scores_labels=False)]
    if len(labels) > 1:
        candidates.append(_fit(job, examples, mapping, scores_labels=True))
    evaluated = [_out_of_fold_samples(c, examples, samples, mapping) for c in candidates]
    figures = [_figure([rows[i] for i in unseen], mapping) for rows in evaluated]
    best = int(np.argmax(figures))
    if figures[best] < MIN_MAP50:
        return None
    if job.rival is not None:
        rival_samples = predict_samples(job.rival, job.control, [samples[i] for i in unseen])
        if _figure(rival_samples, mapping) >= figures[best]:
            return None
    honest = _as_boxes([evaluated[best][i] for i in unseen], mapping)
    return ProbeDetector(
        job.network,
        replace(
            mapping,
            shown=round(best_f1_threshold(honest, labels), 4),
            difficulty=label_difficulty(honest, labels),
        ),
        key,
        candidates[best].final,
        job.load_feature_runner,
    )


def _training_samples(job: QuickTrainingJob) -> list[RegionSample]:
    """Return a random sample of the images outside the audit set, in their order."""
    samples = [sample for sample in job.samples if not sample.is_audit]
    rows = np.random.default_rng(job.seed).permutation(len(samples))[:MAX_EXAMPLES]
    return [samples[row] for row in sorted(rows)]


def _probe_examples(
    job: QuickTrainingJob,
    samples: Sequence[RegionSample],
    mapping: ClassMapping,
    runner: FeatureRunner,
) -> list[ProbeExample]:
    examples: list[ProbeExample] = []
    for start in range(0, len(samples), FEATURE_GROUP):
        if job.cancelled():
            raise RoundCancelledError("Training was cancelled. The live version is unchanged.")
        group = samples[start : start + FEATURE_GROUP]
        images = [sample.load_image() for sample in group]
        for sample, features in zip(group, runner.features(images), strict=True):
            detection_example = example_from_sample(sample, job.control, mapping.sides)
            boxes = features.position.to_input_boxes(detection_example.boxes).astype(np.float32)
            examples.append(ProbeExample(_half(features), boxes, detection_example.labels))
        job.report(len(examples), len(samples))
    return examples


def _half(features: ImageFeatures) -> ImageFeatures:
    """Return features in float16, which halves the memory of the training images."""
    return replace(
        features,
        cells=features.cells.astype(np.float16),
        maps=tuple(feature_map.astype(np.float16) for feature_map in features.maps),
    )


def _fit(
    job: QuickTrainingJob,
    examples: Sequence[ProbeExample],
    mapping: ClassMapping,
    *,
    scores_labels: bool,
) -> FittedProbes:
    return fit_probes(
        examples,
        len(mapping.labels),
        scores_labels=scores_labels,
        square_px=square_side_px(mapping),
        seed=job.seed,
    )


def _out_of_fold_samples(
    probes: FittedProbes,
    examples: Sequence[ProbeExample],
    samples: Sequence[RegionSample],
    mapping: ClassMapping,
) -> list[DetectionSample]:
    """Return the detections of each image by the probe that was trained without it."""
    evaluated = []
    for probe, example, sample in zip(probes.out_of_fold, examples, samples, strict=True):
        raw = probe_detections(
            probe, mapping, example.features, sample.aspect_ratio, MIN_DETECTION_CONFIDENCE
        )
        regions, confidence = to_scored_regions(raw, mapping.labels, frozenset(mapping.labels))
        evaluated.append(DetectionSample(regions, confidence, sample.regions, sample.aspect_ratio))
    return evaluated


def _as_boxes(samples: Sequence[DetectionSample], mapping: ClassMapping) -> list[DetectionSample]:
    return [points_to_boxes(s, mapping.sides) for s in samples] if mapping.points else [*samples]


def _figure(samples: Sequence[DetectionSample], mapping: ClassMapping) -> float:
    """Return mAP50, for points with squares around them."""
    metrics = evaluate_detections(
        _as_boxes(samples, mapping), mapping.labels, "boxes", {}, MIN_DETECTION_CONFIDENCE
    )
    return (metrics.map50.value if metrics.map50 else None) or 0.0
