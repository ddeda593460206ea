"""Select images of a function that are worth labeling, and store them with their predictions.

The backend imports them into Label Studio. Not thread-safe.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from backend.domain import ImageSize
from backend.endpoint.schemas import HttpJsonObject
from backend.inference.predict_image import labels_of, to_task_prediction
from backend.label_studio.task_results import format_prediction
from backend.store.captures import DAY_SECONDS, Capture, CaptureStore
from backend.vision.images.display import make_displayable

if TYPE_CHECKING:
    from PIL import Image

    from backend.endpoint.functions import LoadedVersion
    from backend.inference.predict_image import ImagePrediction

log = logging.getLogger("prelabel")
RegionFactory = Callable[[ImageSize], list[HttpJsonObject]]
"""Returns the regions of a correction for the size of the image."""
MAX_HASH_DISTANCE = 4
"""Maximum Hamming distance of the 64-bit perceptual hashes of duplicates."""
UNCERTAINTY_WINDOW_SIZE = 500
"""Number of recent images from which the uncertainty cutoff is computed."""
UNCERTAIN_SHARE = 0.25
"""Share of recent images above the uncertainty cutoff."""
RARE_LABEL_RATIO = 0.2
"""A label is rare below this share of the average number of training examples per label."""


@dataclass(frozen=True)
class CaptureRules:
    """Which images to capture.

    Attributes:
        confidence_below: confidence below which an image may be uncertain, 0 to 1.
        random_share: share of images to capture at random, 0 to 1.
        daily_limit: maximum number of captures per function in 24 hours.
        retention_days: age at which captures are removed.
    """

    confidence_below: float
    random_share: float
    daily_limit: int
    retention_days: float


@dataclass(frozen=True)
class Invocation:
    """An image and its prediction.

    Attributes:
        id: id of the request; in a batch followed by the number of the image.
        loaded: the version that made the prediction.
        prediction: the prediction.
        content: bytes of the file.
        image: the decoded image.
        external_id: the caller's id for the image; may be empty.
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
    """Capture images of one function.

    Args:
        captures: stores the captured images.
        rules: which images to capture.
        generator: selects the random sample.
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
        """Unlink an external id from its captured image when it is reused for another image.

        Args:
            external_id: the caller's id for the image; may be empty.
            id: id of the request.
            image: the decoded image; if it is a duplicate, the external id stays linked.

        Raises:
            StoreError: the disk cannot be written.
        """
        previous = self._captures_by_id.get(self._id_by_external.get(external_id, ""))
        if previous is None or previous.id == id:
            return
        old_hash = previous.look
        if image is not None and old_hash and _is_same_image(_perceptual_hash(image), old_hash):
            return
        del self._id_by_external[external_id]
        self._captures_by_id[previous.id] = replace(previous, superseded=True)
        self._captures.update(self._captures_by_id[previous.id])

    def capture_if_useful(self, invocation: Invocation) -> str:
        """Capture an image if it is worth labeling.

        Returns:
            the reason: ``random``, ``uncertain`` or ``rare``; empty if it is not captured.

        Raises:
            StoreError: the disk cannot be written.
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
        """Capture an image, for a reason such as ``uncertain``."""
        loaded = invocation.loaded
        self.supersede(invocation.external_id, invocation.id)
        controls = {control.name: control for control in loaded.controls}
        prediction_row = format_prediction(
            to_task_prediction(invocation.prediction, loaded.controls), controls, ""
        )
        size = invocation.prediction.size
        content, suffix = make_displayable(invocation.content, size.width * size.height)
        capture = Capture(
            id=invocation.id,
            at=invocation.invoked_at,
            why=reason,
            version=loaded.card.version,
            external=invocation.external_id,
            look=image_hash or _perceptual_hash(invocation.image),
            said={"result": prediction_row["result"], "score": prediction_row["score"]},
            suffix=suffix,
            width=size.width,
            height=size.height,
        )
        self._captures.add(capture, content)
        self._index(capture)
        return capture

    def correct(self, external_id: str, regions: RegionFactory) -> bool:
        """Store a correction with the latest image that has an external id.

        Args:
            external_id: the caller's id for the image.
            regions: returns the corrected regions for the size of the image.

        Returns:
            False if that image was not captured.

        Raises:
            StoreError: the disk cannot be written.
        """
        capture = self._captures_by_id.get(self._id_by_external.get(external_id, ""))
        if capture is None:
            return False
        annotation = regions(ImageSize(capture.width, capture.height))
        corrected = replace(capture, annotation=annotation)
        self._captures.update(corrected)
        self._index(corrected)
        return True

    def remove_before(self, cutoff: float) -> None:
        """Remove captures older than a cutoff in seconds since 1970."""
        self._captures.delete_before(cutoff)
        remaining = [c for c in self._captures_by_id.values() if c.at >= cutoff]
        self._captures_by_id, self._id_by_external = {}, {}
        for capture in remaining:
            self._index(capture)

    def _index(self, capture: Capture) -> None:
        self._captures_by_id[capture.id] = capture
        if capture.external and not capture.superseded:
            self._id_by_external[capture.external] = capture.id

    def _capture_reason(self, invocation: Invocation) -> str:
        prediction, rules = invocation.prediction, self._rules
        uncertainty = prediction.uncertainty
        recent = self._recent_uncertainties
        cutoff = float(np.quantile(recent, 1 - UNCERTAIN_SHARE)) if recent else 0.0
        self._recent_uncertainties.append(uncertainty)
        if self._random.random() < rules.random_share:  # checked first: an unbiased sample
            return "random"
        if prediction.confidence < rules.confidence_below and uncertainty >= cutoff:
            return "uncertain"
        card = invocation.loaded.card
        has_rare_label = any(
            _is_rare(card.control(predicted.control).examples, predicted.label)
            for predicted in labels_of(prediction)
        )
        return "rare" if has_rare_label else ""

    def _is_full(self) -> bool:
        day_start = self._clock() - DAY_SECONDS
        todays_count = sum(c.at > day_start for c in self._captures_by_id.values())
        return todays_count >= self._rules.daily_limit

    def _is_duplicate(self, image_hash: str) -> bool:
        return any(
            _is_same_image(image_hash, capture.look)
            for capture in self._captures_by_id.values()
            if capture.look
        )


def _is_rare(examples: Mapping[str, int], label: str) -> bool:
    average_count = sum(examples.values()) / max(1, len(examples))
    return examples.get(label, 0) < RARE_LABEL_RATIO * average_count


def _is_same_image(first_hash: str, second_hash: str) -> bool:
    """Whether two perceptual hashes belong to the same image."""
    return (int(first_hash, 16) ^ int(second_hash, 16)).bit_count() <= MAX_HASH_DISTANCE


def _perceptual_hash(image: Image.Image) -> str:
    """Return the 64-bit difference hash in hexadecimal; re-encoding hardly changes it."""
    import imagehash

    return str(imagehash.dhash(image))
