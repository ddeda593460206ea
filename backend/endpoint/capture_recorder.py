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
from backend.inference.predict_image import labels_of, to_task_prediction
from backend.label_studio.task_results import format_prediction
from backend.store.captures import DAY_SECONDS, Capture, CaptureStore

if TYPE_CHECKING:
    from PIL import Image

    from backend.endpoint.functions import LoadedVersion
    from backend.inference.predict_image import ImagePrediction

log = logging.getLogger("prelabel")
RegionFactory = Callable[[ImageSize], list[dict[str, Any]]]
MAX_HASH_DISTANCE = 4
"""Bits of 64 in which the perceptual hashes of one picture, sent twice, may differ."""
UNCERTAINTY_WINDOW_SIZE = 500
"""Invocations that an uncertain one is compared with."""
UNCERTAIN_SHARE = 0.25
"""Share of them that may count as uncertain."""
RARE_LABEL_RATIO = 0.2
"""Share of the average number of examples below which a label is rare."""
SUFFIX_BY_SIGNATURE = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"GIF8": ".gif",
    b"BM": ".bmp",
}
"""By what files of the formats that are read begin with."""


@dataclass(frozen=True)
class CaptureRules:
    """What is kept.

    Attributes:
        confidence_below: certainty of the whole answer below which it may be kept, 0 to 1.
        random_share: of all others, kept at random, 0 to 1.
        daily_limit: images a day and function.
        retention_days: after which they are removed.
    """

    confidence_below: float
    random_share: float
    daily_limit: int
    retention_days: float


@dataclass(frozen=True)
class Invocation:
    """An image that was answered.

    Attributes:
        id: of the request, and of the image in it.
        loaded: the version that answered.
        prediction: what it said.
        content: the image's bytes.
        image: decoded.
        external_id: the caller's name for it; may be empty.
        invoked_at: seconds since 1970.
    """

    id: str
    loaded: LoadedVersion
    prediction: ImagePrediction
    content: bytes
    image: Image.Image
    external_id: str
    invoked_at: float


