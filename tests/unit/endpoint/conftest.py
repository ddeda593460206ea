"""A home folder with functions of every kind, and calls of the endpoint without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.endpoint_client import EndpointClient, open_endpoint


@pytest.fixture
def home(published: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return Path(shutil.copytree(published, tmp_path / "home"))


@pytest.fixture(scope="package")
def call(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointClient]:
    """An endpoint without authentication, shared by all tests here."""
    home = Path(shutil.copytree(published, tmp_path_factory.mktemp("shared") / "home"))
    with open_endpoint(home) as caller:
        yield caller
