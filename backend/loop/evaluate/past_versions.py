"""The live version and its ancestors: their labels, and predictions for labels added later."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from backend.arrays import Floats
from backend.domain import Control
from backend.errors import DamagedFileError, PrelabelError
from backend.inference.images import image_sources
from backend.inference.model import load_heads
from backend.learning.contradiction import AnsweredQuestions
from backend.loop.model_trainer import ModelTrainer, choice_examples
from backend.loop.observe import Observation, label_table
from backend.runtime.project_session import ProjectSession
from backend.store.versions import LabelSnapshot, VersionCard
from backend.training.head import ChoiceExamples, target_matrix
from backend.vision.heads.head import Head

log = logging.getLogger("prelabel")
LOOP_ACTOR = "the loop"
"""``by`` of automatic promotions after the quality gate passed."""
MAX_ANCESTORS = 40
"""Maximum length of the lineage."""
MIN_HEAD_EXAMPLES = 20
"""Minimum number of training labels of a head whose predictions are compared with people's."""


class PastVersions:
    """The live version and its ancestors, compared with the current labels.

    Args:
        session: the project's session.
        observation: the current tasks and labels.
        fit: trainer of the new version; there is a live version.

    Attributes:
        live: card of the live version.
        unavailable_reason: why the encoder of the live version is unavailable.
    """

    def __init__(
        self,
        session: ProjectSession,
        observation: Observation,
        fit: ModelTrainer,
    ) -> None:
        assert fit.live_card is not None  # noqa: S101
        self.live: VersionCard = fit.live_card
        self.unavailable_reason = ""
        self._session = session
        self._versions = session.versions
        self._observation = observation
        self._fit = fit
        self._current_labels = label_table(observation)
        self._labels_by_version: dict[str, LabelSnapshot] = {}
        self._heads_by_version: dict[str, Mapping[str, Head]] = {}
        self._new_rows: dict[tuple[str, str], list[int]] = {}

    @cached_property
    def lineage(self) -> Sequence[VersionCard]:
        """The live version, its parent, and so on."""
        cards = {card.version: card for card in self._versions.cards()}
        ancestors = [self.live]
        while len(ancestors) < MAX_ANCESTORS:
            parent = cards.get(ancestors[-1].parent or "")
            if parent is None or parent.number >= ancestors[-1].number:
                break
            try:
                self.labels(parent)
            except DamagedFileError as error:
                log.warning("project %s: %s", self._session.id, error)
                break
            ancestors.append(parent)
        return ancestors

    @cached_property
    def judged_lineage(self) -> Sequence[VersionCard]:
        """The lineage back to the last version that a person promoted.

        Manual promotion confirms the labels that the version was trained on.
        """
        promoted_manually = {e.version for e in self._versions.history() if e.by != LOOP_ACTOR}
        for index, card in enumerate(self.lineage):
            if card.version in promoted_manually:
                return self.lineage[: index + 1]
        return self.lineage

    def labels(self, card: VersionCard) -> LabelSnapshot:
        """Return the labels that a version was trained on."""
        if card.version not in self._labels_by_version:
            self._labels_by_version[card.version] = self._versions.labels(card.version)
        return self._labels_by_version[card.version]

    def head(self, card: VersionCard, control: Control) -> Head | None:
        """Return a version's head; None if its encoder or the type of the control differs."""
        if card.encoder.id != self.live.encoder.id:
            return None
        if card.version not in self._heads_by_version:
            try:
                self._heads_by_version[card.version] = load_heads(self._versions.path(card.version))
            except PrelabelError as error:
                log.warning("project %s: %s", self._session.id, error)
                self._heads_by_version[card.version] = {}
        head = self._heads_by_version[card.version].get(control.name)
        return head if head is not None and head.multiple == control.multiple else None

    @property
    def has_same_encoder(self) -> bool:
        """Whether the new version uses the live version's encoder."""
        live_encoder_id = self.live.encoder.id
        return not live_encoder_id or live_encoder_id == self._session.resources.encoder().id

    def examples(self, control: Control) -> ChoiceExamples | None:
        """Return the labeled images of a control, embedded by the live version's encoder.

        Returns:
            None if that encoder is unavailable; see ``unavailable_reason``.
        """
        return self._examples.get(control.name)

    @cached_property
    def _examples(self) -> Mapping[str, ChoiceExamples]:
        choices = [c for c in self._observation.config.controls if c.is_choices]
        if not choices or self.has_same_encoder:
            return {c.name: self._fit.examples(c) for c in choices}
        name = self.live.encoder.name
        try:
            encoder = self._session.resources.encoder(self.live.encoder.setting)
            if encoder.id != self.live.encoder.id:
                self.unavailable_reason = f"the weights of its encoder {name} have changed"
                return {}
            embedder = self._session.embedder(encoder)
            embeddings = embedder.embed(image_sources(self._observation.labeled, choices))
        except PrelabelError as error:
            self.unavailable_reason = f"its encoder {name} is unavailable: {error}"
            return {}
        return {c.name: choice_examples(self._observation, c, embeddings) for c in choices}

    # -- labels added after a version ---------------------------------------------------------

    def is_new_since(self, card: VersionCard, control: Control, task: int) -> bool:
        """Return whether a task got its first label after a version was trained."""
        return control.name not in self.labels(card).get(str(task), {})

    def is_changed_since(self, card: VersionCard, control: Control, task: int) -> bool:
        """Return whether a task's label was added or changed after a version was trained."""
        previous_labels = self.labels(card).get(str(task), {}).get(control.name)
        return bool(previous_labels != self._current_labels.get(str(task), {}).get(control.name))

    def label_probabilities(
        self, card: VersionCard, control: Control, rows: Sequence[int]
    ) -> AnsweredQuestions | None:
        """Return a version's probabilities for labeled images.

        Args:
            card: card of the version.
            control: a choices control.
            rows: row indices of `examples`.

        Returns:
            None without rows, or if the head was trained on too few labels.
        """
        head, examples = self.head(card, control), self.examples(control)
        if head is None or examples is None or head.examples < MIN_HEAD_EXAMPLES or not len(rows):
            return None
        probabilities = head.probabilities(examples.vectors[list(rows)])
        return align_probabilities(control, head.labels, probabilities, examples, rows)

    def new_rows_since(self, card: VersionCard, control: Control) -> list[int]:
        """Return the rows of images that were first labeled after a version was trained.

        Audit images with a changed label are included, because no version is trained on them.
        """
        key = (card.version, control.name)
        examples = self.examples(control)
        if key not in self._new_rows and examples is not None:
            numbered_tasks = enumerate(
                zip(examples.task_ids, examples.audit_mask.tolist(), strict=True)
            )
            self._new_rows[key] = [
                row
                for row, (task, audit) in numbered_tasks
                if self.is_new_since(card, control, task)
                or (audit and self.is_changed_since(card, control, task))
            ]
        return self._new_rows.get(key, [])

    def earlier_probabilities(
        self, card: VersionCard, control: Control, max_images: int
    ) -> AnsweredQuestions | None:
        """Return each ancestor's probabilities for the labels that its successor added.

        Args:
            card: card of the version to start from.
            control: a choices control.
            max_images: number of images after which to stop, latest first.
        """
        parts: list[AnsweredQuestions] = []
        start = list(self.lineage).index(card)
        for child, parent in zip(self.lineage[start:], self.lineage[start + 1 :], strict=False):
            rows = [
                row
                for row in self.new_rows_since(parent, control)
                if not self.is_changed_since(child, control, self._task_of_row(control, row))
            ]
            part = self.label_probabilities(parent, control, rows) if rows else None
            if part is not None:
                parts.append(part)
            if sum(window.images for window in parts) >= max_images:
                break
        return AnsweredQuestions.concatenate(parts) if parts else None

    def _task_of_row(self, control: Control, row: int) -> int:
        examples = self.examples(control)
        return examples.task_ids[row] if examples else 0


