"""Prometheus metrics of the endpoint, and the drift of its requests from the audit set."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import prometheus_client

from backend.inference.predict_image import labels_of
from backend.learning.drift import (
    MIN_DRIFT_ANSWERS,
    MIN_OUTLIER_SHARE,
    MIN_SHIFT_INDEX,
    is_outlier,
    outlier_distance,
    population_stability_index,
)
from backend.store.drift_reference import DriftReference

if TYPE_CHECKING:
    from backend.inference.predict_image import ImagePrediction

log = logging.getLogger("prelabel")
DRIFT_WINDOW_SIZE = 1000
"""Number of recent predictions that drift is computed from."""
LATENCY_BUCKETS_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
CONFIDENCE_BUCKETS = tuple(i / 10 for i in range(1, 11))
UNKNOWN_FUNCTION = "unknown"
"""Label value for ids of unknown functions: Prometheus would keep each of them forever."""


@dataclass(frozen=True)
class DriftFigures:
    """How recent predictions differ from the audit set.

    Attributes:
        n: predictions compared.
        labels: population stability index of the labels, the largest of all controls; None while
            there are too few predictions.
        images: share of images that are outliers of the audit set (0.05 in the audit set itself, by
            definition); None while there are too few predictions.
        warnings: one sentence for each figure that is too high.
    """

    n: int
    labels: float | None
    images: float | None
    warnings: tuple[str, ...] = ()


class EndpointMetrics:
    """The metrics of one endpoint."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        counter = partial(prometheus_client.Counter, registry=self._registry)
        histogram = partial(prometheus_client.Histogram, registry=self._registry)
        self._requests = counter("prelabel_requests", "Requests", ["function", "status"])
        self._seconds = histogram(
            "prelabel_request_seconds",
            "Duration of successful requests in seconds",
            ["function"],
            buckets=LATENCY_BUCKETS_SECONDS,
        )
        self._labels = counter("prelabel_labels", "Predicted labels", ["function", "label"])
        self._confidence = histogram(
            "prelabel_confidence",
            "Confidence of the whole prediction",
            ["function"],
            buckets=CONFIDENCE_BUCKETS,
        )
        self._captured = counter("prelabel_captured", "Captured images", ["function", "why"])
        self._alerts = counter("prelabel_alerts", "Alerts by outcome", ["rule", "outcome"])
        self._dropped = counter(
            "prelabel_not_considered", "Predictions neither captured nor checked for alerts"
        )
        self._drift = prometheus_client.Gauge(
            "prelabel_drift",
            "Drift from the audit set",
            ["function", "of"],
            registry=self._registry,
        )

    def count_request(self, function: str, status: int, seconds: float) -> None:
        """Count a request and its duration."""
        self._requests.labels(function, str(status)).inc()
        if status < 400:
            self._seconds.labels(function).observe(seconds)

    def count_prediction(self, function: str, prediction: ImagePrediction) -> None:
        """Count the labels and the confidence of a prediction."""
        self._confidence.labels(function).observe(prediction.confidence)
        for label, count in count_labels(prediction).items():
            self._labels.labels(function, label).inc(count)

    def count_capture(self, function: str, reason: str) -> None:
        """Count a captured image."""
        self._captured.labels(function, reason).inc()

    def count_alert(self, rule: str, outcome: str) -> None:
        """Count an attempt to send an alert."""
        self._alerts.labels(rule, outcome).inc()

    def count_dropped(self) -> None:
        """Count a prediction that was dropped because too many were waiting."""
        self._dropped.inc()

    def set_drift(self, function: str, figures: DriftFigures) -> None:
        """Set the drift gauges of a function; remove those without a figure."""
        for measure, value in (("labels", figures.labels), ("images", figures.images)):
            if value is None:
                self._drift.remove(function, measure)  # a previous version's figure
            else:
                self._drift.labels(function, measure).set(value)

    def render_text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)


class DriftMonitor:
    """Compare the recent predictions of one version with its audit set.

    Args:
        function: id of the function, for log messages.
        reference: labels and embeddings of the audit set.
    """

    def __init__(self, function: str, reference: DriftReference) -> None:
        self._function = function
        self._reference = reference
        vectors = reference.vectors
        self._typical_distance = outlier_distance(vectors) if len(vectors) > 1 else 0.0
        self._label_mixes: deque[dict[tuple[str, str], int]] = deque(maxlen=DRIFT_WINDOW_SIZE)
        self._outlier_flags: deque[bool] = deque(maxlen=DRIFT_WINDOW_SIZE)
        self._warned_kinds: set[str] = set()

    def add_prediction(self, prediction: ImagePrediction) -> None:
        """Add a prediction to the window of recent ones."""
        self._label_mixes.append(Counter((p.control, p.label) for p in labels_of(prediction)))
        if prediction.embedding is not None and len(self._reference.vectors) > 1:
            self._outlier_flags.append(
                is_outlier(prediction.embedding, self._reference.vectors, self._typical_distance)
            )

    def drift_figures(self) -> DriftFigures:
        """Return the current figures; log each new warning."""
        labels, images = self._label_shift(), None
        if len(self._outlier_flags) >= MIN_DRIFT_ANSWERS:
            images = round(float(np.mean(self._outlier_flags)), 4)
        warnings = {}
        if labels is not None and labels > MIN_SHIFT_INDEX:
            warnings["labels"] = (
                "The label distribution differs from the audit set (population stability index "
                f"{labels:.2f}, above {MIN_SHIFT_INDEX}): label some of the captured images."
            )
        if images is not None and images > MIN_OUTLIER_SHARE:
            warnings["images"] = (
                f"{images:.0%} of the images are unlike the audit set (5% is usual): label some of "
                "the captured images."
            )
        self._log_new_warnings(warnings)
        return DriftFigures(len(self._label_mixes), labels, images, tuple(warnings.values()))

    def _label_shift(self) -> float | None:
        if len(self._label_mixes) < MIN_DRIFT_ANSWERS:
            return None
        recent_counts: dict[str, Counter[str]] = {}
        for mix in self._label_mixes:
            for (control, label), count in mix.items():
                recent_counts.setdefault(control, Counter())[label] += count
        shifts = [
            population_stability_index(before, recent_counts.get(control, {}))
            for control, before in self._reference.label_counts.items()
            if sum(before.values()) >= MIN_DRIFT_ANSWERS / 5
        ]
        return round(max(shifts), 4) if shifts else None

    def _log_new_warnings(self, warnings: Mapping[str, str]) -> None:
        for kind in warnings.keys() - self._warned_kinds:
            log.warning("Function %s: %s", self._function, warnings[kind])
        self._warned_kinds = set(warnings)


def count_labels(prediction: ImagePrediction) -> Counter[str]:
    """Return the number of regions or choices of a prediction by label."""
    return Counter(predicted.label for predicted in labels_of(prediction))
