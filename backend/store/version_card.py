"""The record of a version: what it was trained on, its figures, and the quality gate's decision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from backend.card_records import (
    NO_MODEL_KIND,
    AutoAcceptSection,
    ComputeCost,
    ControlCard,
    ModelSource,
    Outlook,
    Promotion,
    SplitSizes,
)
from backend.estimate import IntervalEstimate
from backend.json_records import json_field
from backend.records import ProjectStatus

Stage = Literal["quick", "full"]
"""A quick version has detectors that only learned their last layer, see
:mod:`backend.training.quick_detector`; the full training follows."""
LabelSnapshot = Mapping[str, Mapping[str, list[Any]]]
"""Task → control → sorted label names, or sorted rows ``[label, x0, y0, x1, y1]``."""


@dataclass(frozen=True)
class VersionCard:
    """The record of a version, stored as ``card.json``.

    Attributes:
        version: name of the version, ``v<number>-<first 8 digits of the identity>``.
        identity: hash of the labels, controls, encoder, settings and seed it was trained with.
        number: sequential number, starting at 0.
        parent: the version that was live at the time, with which it was compared.
        created: UTC, ISO 8601.
        labels: number of labeled tasks in the training and the audit set.
        audit: accuracy or F1 on the audit set.
        controls: control name → its section.
        encoder: empty without a choices control.
        seconds: duration by step, and ``total``.
        seed: random seed.
        packages: package → version it was trained with.
        promotion: the quality gate's decision; None on old cards.
        detector: the base detector; empty without a box or point control.
        estimate: accuracy by cross-validation while the audit set is small.
        outlook: forecast of the accuracy with more labels.
        accepting: auto-accept threshold; None if auto-accept is off.
        compute: where it was trained, and the cost.
        uncertain_labels: number of training labels of images that came next in the queue because
            the model was uncertain about them.
        stage: whether its detectors were trained quickly or in full.
    """

    version: str
    identity: str
    number: int
    parent: str | None
    created: str
    labels: SplitSizes
    audit: IntervalEstimate
    controls: Mapping[str, ControlCard]
    encoder: ModelSource
    seconds: Mapping[str, float]
    seed: int
    packages: Mapping[str, str] = field(default_factory=dict)
    promotion: Promotion | None = json_field(None, none_as_empty=True)
    detector: ModelSource = ModelSource()
    estimate: IntervalEstimate | None = json_field(None, none_as_empty=True)
    outlook: Outlook | None = json_field(None, none_as_empty=True)
    accepting: AutoAcceptSection | None = json_field(None, none_as_empty=True)
    compute: ComputeCost | None = json_field(None, none_as_empty=True)
    uncertain_labels: int = json_field(0, optional=True)
    stage: Stage = json_field("full", optional=True)

    def control(self, name: str) -> ControlCard:
        """Return the section of a control; it is empty if the version has none."""
        return self.controls.get(name, ControlCard())

    def update_status(self, status: ProjectStatus) -> ProjectStatus:
        """Return a project's status with the metrics of this version."""
        return replace(
            status,
            version=self.version,
            audit=self.audit,
            estimate=self.estimate,
            outlook=self.displayed_outlook,
        )

    @property
    def has_model(self) -> bool:
        """Whether it predicts the labels of any control; the first version may only rank images."""
        return any(control.kind != NO_MODEL_KIND for control in self.controls.values())

    @property
    def is_quick(self) -> bool:
        """Whether the full training of its detectors follows."""
        return self.stage == "quick"

    @property
    def displayed_outlook(self) -> Outlook | None:
        """The forecast; None if it is about another figure than the one that is displayed.

        Early releases forecast the cross-validated accuracy although the audit set was measured.
        """
        is_displayed = self.outlook and self.outlook.is_audited == self.audit.is_conclusive
        return self.outlook if is_displayed else None

    @property
    def has_hard_labels(self) -> bool:
        """Whether at least half of the training labels are of images chosen as uncertain."""
        return 0 < self.labels.train <= 2 * self.uncertain_labels

    @property
    def is_promoted(self) -> bool:
        """Whether it passed the quality gate; False on old cards."""
        return self.promotion is not None and self.promotion.promoted

    @property
    def is_held(self) -> bool:
        """Whether the quality gate held it back; False on old cards."""
        return self.promotion is not None and not self.promotion.promoted

    def check_figures(self) -> None:
        """Check the figures of all controls, whose JSON is not typed.

        Raises:
            TypeError: one has the wrong shape.
        """
        for control in self.controls.values():
            control.check_figures()

    @property
    def promotion_reason(self) -> str:
        """Why it was promoted or not; empty on old cards."""
        return self.promotion.reason if self.promotion else ""


def content_hash(value: Any) -> str:
    """Return a reproducible SHA-256 hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
