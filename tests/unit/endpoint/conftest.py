"""A home with functions of every kind, and callers of the endpoint without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.endpoint_client import EndpointClient, open_endpoint


@pytest.fixture
def home(published: Path, tmp_path: Path) -> Path:
    """One's own."""
    return Path(shutil.copytree(published, tmp_path / "home"))


@pytest.fixture(scope="package")
def call(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointClient]:
    """An endpoint that is open to everybody; nothing it keeps is looked at."""
    home = Path(shutil.copytree(published, tmp_path_factory.mktemp("shared") / "home"))
    with open_endpoint(home) as caller:
        yield caller
