"""What the benchmarks of the loop stand on: a real Label Studio, and a backend beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.label_studio import LabelStudioServer, find_free_port
from tests.support.harness import BackendServer


@contextmanager
def running_studio() -> Iterator[tuple[LabelStudioServer, Path]]:
    """A Label Studio that answers, and a folder to use; both are gone at the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        studio = LabelStudioServer(folder / "studio", find_free_port())
        studio.start()
        try:
            studio.wait_until_ready()
            yield studio, folder
        finally:
            studio.stop()


@contextmanager
def running_backend(
    studio: LabelStudioServer, home: Path, **settings: str
) -> Iterator[BackendServer]:
    """A backend of a Label Studio, from its first answer on; ended at the end.

    Args:
        studio: Label Studio.
        home: the backend's folder.
        settings: ``PRELABEL_…``.
    """
    connection = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
    backend = BackendServer(home, {**connection, **settings})
    try:
        backend.start()
        yield backend
    finally:
        backend.stop()
