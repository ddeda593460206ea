"""Fixtures: a real Label Studio, started once and required; a real backend per test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from demo.label_studio import LabelStudioServer, find_free_port
from tests.support.harness import BackendServer, LabelStudioUser, MakeBackend, MakeStudio
from tests.support.published_models import (
    BOXES_CONTROL,
    COLOUR_CONTROL,
    POINTS_CONTROL,
    TAGS_CONTROL,
    publish_version,
    train_colour_model,
    train_detector_model,
)

for name in [name for name in os.environ if name.startswith(("PRELABEL_", "LABEL_STUDIO_"))]:
    if name != "PRELABEL_SCREENSHOTS":  # those who test side by side read it after this one
        del os.environ[name]


@contextmanager
def shared_folder(factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder that all test processes share, and whether it is to be filled now."""
    base_folder = factory.getbasetemp()
    base_folder = base_folder.parent if "PYTEST_XDIST_WORKER" in os.environ else base_folder
    with FileLock(base_folder / f"{name}.lock"):
        folder = base_folder / name
        is_new = not folder.exists()
        folder.mkdir(exist_ok=True)
        yield folder, is_new


@pytest.fixture(scope="session")
def migrated_studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of Label Studio whose database is made: a copy of it starts in seconds."""
    with shared_folder(tmp_path_factory, "migrated") as (folder, is_new):
        if is_new:
            studio = LabelStudioServer(
                folder / "data", find_free_port(), token="0" * 40, password="open sesame"
            )
            studio.start()
            try:
                studio.wait_until_ready()
            finally:
                studio.stop()
    return folder / "data"


@pytest.fixture(scope="session")
def make_studio(
    migrated_studio: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeStudio]:
    """Starts Label Studios; ends them."""
    started: list[LabelStudioServer] = []

    def make(**environment: str) -> LabelStudioServer:
        folder = tmp_path_factory.mktemp("studio") / "data"
        shutil.copytree(migrated_studio, folder)
        studio = LabelStudioServer(folder, find_free_port(), "0" * 40, "open sesame", environment)
        studio.start()
        started.append(studio)
        studio.wait_until_ready()
        return studio

    yield make
    for studio in started:
        studio.stop()


@pytest.fixture(scope="session")
def studio(make_studio: MakeStudio) -> LabelStudioServer:
    """The Label Studio that most tests share; each makes its own projects."""
    return make_studio()


@pytest.fixture
def lab(studio: LabelStudioServer) -> Iterator[LabelStudioUser]:
    """Somebody who works in that Label Studio."""
    lab = LabelStudioUser(studio.url, studio.token)
    yield lab
    lab.close()


@pytest.fixture
def make_backend(tmp_path: Path, studio: LabelStudioServer) -> Iterator[MakeBackend]:
    """Starts backends; ends them."""
    started: list[BackendServer] = []

    def make(home: str = "home", **environment: str) -> BackendServer:
        connection = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
        backend = BackendServer(tmp_path / home, {**connection, **environment})
        started.append(backend)
        backend.start()
        return backend

    yield make
    for backend in started:
        backend.stop()


@pytest.fixture
def backend(make_backend: MakeBackend) -> BackendServer:
    """A backend that knows the token of the shared Label Studio."""
    return make_backend()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1: one of many; 2: several of many; 3: boxes; 4: points; 5: one of many and boxes."""
    with shared_folder(tmp_path_factory, "published") as (home, is_new):
        if is_new:
            publish_functions(home)
    return home


def publish_functions(home: Path) -> None:
    """Functions of every kind."""
    model, reference = train_colour_model()
    publish_version(home, "1", model, reference, title="colours")
    publish_version(home, "2", *train_colour_model(TAGS_CONTROL))
    publish_version(home, "3", train_detector_model(BOXES_CONTROL))
    publish_version(home, "4", train_detector_model(POINTS_CONTROL))
    detector_model = train_detector_model(BOXES_CONTROL)
    combined_model = replace(
        model, detectors=detector_model.detectors, controls=(COLOUR_CONTROL, BOXES_CONTROL)
    )
    publish_version(home, "5", combined_model, reference)
