"""The live version and those before it: what each saw, and what it says of what it did not see."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from backend.arrays import Floats
from backend.domain import Control
from backend.errors import PrelabelError
from backend.inference.images import image_sources
from backend.inference.model import load_heads
from backend.learning.contradiction import AnsweredQuestions
from backend.loop.fit import ModelTrainer, choice_examples
from backend.loop.observe import Observation, label_table
from backend.runtime.project_session import ProjectSession
from backend.store.versions import LabelSnapshot, VersionCard
from backend.training.head import ChoiceExamples, target_matrix
from backend.vision.heads.head import Head

log = logging.getLogger("prelabel")
LOOP_ACTOR = "the loop"
"""Who promotes what the gate lets through."""
MAX_ANCESTORS = 40
"""Versions that are looked back at most."""
MIN_HEAD_EXAMPLES = 20
"""Labels that a head learned from at least for its belief to speak against people."""


class PastVersions:
    """Looks back from a snapshot of labels.

    Args:
        session: of the project.
        observation: the snapshot.
        fit: to it; there is a live version.
    """

    def __init__(
        self,
        session: ProjectSession,
        observation: Observation,
        fit: ModelTrainer,
    ) -> None:
        assert fit.live_card is not None  # noqa: S101 - the caller checked
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
        """The live version, the one that was live when it was made, and so on."""
        cards = {card.version: card for card in self._versions.cards()}
        ancestors = [self.live]
        while len(ancestors) < MAX_ANCESTORS:
            parent = cards.get(ancestors[-1].parent or "")
            if parent is None or parent.number >= ancestors[-1].number:
                break
            ancestors.append(parent)
        return ancestors

    @cached_property
    def judged_lineage(self) -> Sequence[VersionCard]:
        """The line, back to the version that a person made live: what it saw has been judged."""
        promoted_manually = {e.version for e in self._versions.history() if e.by != LOOP_ACTOR}
        for index, card in enumerate(self.lineage):
            if card.version in promoted_manually:
                return self.lineage[: index + 1]
        return self.lineage

    def labels(self, card: VersionCard) -> LabelSnapshot:
        """What a version saw."""
        if card.version not in self._labels_by_version:
            self._labels_by_version[card.version] = self._versions.labels(card.version)
        return self._labels_by_version[card.version]

    def head(self, card: VersionCard, control: Control) -> Head | None:
        """A version's head, where it looks through the live one's encoder and is of this kind."""
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
        """Whether the new version sees images as the live one does."""
        live_encoder_id = self.live.encoder.id
        return not live_encoder_id or live_encoder_id == self._session.resources.encoder().id

    def examples(self, control: Control) -> ChoiceExamples | None:
        """The labeled images of a control of choices, as the live version's encoder sees them.

        Returns:
            None where it cannot be had any more; ``unavailable_reason`` says why.
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
                self.unavailable_reason = f"the encoder {name} is not what it was"
                return {}
            embedder = self._session.embedder(encoder)
            embeddings = embedder.embed(
                image_sources(self._observation.labeled, choices), lambda done, total: None
            )
        except PrelabelError as error:
            self.unavailable_reason = f"its encoder {name} cannot be had: {error}"
            return {}
        return {c.name: choice_examples(self._observation, c, embeddings) for c in choices}

    # -- labels that a version did not see -----------------------------------------------------

    def is_new_since(self, card: VersionCard, control: Control, task: int) -> bool:
        """Whether a task was answered after a version, for the first time."""
        return control.name not in self.labels(card).get(str(task), {})

    def is_changed_since(self, card: VersionCard, control: Control, task: int) -> bool:
        """Whether a task's answer came after a version, for the first time or anew."""
        previous_labels = self.labels(card).get(str(task), {}).get(control.name)
        return bool(previous_labels != self._current_labels.get(str(task), {}).get(control.name))

    def label_probabilities(
        self, card: VersionCard, control: Control, rows: Sequence[int]
    ) -> AnsweredQuestions | None:
        """What a version believes of labeled images; None of no image, or learned from too few.

        Args:
            card: the version's.
            control: of choices.
            rows: of :meth:`examples`.
        """
        head, examples = self.head(card, control), self.examples(control)
        if head is None or examples is None or head.examples < MIN_HEAD_EXAMPLES or not len(rows):
            return None
        probabilities = head.probabilities(examples.vectors[list(rows)])
        return align_probabilities(control, head.labels, probabilities, examples, rows)

    def new_rows_since(self, card: VersionCard, control: Control) -> list[int]:
        """Rows of the images that were answered after a version, for the first time.

        And of audit images whose answer changed: no version learned from it.
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
        """Labels that a version saw first, as each version before it believed those of the next.

        Args:
            card: the version's.
            control: of choices.
            max_images: images after which it ends, the latest first.
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
    """Confidences and answers, in the order of the control's labels.

    Args:
        control: of choices.
        labels: (K) of the table's columns.
        probabilities: (rows, K) confidence, 0 to 1.
        examples: whose answers.
        rows: of the examples.
    """
    selected_rows = list(rows)
    column_by_label = {name: k for k, name in enumerate(labels)}
    has_column = [name in column_by_label for name in control.label_names]
    aligned = np.zeros((len(selected_rows), len(has_column)))
    aligned[:, has_column] = np.asarray(probabilities)[
        :, [column_by_label[n] for n in control.label_names if n in column_by_label]
    ]
    selected_examples = ChoiceExamples(
        tuple(examples.task_ids[row] for row in selected_rows),
        examples.vectors[selected_rows],
        tuple(examples.answers[row] for row in selected_rows),
        tuple(examples.available_labels[row] for row in selected_rows),
        examples.audit_mask[selected_rows],
    )
    target_table: Any = target_matrix(control, selected_examples)
    if control.multiple:
        return AnsweredQuestions.from_multi_labels(
            aligned, target_table, selected_examples.task_ids
        )
    sums = aligned.sum(axis=1, keepdims=True)
    is_single_label = (np.asarray(target_table).sum(axis=1) == 1) & (sums[:, 0] > 0)
    normalized = (aligned / np.maximum(sums, 1e-9))[is_single_label]
    return AnsweredQuestions.from_single_labels(
        normalized,
        np.asarray(target_table)[is_single_label].argmax(axis=1),
        np.array(selected_examples.task_ids)[is_single_label],
    )
