"""The compute seam: what is slow is done in this process, or on Modal.

The only place where backend names the room serverless, and only when the settings say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from backend.records import ComputeCost

if TYPE_CHECKING:
    from backend.training.detector import DetectorTrainingJob
    from backend.training.head import HeadTrainingJob
    from backend.vision.detection.network import DetectionNetwork
    from backend.vision.detection.network_runner import NetworkRunner
    from backend.vision.detection.trained_detector import Detector
    from backend.vision.encoders.base import Encoder
    from backend.vision.heads.head import Head

LOCAL_COMPUTE = "local"
LOCAL_BATCH_SIZE = 32
"""Images that are read and looked at together on this machine: a fair use of its memory."""


class Compute(Protocol):
    """Where what is slow is done.

    Attributes:
        batch_size: images that are read and looked at together.
    """

    batch_size: int

    def check_budget(self) -> None:
        """Make sure that training may begin.

        Raises:
            OverBudget: what may be spent this month is spent.
        """
        ...

    def train_head(self, job: HeadTrainingJob) -> tuple[Head | None, ComputeCost]:
        """See ``backend.training.head.train``."""
        ...

    def train_detector(self, job: DetectorTrainingJob) -> tuple[Detector | None, ComputeCost]:
        """See ``backend.training.detector.train_finder``."""
        ...

    def sync_endpoint(self) -> None:
        """Let the endpoint there have what is live here, where there is one.

        Raises:
            PrelabelError: it cannot be reached.
        """
        ...

    def fetch_captures(self) -> None:
        """Fetch what the endpoint there kept, now and then."""
        ...

    def encoder(self, setting: str, load: Callable[[], Encoder]) -> Encoder:
        """The encoder of a setting.

        Args:
            setting: ``PRELABEL_ENCODER``.
            load: gives one that runs in this process.
        """
        ...

    def network_runner(
        self, network: DetectionNetwork, size: int, key: str, load: Callable[[], NetworkRunner]
    ) -> NetworkRunner:
        """A network, to look at many images.

        Args:
            network: what was learned.
            size: pixels of its input.
            key: tells the weights from all others.
            load: gives one that runs in this process.
        """
        ...


class LocalCompute:
    """Everything is done here."""

    batch_size = LOCAL_BATCH_SIZE

    def check_budget(self) -> None:
        """One's own machine costs nothing."""

    def sync_endpoint(self) -> None:
        """The endpoint here reads the same folder."""

    def fetch_captures(self) -> None:
        """The endpoint here writes into the same folder."""

    def train_head(self, job: HeadTrainingJob) -> tuple[Head | None, ComputeCost]:
        """Fit it."""
        from backend.training.head import train_head

        start = time.monotonic()
        return train_head(job), ComputeCost(seconds=round(time.monotonic() - start, 3))

    def train_detector(self, job: DetectorTrainingJob) -> tuple[Detector | None, ComputeCost]:
        """Fine-tune it."""
        from backend.training.detector import train_detector

        start = time.monotonic()
        return train_detector(job), ComputeCost(seconds=round(time.monotonic() - start, 3))

    def encoder(self, setting: str, load: Callable[[], Encoder]) -> Encoder:
        """Load it."""
        return load()

    def network_runner(
        self, network: DetectionNetwork, size: int, key: str, load: Callable[[], NetworkRunner]
    ) -> NetworkRunner:
        """Load it."""
        return load()
