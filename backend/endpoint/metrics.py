"""What is counted, as Prometheus reads it; and whether production drifts away."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.learning.drift import FEWEST, SHIFTED, UNLIKE, label_shift, unlike, usual_distance
from backend.store.drift_reference import Reference

if TYPE_CHECKING:
    from backend.inference.predict_image import Said

log = logging.getLogger("prelabel")
RECENT = 1000
"""Answers that drift is told from."""
SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
TENTHS = tuple(i / 10 for i in range(1, 11))
UNKNOWN = "unknown"
"""Instead of function names that callers make up: each would be kept for ever."""


class Metrics:
    """The counters of one endpoint."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._all = registry = CollectorRegistry()
        self._requests = Counter(
            "prelabel_requests", "Requests", ["function", "status"], registry=registry
        )
        self._seconds = Histogram(
            "prelabel_request_seconds",
            "Seconds of answered requests",
            ["function"],
            buckets=SECONDS,
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
            buckets=TENTHS,
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
        self._lost = Counter(
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

    def request(self, function: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(function, str(status)).inc()
        if status < 400:
            self._seconds.labels(function).observe(seconds)

    def said(self, function: str, said: Said) -> None:
        """What was said of an image."""
        self._confidence.labels(function).observe(said.certainty)
        for label, count in given(said).items():
            self._labels.labels(function, label).inc(count)

    def captured(self, function: str, why: str) -> None:
        """An image was kept."""
        self._captured.labels(function, why).inc()

    def alert(self, rule: str, outcome: str) -> None:
        """What became of an alert."""
        self._alerts.labels(rule, outcome).inc()

    def lost(self) -> None:
        """An answer was neither kept nor looked at for alerts."""
        self._lost.inc()

    def drift(self, function: str, figures: dict[str, Any]) -> None:
        """How far production is from the audit slice."""
        for of in ("labels", "images"):
            if figures.get(of) is None:
                self._drift.remove(function, of)  # of another version, or another time
            else:
                self._drift.labels(function, of).set(figures[of])

    def text(self) -> bytes:
        """As Prometheus reads it."""
        from prometheus_client import generate_latest

        return generate_latest(self._all)


class Drift:
    """Compares the latest answers of one version with its audit slice.

    Args:
        function: for the log.
        reference: the audit slice.
    """

    def __init__(self, function: str, reference: Reference) -> None:
        self._function = function
        self._reference = reference
        vectors = reference.vectors
        self._usual = usual_distance(vectors) if len(vectors) > 1 else 0.0
        self._mixes: deque[dict[tuple[str, str], int]] = deque(maxlen=RECENT)
        self._unlike: deque[bool] = deque(maxlen=RECENT)
        self._warned: set[str] = set()

    def add(self, said: Said) -> None:
        """One more answer."""
        self._mixes.append(given_by_control(said))
        if said.vector is not None and len(self._reference.vectors) > 1:
            self._unlike.append(unlike(said.vector, self._reference.vectors, self._usual))

    def figures(self) -> dict[str, Any]:
        """How far production is away, as plain JSON.

        Returns:
            ``labels``: the population stability index of the label mix, the largest of all
            controls; ``images``: the share of images unlike the audit slice, 0.05 by definition;
            each None while too few are known; ``n``, and ``warnings``, a sentence each.
        """
        labels, images = self._label_shift(), None
        if len(self._unlike) >= FEWEST:
            images = round(float(np.mean(self._unlike)), 4)
        warnings = {}
        if labels is not None and labels > SHIFTED:
            warnings["labels"] = (
                f"The mix of labels is another one than in the audit slice (stability index "
                f"{labels:.2f}, above {SHIFTED}): label some of the captured images."
            )
        if images is not None and images > UNLIKE:
            warnings["images"] = (
                f"{images:.0%} of the images look unlike the audit slice (5% would be usual): "
                "label some of the captured images."
            )
        self._warn(warnings)
        told = list(warnings.values())
        return {"n": len(self._mixes), "labels": labels, "images": images, "warnings": told}

    def _label_shift(self) -> float | None:
        if len(self._mixes) < FEWEST:
            return None
        now: dict[str, Counter[str]] = {}
        for mix in self._mixes:
            for (control, label), count in mix.items():
                now.setdefault(control, Counter())[label] += count
        shifts = [
            label_shift(before, now.get(control, {}))
            for control, before in self._reference.mix.items()
            if sum(before.values()) >= FEWEST / 5
        ]
        return round(max(shifts), 4) if shifts else None

    def _warn(self, warnings: Mapping[str, str]) -> None:
        """Tell the log once of each kind, and again when it comes back."""
        for kind in warnings.keys() - self._warned:
            log.warning("function %s: %s", self._function, warnings[kind])
        self._warned = set(warnings)


def given_by_control(said: Said) -> dict[tuple[str, str], int]:
    """How often each label of each control was given."""
    found: Counter[tuple[str, str]] = Counter()
    for name, ranked in said.chosen.items():
        found.update((name, label) for label in list(ranked)[:1])
    for name, (places, confidence) in said.found.items():
        pairs = zip(places, confidence, strict=True)
        found.update((name, place.label) for place, c in pairs if c >= said.shown[name])
    return dict(found)


def given(said: Said) -> Counter[str]:
    """How often each label was given."""
    found: Counter[str] = Counter()
    for (_, label), count in given_by_control(said).items():
        found[label] += count
    return found