def align_probabilities(
    control: Control,
    labels: Sequence[str],
    probabilities: Floats,
    examples: ChoiceExamples,
    rows: Sequence[int],
) -> AnsweredQuestions:
    """Align probabilities with the current labels of a control, and pair them with the answers.

    Args:
        control: a choices control.
        labels: (K) label names of the columns.
        probabilities: (rows, K), 0 to 1.
        examples: labeled images.
        rows: row indices of the examples.
    """
    selected_rows = list(rows)
    column_by_label = {name: k for k, name in enumerate(labels)}
    has_column = [name in column_by_label for name in control.label_names]
    aligned = np.zeros((len(selected_rows), len(has_column)))
    aligned[:, has_column] = np.asarray(probabilities)[
        :, [column_by_label[n] for n in control.label_names if n in column_by_label]
    ]
    selected_examples = examples.take(selected_rows)
    targets = target_matrix(control, selected_examples)
    if control.multiple:
        return AnsweredQuestions.from_multi_labels(aligned, targets, selected_examples.task_ids)
    sums = aligned.sum(axis=1, keepdims=True)
    is_single_label = (targets.sum(axis=1) == 1) & (sums[:, 0] > 0)
    normalized = (aligned / np.maximum(sums, 1e-9))[is_single_label]
    return AnsweredQuestions.from_single_labels(
        normalized,
        targets[is_single_label].argmax(axis=1),
        np.array(selected_examples.task_ids)[is_single_label],
    )
