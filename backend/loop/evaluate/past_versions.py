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
from backend.inference.model import load_heads
from backend.inference.predict import sources
from backend.learning.contradiction import Believed
from backend.loop.fit import Fit
from backend.loop.label_table import examples_of, label_table
from backend.loop.observe import Observation
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord
from backend.store.versions import Card, Labels
from backend.training.head import Examples, targets
from backend.vision.heads.head import Head

log = logging.getLogger("prelabel")
LOOP = "the loop"
"""Who promotes what the gate lets through."""
FURTHEST = 40
"""Versions that are looked back at most."""
LEARNED = 20
"""Labels that a head learned from at least for its belief to speak against people."""


class Past:
    """Looks back from a snapshot of labels.

    Args:
        resources: of this process.
        record: the project.
        seen: the snapshot.
        fit: to it; there is a live version.
    """

    def __init__(
        self, resources: Resources, record: ProjectRecord, seen: Observation, fit: Fit
    ) -> None:
        assert fit.live is not None  # noqa: S101 - there is nothing to look back at
        self.live: Card = fit.live
        self.blind = ""
        self._resources = resources
        self._record = record
        self._versions = resources.versions(record)
        self._seen = seen
        self._fit = fit
        self._now = label_table(seen)
        self._labels: dict[str, Labels] = {}
        self._heads: dict[str, Mapping[str, Head]] = {}
        self._since: dict[tuple[str, str], list[int]] = {}

    @cached_property
    def line(self) -> Sequence[Card]:
        """The live version, the one that was live when it was made, and so on."""
        cards = {card.version: card for card in self._versions.cards()}
        found = [self.live]
        while len(found) < FURTHEST:
            parent = cards.get(found[-1].parent or "")
            if parent is None or parent.number >= found[-1].number:
                break
            found.append(parent)
        return found

    @cached_property
    def unquestioned(self) -> Sequence[Card]:
        """The line, back to the version that a person made live: what it saw has been judged."""
        by_hand = {e["version"] for e in self._versions.history() if e.get("by") != LOOP}
        for place, card in enumerate(self.line):
            if card.version in by_hand:
                return self.line[: place + 1]
        return self.line

    def labels(self, card: Card) -> Labels:
        """What a version saw."""
        if card.version not in self._labels:
            self._labels[card.version] = self._versions.labels(card.version)
        return self._labels[card.version]

    def head(self, card: Card, control: Control) -> Head | None:
        """A version's head, where it looks through the live one's encoder and is of this kind."""
        if card.encoder.get("id") != self.live.encoder.get("id"):
            return None
        if card.version not in self._heads:
            try:
                self._heads[card.version] = load_heads(self._versions.path(card.version))
            except PrelabelError as error:
                log.warning("project %s: %s", self._record.id, error)
                self._heads[card.version] = {}
        head = self._heads[card.version].get(control.name)
        return head if head is not None and head.multiple == control.multiple else None

    @property
    def same_encoder(self) -> bool:
        """Whether the new version sees images as the live one does."""
        known = self.live.encoder.get("id", "")
        return not known or known == self._resources.encoder().id

    def examples(self, control: Control) -> Examples | None:
        """The labeled images of a control of choices, as the live version's encoder sees them.

        Returns:
            None where it cannot be had any more; ``blind`` says why.
        """
        return self._examples.get(control.name)

    @cached_property
    def _examples(self) -> Mapping[str, Examples]:
        choices = [c for c in self._seen.config.controls if c.kind == "choices"]
        if not choices or self.same_encoder:
            return {c.name: self._fit.examples(c) for c in choices}
        name = self.live.encoder.get("name", "")
        try:
            encoder = self._resources.encoder(self.live.encoder.get("setting", ""))
            if encoder.id != self.live.encoder["id"]:
                self.blind = f"the encoder {name} is not what it was"
                return {}
            embedder = self._resources.embedder(self._record, encoder)
            embedded = embedder.embed(sources(self._seen.labeled, choices), lambda done, of: None)
        except PrelabelError as error:
            self.blind = f"its encoder {name} cannot be had: {error}"
            return {}
        return {c.name: examples_of(self._seen, c, embedded) for c in choices}

    # -- labels that a version did not see -----------------------------------------------------

    def came_since(self, card: Card, control: Control, task: int) -> bool:
        """Whether a task was answered after a version, for the first time."""
        return control.name not in self.labels(card).get(str(task), {})

    def changed_since(self, card: Card, control: Control, task: int) -> bool:
        """Whether a task's answer came after a version, for the first time or anew."""
        then = self.labels(card).get(str(task), {}).get(control.name)
        return bool(then != self._now.get(str(task), {}).get(control.name))

    def believed(self, card: Card, control: Control, rows: Sequence[int]) -> Believed | None:
        """What a version believes of labeled images; None of no image, or learned from too few.

        Args:
            card: the version's.
            control: of choices.
            rows: of :meth:`examples`.
        """
        head, examples = self.head(card, control), self.examples(control)
        if head is None or examples is None or head.examples < LEARNED or not len(rows):
            return None
        table = head.probabilities(examples.vectors[list(rows)])
        return believed(control, head.labels, table, examples, rows)

    def since(self, card: Card, control: Control) -> list[int]:
        """Rows of the images that were answered after a version, for the first time.

        And of audit images whose answer changed: no version learned from it.
        """
        key = (card.version, control.name)
        examples = self.examples(control)
        if key not in self._since and examples is not None:
            each = enumerate(zip(examples.tasks, examples.audit.tolist(), strict=True))
            self._since[key] = [
                row
                for row, (task, audit) in each
                if self.came_since(card, control, task)
                or (audit and self.changed_since(card, control, task))
            ]
        return self._since.get(key, [])

    def earlier(self, card: Card, control: Control, most: int) -> Believed | None:
        """Labels that a version saw first, as each version before it believed those of the next.

        Args:
            card: the version's.
            control: of choices.
            most: images after which it ends, the latest first.
        """
        parts: list[Believed] = []
        start = list(self.line).index(card)
        for child, parent in zip(self.line[start:], self.line[start + 1 :], strict=False):
            rows = [
                row
                for row in self.since(parent, control)
                if not self.changed_since(child, control, self._task(control, row))
            ]
            part = self.believed(parent, control, rows) if rows else None
            if part is not None:
                parts.append(part)
            if sum(one.images for one in parts) >= most:
                break
        return Believed.all_of(parts) if parts else None

    def _task(self, control: Control, row: int) -> int:
        examples = self.examples(control)
        return examples.tasks[row] if examples else 0


