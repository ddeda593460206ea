"""Fixtures: a real Label Studio, started once and required; a real backend per test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from demo.label_studio import Studio, free_port
from tests.support.harness import Backend, Lab
from tests.support.published_models import (
    BOXES,
    COLOUR,
    POINTS,
    TAGS,
    colour_model,
    place_model,
    publish,
)

SCREENSHOTS = os.environ.get("PRELABEL_SCREENSHOTS", "")
"""Where browser tests leave pictures for people; beside their other files when it is not set."""
for name in [name for name in os.environ if name.startswith(("PRELABEL_", "LABEL_STUDIO_"))]:
    if name != "PRELABEL_SCREENSHOTS":  # those who test side by side read it after this one
        del os.environ[name]

MakeStudio = Callable[..., Studio]
MakeBackend = Callable[..., Backend]


@contextmanager
def once(factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder that all test processes share, and whether it is to be filled now."""
    shared = factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with FileLock(shared / f"{name}.lock"):
        folder = shared / name
        new = not folder.exists()
        folder.mkdir(exist_ok=True)
        yield folder, new


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of Label Studio whose database is made: a copy of it starts in seconds."""
    with once(tmp_path_factory, "migrated") as (folder, new):
        if new:
            studio = Studio(folder / "data", free_port(), token="0" * 40, password="open sesame")
            studio.start()
            try:
                studio.wait()
            finally:
                studio.stop()
    return folder / "data"


@pytest.fixture(scope="session")
def make_studio(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeStudio]:
    """Starts Label Studios; ends them."""
    started: list[Studio] = []

    def make(**environment: str) -> Studio:
        folder = tmp_path_factory.mktemp("studio") / "data"
        shutil.copytree(migrated, folder)
        studio = Studio(folder, free_port(), "0" * 40, "open sesame", environment)
        studio.start()
        started.append(studio)
        studio.wait()
        return studio

    yield make
    for studio in started:
        studio.stop()


@pytest.fixture(scope="session")
def studio(make_studio: MakeStudio) -> Studio:
    """The Label Studio that most tests share; each makes its own projects."""
    return make_studio()


@pytest.fixture
def lab(studio: Studio) -> Iterator[Lab]:
    """Somebody who works in that Label Studio."""
    lab = Lab(studio.url, studio.token)
    yield lab
    lab.close()


@pytest.fixture
def make_backend(tmp_path: Path, studio: Studio) -> Iterator[MakeBackend]:
    """Starts backends; ends them."""
    started: list[Backend] = []

    def make(home: str = "home", **environment: str) -> Backend:
        given = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
        backend = Backend(tmp_path / home, {**given, **environment})
        started.append(backend)
        backend.start()
        return backend

    yield make
    for backend in started:
        backend.stop()


@pytest.fixture
def backend(make_backend: MakeBackend) -> Backend:
    """A backend that knows the token of the shared Label Studio."""
    return make_backend()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1: one of many; 2: several of many; 3: boxes; 4: points; 5: one of many and boxes."""
    with once(tmp_path_factory, "published") as (home, new):
        if new:
            fill(home)
    return home


def fill(home: Path) -> None:
    """Functions of every kind."""
    model, reference = colour_model()
    publish(home, "1", model, reference, title="colours")
    publish(home, "2", *colour_model(TAGS))
    publish(home, "3", place_model(BOXES))
    publish(home, "4", place_model(POINTS))
    places = place_model(BOXES)
    both = replace(model, finders=places.finders, controls=(COLOUR, BOXES))
    publish(home, "5", both, reference)
