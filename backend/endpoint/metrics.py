"""What is counted, as Prometheus reads it; and whether production drifts away."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

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
"""Answers that drift is told from."""
LATENCY_BUCKETS_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
CONFIDENCE_BUCKETS = tuple(i / 10 for i in range(1, 11))
UNKNOWN_FUNCTION = "unknown"
"""Instead of function names that callers make up: each would be kept for ever."""


class EndpointMetrics:
    """The counters of one endpoint."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "prelabel_requests", "Requests", ["function", "status"], registry=registry
        )
        self._seconds = Histogram(
            "prelabel_request_seconds",
            "Seconds of answered requests",
            ["function"],
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=registry,
        )
        self._labels = Counter(
            "prelabel_labels",
            "Answers by label",
            ["function", "label"],
            registry=registry,
        )
        self._confidence = Histogram(
            "prelabel_confidence",
            "Confidence of the whole answer",
            ["function"],
            buckets=CONFIDENCE_BUCKETS,
            registry=registry,
        )
        self._captured = Counter(
            "prelabel_captured",
            "Images kept to be labeled",
            ["function", "why"],
            registry=registry,
        )
        self._alerts = Counter(
            "prelabel_alerts",
            "Alerts by outcome",
            ["rule", "outcome"],
            registry=registry,
        )
        self._dropped = Counter(
            "prelabel_not_considered",
            "Answers not considered: too busy",
            registry=registry,
        )
        self._drift = Gauge(
            "prelabel_drift",
            "Drift against the audit slice",
            ["function", "of"],
            registry=registry,
        )

    def count_request(self, function: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(function, str(status)).inc()
        if status < 400:
            self._seconds.labels(function).observe(seconds)

    def count_prediction(self, function: str, prediction: ImagePrediction) -> None:
        """What was said of an image."""
        self._confidence.labels(function).observe(prediction.confidence)
        for label, count in count_labels(prediction).items():
            self._labels.labels(function, label).inc(count)

    def count_capture(self, function: str, reason: str) -> None:
        """An image was kept."""
        self._captured.labels(function, reason).inc()

    def count_alert(self, rule: str, outcome: str) -> None:
        """What became of an alert."""
        self._alerts.labels(rule, outcome).inc()

    def count_dropped(self) -> None:
        """An answer was neither kept nor looked at for alerts."""
        self._dropped.inc()

    def set_drift(self, function: str, figures: dict[str, Any]) -> None:
        """How far production is from the audit slice."""
        for measure in ("labels", "images"):
            if figures.get(measure) is None:
                self._drift.remove(function, measure)  # of another version, or another time
            else:
                self._drift.labels(function, measure).set(figures[measure])

    def render_text(self) -> bytes:
        """As Prometheus reads it."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)


class DriftMonitor:
    """Compares the latest answers of one version with its audit slice.

    Args:
        function: for the log.
        reference: the audit slice.
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
        """One more answer."""
        self._label_mixes.append(
            Counter((given.control, given.label) for given in labels_of(prediction))
        )
        if prediction.embedding is not None and len(self._reference.vectors) > 1:
            self._outlier_flags.append(
                is_outlier(prediction.embedding, self._reference.vectors, self._typical_distance)
            )

    def drift_figures(self) -> dict[str, Any]:
        """How far production is away, as plain JSON.

        Returns:
            ``labels``: the population stability index of the label mix, the largest of all
            controls; ``images``: the share of images unlike the audit slice, 0.05 by definition;
            each None while too few are known; ``n``, and ``warnings``, a sentence each.
        """
        labels, images = self._label_shift(), None
        if len(self._outlier_flags) >= MIN_DRIFT_ANSWERS:
            images = round(float(np.mean(self._outlier_flags)), 4)
        warnings = {}
        if labels is not None and labels > MIN_SHIFT_INDEX:
            warnings["labels"] = (
                f"The mix of labels is another one than in the audit slice (stability index "
                f"{labels:.2f}, above {MIN_SHIFT_INDEX}): label some of the captured images."
            )
        if images is not None and images > MIN_OUTLIER_SHARE:
            warnings["images"] = (
                f"{images:.0%} of the images look unlike the audit slice (5% would be usual): "
                "label some of the captured images."
            )
        self._warn(warnings)
        messages = list(warnings.values())
        return {
            "n": len(self._label_mixes),
            "labels": labels,
            "images": images,
            "warnings": messages,
        }

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

    def _warn(self, warnings: Mapping[str, str]) -> None:
        """Tell the log once of each kind, and again when it comes back."""
        for kind in warnings.keys() - self._warned_kinds:
            log.warning("function %s: %s", self._function, warnings[kind])
        self._warned_kinds = set(warnings)


def count_labels(prediction: ImagePrediction) -> Counter[str]:
    """How often each label was given."""
    return Counter(given.label for given in labels_of(prediction))
