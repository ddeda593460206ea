"""Servers for the benchmarks: a real Label Studio, and a backend connected to it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from backend.label_studio.local_server import LabelStudioServer, find_free_port
from demo.annotator import SimulatedAnnotator
from tests.support.harness import BackendServer, LabelStudioUser


@dataclass(frozen=True)
class RunningStudio:
    """A Label Studio that is ready, and its users.

    Attributes:
        server: the process.
        folder: temporary folder of the benchmark.
        user: client for any request.
        annotator: client that works as a browser does.
    """

    server: LabelStudioServer
    folder: Path
    user: LabelStudioUser
    annotator: SimulatedAnnotator


@contextmanager
def running_studio() -> Iterator[RunningStudio]:
    """Start Label Studio in a temporary folder; stop it and delete the folder at the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = LabelStudioServer(folder / "studio", find_free_port())
        server.start()
        try:
            server.wait_until_ready()
            with (
                closing(LabelStudioUser(server.url, server.token)) as user,
                closing(SimulatedAnnotator(server.url, server.token)) as annotator,
            ):
                yield RunningStudio(server, folder, user, annotator)
        finally:
            server.stop()


@contextmanager
def running_backend(
    studio: RunningStudio, home: str = "home", **settings: str
) -> Iterator[BackendServer]:
    """Start a backend for a Label Studio; stop it at the end.

    Args:
        studio: Label Studio.
        home: name of the backend's folder.
        settings: environment variables, ``PRELABEL_…``.
    """
    server = studio.server
    connection = {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.token}
    backend = BackendServer(studio.folder / home, {**connection, **settings})
    try:
        backend.start()
        yield backend
    finally:
        backend.stop()


@contextmanager
def running_loop(**settings: str) -> Iterator[tuple[RunningStudio, BackendServer]]:
    """Start Label Studio and a backend with these settings; stop both at the end."""
    with running_studio() as studio, running_backend(studio, **settings) as backend:
        yield studio, backend


def backend_processes(backend: BackendServer) -> list[psutil.Process]:
    """Return the backend's server process and its worker processes."""
    server = psutil.Process(backend.pid)
    return [server, *server.children(recursive=True)]
