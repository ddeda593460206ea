"""A project with lazy access to its connection, images, models and versions."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import DamagedFileError, PrelabelError, RoundInProgressError
from backend.inference.embed import Embedder
from backend.inference.images import ProjectImages
from backend.inference.model import Model
from backend.runtime.connection import Connection, connect
from backend.runtime.resources import OpenProject, Resources
from backend.settings import Settings
from backend.store.captures import CaptureStore
from backend.store.files import exclusive_lock
from backend.store.projects import ProjectRecord
from backend.store.versions import VersionStore
from backend.vision.encoders.base import INSTALLED_ENCODER

if TYPE_CHECKING:
    from backend.inference.prompts import YoloePrompts
    from backend.vision.encoders.base import Encoder


log = logging.getLogger("prelabel")
PUBLISH_LOCK_TIMEOUT_SECONDS = 600.0
"""Time to wait while another process publishes predictions of the same project."""


class ProjectSession:
    """Access to one project for the duration of a job.

    A session is cheap to create because all caches are in the resources.

    Args:
        resources: resources of this process.
        record: the project.
    """

    def __init__(self, resources: Resources, record: ProjectRecord) -> None:
        self.resources = resources
        self.record = record

    @property
    def id(self) -> str:
        """The id of the project in this installation, for messages and logs."""
        return self.record.id

    @property
    def number(self) -> int:
        """The project's number in Label Studio."""
        return self.record.number

    @property
    def settings(self) -> Settings:
        """The settings of this backend."""
        return self.resources.settings

    @property
    def folder(self) -> Path:
        """The folder that holds all files of the project."""
        return self.resources.folder(self.record)

    @cached_property
    def versions(self) -> VersionStore:
        """The versions of the project."""
        return self.resources.versions(self.record)

    @property
    def captures(self) -> CaptureStore:
        """The captures of the predict endpoint for this project."""
        return self.resources.projects.captures(self.id)

    @property
    def connection(self) -> Connection:
        """The connection to Label Studio, reopened when the token changes or after
        `forget_connection`.

        Raises:
            LabelStudioError: Label Studio cannot be reached or refuses the token.
        """
        return self._open_project().connection

    def forget_connection(self) -> None:
        """Drop the cached connection; the next access reconnects."""
        self.resources.open_projects.pop(self.id, None)

    @property
    def images(self) -> ProjectImages:
        """The images of the project's tasks."""
        opened = self._open_project()
        if opened.images is None:
            opened.images = ProjectImages(
                self.record.server or opened.connection.client.server,
                opened.connection.images,
                self.resources.embedding_cache,
                self.resources.image_copies,
                self.settings.max_image_pixels,
                batch_size=self.resources.compute.batch_size,
            )
        return opened.images

    def live_encoder(self) -> Encoder:
        """Load the encoder of the live version, used to compare images of the project.

        A version without choice controls has no encoder. The configured encoder is used then, for
        ``auto`` the one that is installed with Prelabel, so that nothing is downloaded.
        """
        card = self.versions.live_card()
        configured = self.settings.encoder
        fallback = INSTALLED_ENCODER if configured == "auto" else configured
        return self.resources.encoder((card.encoder.setting if card else "") or fallback)

    def embedder(self, encoder: Encoder) -> Embedder:
        """Return the cached embedder of project images for an encoder."""
        images, embedders = self.images, self._open_project().embedders
        if encoder.id not in embedders:
            embedders[encoder.id] = Embedder(images, encoder, self.resources.embedding_cache)
        return embedders[encoder.id]

    def model(self, version: str) -> Model:
        """Load the model of a version, cached in the process.

        Raises:
            DamagedFileError: a file of it is damaged; the version is set aside then.
            PrelabelError: it cannot be loaded for another reason.
        """
        try:
            return self.resources.model(self.record, version)
        except DamagedFileError as error:
            self.versions.set_aside(version, str(error))
            raise

    def loadable_version(self) -> str | None:
        """Return the live version, after setting aside those whose models are damaged.

        Returns:
            None before the first version.
        """
        while live := self.versions.live():
            try:
                self.model(live)
            except DamagedFileError as error:
                log.error("project %s: %s", self.id, error)
                continue  # the version before it is live now
            except PrelabelError:  # the caller that uses the model reports it
                return live
            return live
        return None

    def prompts(self) -> YoloePrompts | None:
        """Return the factory of text- and box-prompted detectors; None without YOLOE weights."""
        from backend.inference.prompts import YoloePrompts
        from backend.vision.detection.yoloe import find_yoloe_weights, prompt_files

        weights_folder = self.resources.weights_folder
        weights = find_yoloe_weights(weights_folder)
        if weights is None:
            return None
        files = prompt_files(weights_folder)
        return YoloePrompts(weights.name, self.resources.open_vocabulary, self.folder, files)

    def round_lock(self) -> AbstractContextManager[None]:
        """Return the lock, shared by all processes, that allows one round of a project at a time.

        Raises:
            RoundInProgressError: another process holds the lock.
        """
        busy = RoundInProgressError(
            f"Another process is running a round of project {self.id}: try again later."
        )
        return exclusive_lock(self.folder / "round.lock", busy, self.resources.lock_seconds)

    def publish_lock(
        self, timeout_seconds: float = PUBLISH_LOCK_TIMEOUT_SECONDS
    ) -> AbstractContextManager[None]:
        """Return the lock, shared by all processes, that allows one publication at a time.

        A round holds it whenever it does not train, so that a version that a person makes live is
        published during a training. It is acquired after :meth:`round_lock`, never before.

        Raises:
            RoundInProgressError: another process holds the lock for too long.
        """
        busy = RoundInProgressError(
            f"Another process publishes predictions of project {self.id}: try again later."
        )
        return exclusive_lock(self.folder / "publish.lock", busy, timeout_seconds)

    def _open_project(self) -> OpenProject:
        token = self.resources.projects.token(self.id)
        opened = self.resources.open_projects.get(self.id)
        if opened is None or not opened.is_current(self.record, token):
            opened = OpenProject(token, connect(self.record, token, self.settings))
            self.resources.open_projects[self.id] = opened
        return opened
