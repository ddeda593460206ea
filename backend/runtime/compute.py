"""The compute seam: what is slow is done in this process, or on Modal.

The only place where backend names the room serverless, and only when the settings say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from backend.training.detector import FindingJob
    from backend.training.head import TrainingJob
    from backend.vision.detection.network import Network
    from backend.vision.detection.network_runner import Detector
    from backend.vision.detection.trained_detector import Finds
    from backend.vision.encoders.base import Encoder
    from backend.vision.heads.head import Head

HERE = "local"
IMAGES_HERE = 32
"""Images that are read and looked at together on this machine: a fair use of its memory."""


@dataclass(frozen=True)
class Spent:
    """What a training took.

    Attributes:
        where: ``local`` or ``modal``.
        device: its name, such as ``L4``; empty where nobody asked.
        seconds: of the device.
        dollars: an estimate, by list prices; 0 on one's own machine.
    """

    where: str = HERE
    device: str = ""
    seconds: float = 0.0
    dollars: float = 0.0

    def json(self) -> dict[str, Any]:
        """As a card shows it."""
        return asdict(self)

    def __add__(self, other: Spent) -> Spent:
        """Both together; named after the one elsewhere."""
        named = self if self.where != HERE or not other.device else other
        seconds, dollars = self.seconds + other.seconds, self.dollars + other.dollars
        return Spent(named.where, named.device, round(seconds, 3), round(dollars, 6))


class Compute(Protocol):
    """Where what is slow is done.

    Attributes:
        at_once: images that are read and looked at together.
    """

    at_once: int

    def check(self) -> None:
        """Make sure that training may begin.

        Raises:
            OverBudget: what may be spent this month is spent.
        """
        ...

    def train_head(self, job: TrainingJob) -> tuple[Head | None, Spent]:
        """See ``backend.training.head.train``."""
        ...

    def train_finder(self, job: FindingJob) -> tuple[Finds | None, Spent]:
        """See ``backend.training.detector.train_finder``."""
        ...

    def share(self) -> None:
        """Let the endpoint there have what is live here, where there is one.

        Raises:
            PrelabelError: it cannot be reached.
        """
        ...

    def collect(self) -> None:
        """Fetch what the endpoint there kept, now and then."""
        ...

    def encoder(self, setting: str, load: Callable[[], Encoder]) -> Encoder:
        """The encoder of a setting.

        Args:
            setting: ``PRELABEL_ENCODER``.
            load: gives one that runs in this process.
        """
        ...

    def detector(
        self, network: Network, size: int, key: str, load: Callable[[], Detector]
    ) -> Detector:
        """A network, to look at many images.

        Args:
            network: what was learned.
            size: pixels of its input.
            key: tells the weights from all others.
            load: gives one that runs in this process.
        """
        ...


class ThisProcess:
    """Everything is done here."""

    at_once = IMAGES_HERE

    def check(self) -> None:
        """One's own machine costs nothing."""

    def share(self) -> None:
        """The endpoint here reads the same folder."""

    def collect(self) -> None:
        """The endpoint here writes into the same folder."""

    def train_head(self, job: TrainingJob) -> tuple[Head | None, Spent]:
        """Fit it."""
        from backend.training.head import train

        start = time.monotonic()
        return train(job), Spent(seconds=round(time.monotonic() - start, 3))

    def train_finder(self, job: FindingJob) -> tuple[Finds | None, Spent]:
        """Fine-tune it."""
        from backend.training.detector import train_finder

        start = time.monotonic()
        return train_finder(job), Spent(seconds=round(time.monotonic() - start, 3))

    def encoder(self, setting: str, load: Callable[[], Encoder]) -> Encoder:
        """Load it."""
        return load()

    def detector(
        self, network: Network, size: int, key: str, load: Callable[[], Detector]
    ) -> Detector:
        """Load it."""
        return load()