class CaptureRecorder:
    """Keeps images of one function.

    Args:
        captures: where.
        rules: which.
        generator: generator.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        captures: CaptureStore,
        rules: CaptureRules,
        generator: np.random.Generator,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._captures = captures
        self._rules = rules
        self._random = generator
        self._clock = clock
        self._recent_uncertainties: deque[float] = deque(maxlen=UNCERTAINTY_WINDOW_SIZE)
        self._captures_by_id: dict[str, Capture] = {}
        self._id_by_external: dict[str, str] = {}
        for capture in captures.all():
            self._index(capture)

    def supersede(self, external_id: str, id: str, image: Image.Image | None = None) -> None:
        """The caller gave this name to an image; what had it before is not meant by it any more.

        Args:
            external_id: the caller's name; may be empty.
            id: of the request.
            image: decoded; where it is the picture that had the name before, that one stays meant.

        Raises:
            StoreError: it cannot be written.
        """
        previous = (
            self._captures_by_id.get(self._id_by_external.get(external_id, ""))
            if external_id
            else None
        )
        if previous is None or previous.id == id:
            return
        if (
            image is not None
            and previous.look
            and _is_same_image(_perceptual_hash(image), previous.look)
        ):
            return
        del self._id_by_external[external_id]
        self._captures_by_id[previous.id] = replace(previous, superseded=True)
        self._captures.update(self._captures_by_id[previous.id])

    def consider(self, invocation: Invocation) -> str:
        """Keep an image if it is worth it.

        Returns:
            why it was kept; empty when it was not.

        Raises:
            StoreError: it cannot be written.
        """
        reason = self._capture_reason(invocation)
        if not reason or self._is_full():
            return ""
        image_hash = _perceptual_hash(invocation.image)
        if self._is_duplicate(image_hash):
            return ""
        self.store(invocation, reason, image_hash)
        return reason

    def store(self, invocation: Invocation, reason: str, image_hash: str = "") -> Capture:
        """Keep an image, whatever it is like."""
        loaded = invocation.loaded
        self.supersede(invocation.external_id, invocation.id)
        controls = {control.name: control for control in loaded.controls}
        prediction_row = format_prediction(
            to_task_prediction(invocation.prediction, loaded.controls), controls, ""
        )
        capture = Capture(
            id=invocation.id,
            at=invocation.invoked_at,
            why=reason,
            version=loaded.card.version,
            external=invocation.external_id,
            look=image_hash or _perceptual_hash(invocation.image),
            said={"result": prediction_row["result"], "score": prediction_row["score"]},
            suffix=_image_suffix(invocation.content),
            width=invocation.prediction.size.width,
            height=invocation.prediction.size.height,
        )
        self._captures.add(capture, invocation.content)
        self._index(capture)
        return capture

    def correct(self, external_id: str, regions: RegionFactory) -> bool:
        """Note a person's answer to an image that was kept.

        Args:
            external_id: the caller's name for it; the image that last had it is meant.
            regions: gives the answer, for the image's size.

        Returns:
            whether that was kept.

        Raises:
            StoreError: it cannot be written.
        """
        capture = self._captures_by_id.get(self._id_by_external.get(external_id, ""))
        if capture is None:
            return False
        size = ImageSize(capture.width, capture.height)
        corrected = replace(capture, annotation=regions(size))
        self._captures.update(corrected)
        self._index(corrected)
        return True

    def remove_expired(self) -> int:
        """Remove what is too old; how many."""
        cutoff = self._clock() - self._rules.retention_days * DAY_SECONDS
        removed_count = self._captures.delete_before(cutoff)
        self._captures_by_id = {
            id: kept_capture
            for id, kept_capture in self._captures_by_id.items()
            if kept_capture.at >= cutoff
        }
        self._id_by_external = {
            name_given: id
            for name_given, id in self._id_by_external.items()
            if id in self._captures_by_id
        }
        return removed_count

    def _index(self, capture: Capture) -> None:
        self._captures_by_id[capture.id] = capture
        if capture.external and not capture.superseded:
            self._id_by_external[capture.external] = capture.id

    def _capture_reason(self, invocation: Invocation) -> str:
        prediction, rules = invocation.prediction, self._rules
        uncertainty = prediction.uncertainty
        uncertainty_cutoff = (
            float(np.quantile(self._recent_uncertainties, 1 - UNCERTAIN_SHARE))
            if self._recent_uncertainties
            else 0.0
        )
        self._recent_uncertainties.append(uncertainty)
        if self._random.random() < rules.random_share:  # first, so that it is a fair sample
            return "random"
        if prediction.confidence < rules.confidence_below and uncertainty >= uncertainty_cutoff:
            return "uncertain"
        examples = invocation.loaded.card.controls
        return (
            "rare"
            if any(
                _is_rare(examples, given.control, given.label) for given in labels_of(prediction)
            )
            else ""
        )

    def _is_full(self) -> bool:
        day_start = self._clock() - DAY_SECONDS
        return (
            sum(c.at > day_start for c in self._captures_by_id.values()) >= self._rules.daily_limit
        )

    def _is_duplicate(self, image_hash: str) -> bool:
        return any(
            _is_same_image(image_hash, capture.look)
            for capture in self._captures_by_id.values()
            if capture.look
        )


def _is_rare(controls: Mapping[str, Any], control: str, label: str) -> bool:
    examples: Counter[str] = Counter(controls.get(control, {}).get("examples") or {})
    average_count = examples.total() / max(1, len(examples))
    return examples[label] < RARE_LABEL_RATIO * average_count


def _is_same_image(first_hash: str, second_hash: str) -> bool:
    """Whether two perceptual hashes are of one picture."""
    return (int(first_hash, 16) ^ int(second_hash, 16)).bit_count() <= MAX_HASH_DISTANCE


def _perceptual_hash(image: Image.Image) -> str:
    """Perceptual hash: 64 bits that stay nearly the same when a picture is saved anew."""
    import imagehash

    return str(imagehash.dhash(image))


def _image_suffix(content: bytes) -> str:
    """Label Studio shows files by their suffix."""
    suffixes = (
        suffix for signature, suffix in SUFFIX_BY_SIGNATURE.items() if content.startswith(signature)
    )
    return next(suffixes, ".jpg")
