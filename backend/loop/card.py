"""What is told of a round and its version: counts, reasons, seconds, package versions."""

from __future__ import annotations

import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from backend.domain import Control
from backend.loop.observe import Observation
from backend.store.versions import VersionCard

TAG_BY_KIND = {"choices": "Choices", "boxes": "RectangleLabels", "points": "KeyPointLabels"}
RECORDED_PACKAGES = (
    "prelabel",
    "label-studio-sdk",
    "numpy",
    "open-clip-torch",
    "openvino",
    "torch",
    "ultralytics",
)


def split_sizes(observation: Observation) -> dict[str, int]:
    """How many labeled tasks train and how many judge."""
    audit = sum(observation.is_audit(task) for task in observation.labeled)
    return {"train": len(observation.labeled) - audit, "audit": audit}


def version_summary(card: VersionCard) -> str:
    """A version in a few words, for the log."""
    audit = card.audit
    figure = f"{audit['value']:.0%}" if audit["value"] is not None else "not known yet"
    return (
        f"{card.labels['train']} labels, {audit['metric']} {figure} on {audit['n']} audit images, "
        f"{card.seconds['total']:.1f} s"
    )


def control_summary(control: Control, card: VersionCard) -> dict[str, Any]:
    """A control as ``/api/projects`` shows it."""
    details = dict(card.controls.get(control.name, {"kind": "none yet"}))
    details.pop("made_from", None)
    return {
        "name": control.name,
        "to_name": control.to_name,
        "type": TAG_BY_KIND[control.kind],
        **({"choice": "multiple" if control.multiple else "single"} if is_choices(control) else {}),
        "labels": list(control.label_names),
        **({} if is_choices(control) else {"smart": control.smart}),
        **details,
    }


def is_choices(control: Control) -> bool:
    """Whether a control is answered for the whole image."""
    return control.is_choices


def package_versions() -> dict[str, str]:
    """Versions of what makes a version."""
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


class Stopwatch:
    """Seconds by step."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The step that just ended."""
        now = time.monotonic()
        self._laps[name] = round(now - self._last, 3)
        self._last = now

    def seconds(self) -> dict[str, float]:
        """By step, and the total up to the last step that ended."""
        return self._laps | {"total": round(self._last - self._start, 3)}
