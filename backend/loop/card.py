"""Parts of a version's card: split sizes, durations and package versions."""

from __future__ import annotations

import time
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version

from backend.card_records import SplitSizes
from backend.estimate import format_headline
from backend.loop.observe import Observation
from backend.store.versions import VersionCard

RECORDED_PACKAGES = (
    "prelabel",
    "label-studio-sdk",
    "numpy",
    "open-clip-torch",
    "openvino",
    "torch",
    "ultralytics",
)


def split_sizes(observation: Observation) -> SplitSizes:
    """Count the labeled tasks in the training set and the audit set."""
    audit = sum(observation.is_audit(task) for task in observation.labeled)
    return SplitSizes(train=len(observation.labeled) - audit, audit=audit)


def count_uncertain_labels(observation: Observation, uncertain: Collection[int]) -> int:
    """Count the training labels of tasks that were labeled because the model was uncertain."""
    return sum(
        task.id in uncertain and not observation.is_audit(task) for task in observation.labeled
    )


def version_summary(card: VersionCard) -> str:
    """Return a one-line summary of a version for the log."""
    audit = card.audit
    figure = "F1" if audit.metric == "F1" else "accuracy"
    value = format_headline(audit).removeprefix("F1 ")
    return (
        f"{card.labels.train} labels, {figure} {value} on {audit.n} audit "
        f"image{'' if audit.n == 1 else 's'}, {card.seconds['total']:.1f} s"
    )


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that training depends on."""
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


class Stopwatch:
    """Measures the duration of consecutive steps."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Record the step that just ended."""
        now = time.monotonic()
        self._laps[name] = round(now - self._last, 3)
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each step, and ``total`` up to the last recorded step."""
        return self._laps | {"total": round(self._last - self._start, 3)}
