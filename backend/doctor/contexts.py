"""The arguments of checks: the setup, the setup with Label Studio, and one project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from backend.domain import Control, ImageSize
from backend.errors import ConfigError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.labeling_config import LabelingConfig, read_config
from backend.label_studio.project_details import BackendConnection, ProjectDetails
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.projects import ProjectRecord


class MeasureFree(Protocol):
    """A function that measures disk space."""

    def __call__(self, folder: Path, /) -> int:
        """Return the number of free bytes on the disk of a folder."""
        ...


@dataclass(frozen=True)
class Setup:
    """This machine and the backend.

    Attributes:
        resources: resources of this process, with the settings.
        backend_url: address at which Label Studio calls the backend, with the webhook secret.
        auth: user and password of the backend; None without basic auth.
        measure_free: measures disk space.
    """

    resources: Resources
    backend_url: str
    auth: tuple[str, str] | None
    measure_free: MeasureFree

    @property
    def settings(self) -> Settings:
        """The settings of this process."""
        return self.resources.settings


@dataclass(frozen=True)
class LabelStudioSetup:
    """A setup whose Label Studio accepts the token."""

    setup: Setup
    client: LabelStudioClient

    @property
    def backend_url(self) -> str:
        """The address at which Label Studio calls the backend."""
        return self.setup.backend_url

    @property
    def encoder_settings(self) -> Sequence[str]:
        """The encoder settings to check; without a project only the configured one."""
        return [self.setup.settings.encoder]

    @property
    def control_kinds(self) -> frozenset[str]:
        """Kinds of controls that need a model."""
        return frozenset({"choices", "boxes"})


@dataclass(frozen=True)
class ImageSample:
    """An image of a project.

    Attributes:
        task: id of a task with the image.
        address: address in the task's data.
        storage: kind of storage, such as ``upload`` or ``s3``.
    """

    task: int
    address: str
    storage: str


@dataclass(frozen=True)
class CheckedProject(LabelStudioSetup):
    """A setup and one of its projects.

    Attributes:
        number: project number in Label Studio.
        details: project in Label Studio.
        record: project in the home folder; None if it is not connected.
        live_version: name of the live version; empty if there is none.
        connections: ML backends of the project, of which Label Studio uses the first; None if they
            cannot be listed.
        readable_images: images that could be opened, with their sizes.
    """

    number: int
    details: ProjectDetails
    record: ProjectRecord | None
    live_version: str
    connections: Sequence[BackendConnection] | None = None
    readable_images: list[tuple[ImageSample, ImageSize]] = field(default_factory=list)

    @property
    def active_connection(self) -> BackendConnection | None:
        """The ML backend that Label Studio uses."""
        return self.connections[0] if self.connections else None

    @property
    def backend_url(self) -> str:
        """The address at which Label Studio calls the backend."""
        return self.active_connection.url if self.active_connection else self.setup.backend_url

    @property
    def encoder_settings(self) -> Sequence[str]:
        """The encoder settings of the next version and of the live version."""
        setting = self.setup.settings.encoder
        if self.record is None or not self.live_version:
            return [setting]
        versions = self.setup.resources.versions(self.record)
        live = versions.card(self.live_version).encoder.setting
        if setting == "auto":  # resolves to the live encoder if its weights are on this machine
            return [live or setting]
        return list(dict.fromkeys([setting, *([live] if live else [])]))

    @property
    def control_kinds(self) -> frozenset[str]:
        """Kinds of the served controls."""
        return frozenset(control.kind for control in self.controls)

    @cached_property
    def controls(self) -> tuple[Control, ...]:
        """The served controls; empty if the labeling config is invalid."""
        try:
            return self.labeling_config().controls
        except ConfigError:
            return ()

    @property
    def keeps_settings(self) -> bool:
        """Whether the labeling config keeps Prelabel from changing the project's settings."""
        try:
            return self.labeling_config().keeps_settings
        except ConfigError:
            return False

    def labeling_config(self) -> LabelingConfig:
        """Parse the labeling config.

        Raises:
            ConfigError: the labeling config is invalid.
        """
        return read_config(self.details.get("label_config") or "")
