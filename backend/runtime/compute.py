"""Where training and batch inference run: in this process, or on Modal.

The Modal implementation is `serverless.modal_compute.ModalCompute`; `backend.bootstrap` chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from backend.card_records import ComputeCost

if TYPE_CHECKING:
    from backend.training.detector import DetectorTrainingJob
    from backend.training.head import HeadTrainingJob
    from backend.vision.detection.network import DetectionNetwork
    from backend.vision.detection.network_runner import NetworkRunner
    from backend.vision.detection.trained_detector import Detector
    from backend.vision.encoders.base import Encoder
    from backend.vision.heads.head import Head

LOCAL_BATCH_SIZE = 32
"""Images loaded and processed together on this machine; limits peak memory."""


class Compute(Protocol):
    """Interface of compute backends: training and batch inference.

    Attributes:
        batch_size: number of images that are loaded and processed together.
    """

    batch_size: int

    def check_budget(self) -> None:
        """Check that the monthly budget is not exhausted.

        Raises:
            OverBudgetError: the budget of this month is spent.
        """
        ...

    def train_head(self, job: HeadTrainingJob) -> tuple[Head | None, ComputeCost]:
        """Run `backend.training.head.train_head` and return the result with its cost."""
        ...

    def train_detector(self, job: DetectorTrainingJob) -> tuple[Detector | None, ComputeCost]:
        """Run `backend.training.detector.train_detector` and return the result with its cost."""
        ...

    def sync_endpoint(self) -> None:
        """Upload the live versions to the deployed endpoint, if there is one.

        Raises:
            PrelabelError: the endpoint cannot be reached.
        """
        ...

    def fetch_captures(self) -> None:
        """Download new captures from the deployed endpoint; calls are rate-limited."""
        ...

    def encoder(self, setting: str, load: Callable[[], Encoder]) -> Encoder:
        """Return the encoder for a ``PRELABEL_ENCODER`` setting, running locally or remotely.

        Args:
            setting: the setting, for example ``auto``.
            load: loads the encoder in this process.
        """
        ...

    def network_runner(
        self, network: DetectionNetwork, size: int, key: str, load: Callable[[], NetworkRunner]
    ) -> NetworkRunner:
        """Return a runner for batch inference with a detection network.

        Args:
            network: the network.
            size: longer edge of the network input in pixels.
            key: hash of the weights.
            load: loads a runner in this process.
        """
        ...


class LocalCompute:
    """Run training and inference in this process."""

    batch_size = LOCAL_BATCH_SIZE

    def check_budget(self) -> None:
        """Do nothing: local compute has no budget."""

    def sync_endpoint(self) -> None:
        """Do nothing: the local endpoint reads the same version folder."""

    def fetch_captures(self) -> None:
        """Do nothing: the local endpoint writes captures to the same folder."""

    def train_head(self, job: HeadTrainingJob) -> tuple[Head | None, ComputeCost]:
        """Train a head and measure the duration."""
        from backend.training.head import train_head

        start = time.monotonic()
        return train_head(job), ComputeCost(seconds=round(time.monotonic() - start, 3))

    def train_detector(self, job: DetectorTrainingJob) -> tuple[Detector | None, ComputeCost]:
        """Train a detector and measure the duration."""
        from backend.training.detector import train_detector

        start = time.monotonic()
        return train_detector(job), ComputeCost(seconds=round(time.monotonic() - start, 3))

    def encoder(self, setting: str, load: Callable[[], Encoder]) -> Encoder:
        """Load the encoder."""
        return load()

    def network_runner(
        self, network: DetectionNetwork, size: int, key: str, load: Callable[[], NetworkRunner]
    ) -> NetworkRunner:
        """Load the runner."""
        return load()
