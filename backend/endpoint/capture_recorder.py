"""Which invocations are worth labeling: kept on disk, with what was said, for the backend to fetch.

Called by one thread at a time, after the response has gone.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain import ImageSize
from backend.inference.predict_image import prediction_of
from backend.label_studio.task_results import prediction_json
from backend.store.captures import DAY, Capture, Captures

if TYPE_CHECKING:
    from PIL import Image

    from backend.endpoint.functions import Loaded
    from backend.inference.predict_image import Said

log = logging.getLogger("prelabel")
Regions = Callable[[ImageSize], list[dict[str, Any]]]
ALIKE = 4
"""Bits of 64 in which the perceptual hashes of one picture, sent twice, may differ."""
RECENT = 500
"""Invocations that an uncertain one is compared with."""
MOST_UNCERTAIN = 0.25
"""Share of them that may count as uncertain."""
RARE = 0.2
"""Share of the average number of examples below which a label is rare."""
SUFFIXES = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"GIF8": ".gif",
    b"BM": ".bmp",
}
"""By what files of the formats that are read begin with."""


@dataclass(frozen=True)
class Rules:
    """What is kept.

    Attributes:
        below: certainty of the whole answer below which it may be kept, 0 to 1.
        share: of all others, kept at random, 0 to 1.
        per_day: images a day and function.
        days: after which they are removed.
    """

    below: float
    share: float
    per_day: int
    days: float


@dataclass(frozen=True)
class Invocation:
    """An image that was answered.

    Attributes:
        id: of the request, and of the image in it.
        loaded: the version that answered.
        said: what it said.
        content: the image's bytes.
        image: decoded.
        external: the caller's name for it; may be empty.
        at: seconds since 1970.
    """

    id: str
    loaded: Loaded
    said: Said
    content: bytes
    image: Image.Image
    external: str
    at: float


class Capturing:
    """Keeps images of one function.

    Args:
        captures: where.
        rules: which.
        random: generator.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        captures: Captures,
        rules: Rules,
        random: np.random.Generator,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._captures = captures
        self._rules = rules
        self._random = random
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._known: dict[str, Capture] = {}
        self._by_external: dict[str, str] = {}
        for capture in captures.all():
            self._note(capture)

    def asked(self, external: str, id: str, image: Image.Image | None = None) -> None:
        """The caller gave this name to an image; what had it before is not meant by it any more.

        Args:
            external: the caller's name; may be empty.
            id: of the request.
            image: decoded; where it is the picture that had the name before, that one stays meant.

        Raises:
            StoreError: it cannot be written.
        """
        before = self._known.get(self._by_external.get(external, "")) if external else None
        if before is None or before.id == id:
            return
        if image is not None and before.look and _alike(_look(image), before.look):
            return
        del self._by_external[external]
        self._known[before.id] = replace(before, superseded=True)
        self._captures.change(self._known[before.id])

    def consider(self, invocation: Invocation) -> str:
        """Keep an image if it is worth it.

        Returns:
            why it was kept; empty when it was not.

        Raises:
            StoreError: it cannot be written.
        """
        why = self._why(invocation)
        if not why or self._full():
            return ""
        look = _look(invocation.image)
        if self._seen(look):
            return ""
        self.keep(invocation, why, look)
        return why

    def keep(self, invocation: Invocation, why: str, look: str = "") -> Capture:
        """Keep an image, whatever it is like."""
        loaded = invocation.loaded
        self.asked(invocation.external, invocation.id)
        controls = {control.name: control for control in loaded.controls}
        said = prediction_json(prediction_of(invocation.said, loaded.controls), controls, "")
        capture = Capture(
            id=invocation.id,
            at=invocation.at,
            why=why,
            version=loaded.card.version,
            external=invocation.external,
            look=look or _look(invocation.image),
            said={"result": said["result"], "score": said["score"]},
            suffix=_suffix(invocation.content),
            width=invocation.said.size.width,
            height=invocation.said.size.height,
        )
        self._captures.keep(capture, invocation.content)
        self._note(capture)
        return capture

    def correct(self, external: str, regions: Regions) -> bool:
        """Note a person's answer to an image that was kept.

        Args:
            external: the caller's name for it; the image that last had it is meant.
            regions: gives the answer, for the image's size.

        Returns:
            whether that was kept.

        Raises:
            StoreError: it cannot be written.
        """
        capture = self._known.get(self._by_external.get(external, ""))
        if capture is None:
            return False
        size = ImageSize(capture.width, capture.height)
        corrected = replace(capture, annotation=regions(size))
        self._captures.change(corrected)
        self._note(corrected)
        return True

    def forget(self) -> int:
        """Remove what is too old; how many."""
        before = self._clock() - self._rules.days * DAY
        gone = self._captures.forget_before(before)
        self._known = {id: c for id, c in self._known.items() if c.at >= before}
        self._by_external = {e: id for e, id in self._by_external.items() if id in self._known}
        return gone

    def _note(self, capture: Capture) -> None:
        self._known[capture.id] = capture
        if capture.external and not capture.superseded:
            self._by_external[capture.external] = capture.id

    def _why(self, invocation: Invocation) -> str:
        said, rules = invocation.said, self._rules
        unsure = said.uncertainty
        most = float(np.quantile(self._recent, 1 - MOST_UNCERTAIN)) if self._recent else 0.0
        self._recent.append(unsure)
        if self._random.random() < rules.share:  # first, so that it is a fair sample
            return "random"
        if said.certainty < rules.below and unsure >= most:
            return "uncertain"
        examples = invocation.loaded.card.controls
        return "rare" if any(_rare(examples, c, n) for c, n in _given(said)) else ""

    def _full(self) -> bool:
        today = self._clock() - DAY
        return sum(c.at > today for c in self._known.values()) >= self._rules.per_day

    def _seen(self, look: str) -> bool:
        return any(_alike(look, capture.look) for capture in self._known.values() if capture.look)


def _given(said: Said) -> set[tuple[str, str]]:
    """(control, label) of what was answered."""
    best = {(name, next(iter(ranked))) for name, ranked in said.chosen.items() if ranked}
    found = {
        (name, place.label)
        for name, (places, confidence) in said.found.items()
        for place, c in zip(places, confidence, strict=True)
        if c >= said.shown[name]
    }
    return best | found


def _rare(controls: Mapping[str, Any], control: str, label: str) -> bool:
    examples: Counter[str] = Counter(controls.get(control, {}).get("examples") or {})
    usual = examples.total() / max(1, len(examples))
    return examples[label] < RARE * usual


def _alike(one: str, other: str) -> bool:
    """Whether two perceptual hashes are of one picture."""
    return (int(one, 16) ^ int(other, 16)).bit_count() <= ALIKE


def _look(image: Image.Image) -> str:
    """Perceptual hash: 64 bits that stay nearly the same when a picture is saved anew."""
    import imagehash

    return str(imagehash.dhash(image))


def _suffix(content: bytes) -> str:
    """Label Studio shows files by their suffix."""
    found = (suffix for begins, suffix in SUFFIXES.items() if content.startswith(begins))
    return next(found, ".jpg")