def believed(
    control: Control, labels: Sequence[str], table: Floats, examples: Examples, rows: Sequence[int]
) -> Believed:
    """Confidences and answers, in the order of the control's labels.

    Args:
        control: of choices.
        labels: (K) of the table's columns.
        table: (rows, K) confidence, 0 to 1.
        examples: whose answers.
        rows: of the examples.
    """
    picked = list(rows)
    place = {name: k for k, name in enumerate(labels)}
    known = [name in place for name in control.label_names]
    belief = np.zeros((len(picked), len(known)))
    belief[:, known] = np.asarray(table)[:, [place[n] for n in control.label_names if n in place]]
    part = Examples(
        tuple(examples.tasks[row] for row in picked),
        examples.vectors[picked],
        tuple(examples.answers[row] for row in picked),
        tuple(examples.asked[row] for row in picked),
        examples.audit[picked],
    )
    given: Any = targets(control, part)
    if control.multiple:
        return Believed.of_several(belief, given, part.tasks)
    sums = belief.sum(axis=1, keepdims=True)
    one = (np.asarray(given).sum(axis=1) == 1) & (sums[:, 0] > 0)
    shares = (belief / np.maximum(sums, 1e-9))[one]
    return Believed.of_one(shares, np.asarray(given)[one].argmax(axis=1), np.array(part.tasks)[one])
