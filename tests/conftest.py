"""Shared fixtures: a real Label Studio for each test process, and a real backend for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from backend.label_studio.local_server import LabelStudioServer, find_free_port
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

MAX_WORKERS = 4
"""Each worker runs a Label Studio and backends of its own, about 2.5 GB together."""
for name in [name for name in os.environ if name.startswith(("PRELABEL_", "LABEL_STUDIO_"))]:
    if name != "PRELABEL_SCREENSHOTS":  # parallel workers read it after this process
        del os.environ[name]
if "PYTEST_XDIST_WORKER" in os.environ:  # else torch starts a thread per core in every worker
    threads = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run tests of folders in parallel, and single files in this process, which starts faster."""
    if all(Path(argument.partition("::")[0]).suffix == ".py" for argument in config.args):
        return 0
    return min(os.cpu_count() or 1, MAX_WORKERS)


@contextmanager
def shared_folder(factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """Yield a folder that all test processes share, and whether it still has to be filled."""
    base_folder = factory.getbasetemp()
    base_folder = base_folder.parent if "PYTEST_XDIST_WORKER" in os.environ else base_folder
    with FileLock(base_folder / f"{name}.lock"):
        folder = base_folder / name
        is_new = not folder.exists()
        folder.mkdir(exist_ok=True)
        yield folder, is_new


@pytest.fixture(scope="session")
def migrated_studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of Label Studio with a migrated database; a copy of it starts in seconds."""
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
    """Start Label Studio servers, and stop them at the end."""
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
    """The Label Studio that most tests share; each test creates its own projects."""
    return make_studio()


@pytest.fixture
def lab(studio: LabelStudioServer) -> Iterator[LabelStudioUser]:
    """A user of that Label Studio."""
    lab = LabelStudioUser(studio.url, studio.token)
    yield lab
    lab.close()


@pytest.fixture
def make_backend(tmp_path: Path, studio: LabelStudioServer) -> Iterator[MakeBackend]:
    """Start backends, and stop them after the test."""
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
    """A backend with the token of the shared Label Studio."""
    return make_backend()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with five projects: one or several choices, boxes, points, choices and boxes."""
    with shared_folder(tmp_path_factory, "published") as (home, is_new):
        if is_new:
            publish_functions(home)
    return home


def publish_functions(home: Path) -> None:
    """Publish a live version of every kind into a home."""
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
