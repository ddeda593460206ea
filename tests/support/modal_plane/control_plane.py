"""The plane itself: servers in a thread of their own, and what tests may ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import modal.client
from grpclib.server import Server
from modal_proto import api_pb2

from tests.support.modal_plane.container import ContainerSettings
from tests.support.modal_plane.container_calls import ContainerServicer
from tests.support.modal_plane.deployment import (
    IMAGE_BUILDER_VERSION,
    AppServicer,
    FunctionServicer,
    ImageServicer,
)
from tests.support.modal_plane.deployment_facts import (
    ContainerFacts,
    FunctionFacts,
    describe_container,
    describe_function,
)
from tests.support.modal_plane.function_calls import FunctionCallServicer
from tests.support.modal_plane.grpc_service import GrpcService
from tests.support.modal_plane.scheduler import ContainerScheduler
from tests.support.modal_plane.state import PlaneState, VolumeCall
from tests.support.modal_plane.storage import (
    BlobServicer,
    DictServicer,
    SecretServicer,
    VolumeServicer,
)
from tests.support.modal_plane.web_endpoints import (
    LOOPBACK_HOST,
    BlobServer,
    WebEndpoints,
    serve_app,
)

T = TypeVar("T")
ENVIRONMENT_NAME = "main"
CLIENT_TOKEN = ("ak-local", "as-local")


class DeployError(AssertionError):
    """``modal deploy`` did not succeed; the text is what it printed."""


class ControlPlane:
    """Modal's service on this machine, enough of it for the real client and the real containers.

    Args:
        environment: variables of every container, besides those of its image and secrets.
        visible_folders: folders of this machine that containers can read.
        max_containers: upper limit of containers per function.
        namespaces: False runs containers in the host's own file system.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        visible_folders: Sequence[Path] = (),
        max_containers: int = 3,
        namespaces: bool = True,
        grace_seconds: float = 5.0,
    ) -> None:
        self._container_environment = dict(environment or {})
        self._visible_folders = tuple(visible_folders)
        self._max_containers = max_containers
        self._namespaces = namespaces
        self._grace = grace_seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="plane", daemon=True)
        self.folder = Path()
        self.url = ""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="plane-"))
        self._thread.start()
        self._run_in_loop(self._start_servers())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run_in_loop(self._stop_servers())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.folder)
        if error is None and self._grpc_service.servicer_errors:
            raise AssertionError(f"the plane itself failed: {self._grpc_service.servicer_errors}")

    def _run_in_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start_servers(self) -> None:
        self._state = PlaneState(self.folder)
        self._blob_runner, self._state.web_url = await serve_app(BlobServer(self._state).app)
        listener = socket.create_server((LOOPBACK_HOST, 0))
        self.url = f"http://{LOOPBACK_HOST}:{listener.getsockname()[1]}"
        settings = ContainerSettings(
            self.url,
            ENVIRONMENT_NAME,
            self._container_environment,
            self._visible_folders,
            self._namespaces,
        )
        self._scheduler = ContainerScheduler(self._state, settings, self._max_containers)
        call_servicer = FunctionCallServicer(self._state, self._scheduler)
        self._web_endpoints = WebEndpoints(self._state, call_servicer)
        self._grpc_service = GrpcService(
            [
                AppServicer(self._state, self._scheduler),
                FunctionServicer(self._state, self._web_endpoints.open_endpoint),
                ImageServicer(self._state),
                VolumeServicer(self._state, self._scheduler.containers),
                SecretServicer(self._state),
                DictServicer(self._state),
                BlobServicer(self._state),
                call_servicer,
                ContainerServicer(self._state, self._scheduler),
            ]
        )
        self._server = Server([self._grpc_service])
        await self._server.start(sock=listener)

    async def _stop_servers(self) -> None:
        await self._scheduler.close(self._grace)
        await self._web_endpoints.close()
        await self._blob_runner.cleanup()
        self._server.close()
        await self._server.wait_closed()

    # for clients

    def client_environment(self) -> dict[str, str]:
        """The variables by which a client in another process finds the plane."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": CLIENT_TOKEN[0],
            "MODAL_TOKEN_SECRET": CLIENT_TOKEN[1],
            "MODAL_ENVIRONMENT": ENVIRONMENT_NAME,
            "MODAL_CONFIG_PATH": str(self.folder / "modal.toml"),
            "MODAL_IMAGE_BUILDER_VERSION": IMAGE_BUILDER_VERSION,
            "MODAL_PROFILE": "default",
        }

    @contextlib.contextmanager
    def use_in_process(self) -> Iterator[modal.Client]:
        """Let code in this process find the plane, as if the environment had been so."""
        previous = {name: os.environ.get(name) for name in self.client_environment()}
        os.environ.update(self.client_environment())
        kind = api_pb2.CLIENT_TYPE_CLIENT
        try:
            with modal.client.Client(self.url, kind, CLIENT_TOKEN) as client:
                modal.client.Client._set_env_client(client)
                try:
                    yield client
                finally:
                    modal.client.Client._set_env_client(None)
        finally:
            for name, value in previous.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def deploy(self, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
        """Run ``modal deploy`` with these arguments; what it printed."""
        completed = subprocess.run(
            [sys.executable, "-m", "modal", "deploy", *arguments],
            env={**os.environ, **self.client_environment(), **environment},
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        output = completed.stdout + completed.stderr
        if completed.returncode:
            raise DeployError(f"{output}\nnot answered: {self._grpc_service.unimplemented_calls}")
        return output

    # facts

    @property
    def unanswered(self) -> list[str]:
        """The names of gRPC calls that the plane refused as not implemented."""
        return list(self._grpc_service.unimplemented_calls)

    @property
    def apps(self) -> list[str]:
        return [app.name for app in self._state.apps.values() if app.published]

    @property
    def _function_ids(self) -> dict[str, str]:
        return self._state.find_app(self.apps[-1]).functions

    def functions(self) -> dict[str, FunctionFacts]:
        """Return the functions of the app that was deployed last; a class is ``Name.*``."""
        functions = {n: self._state.find_function(i) for n, i in self._function_ids.items()}
        return {name: describe_function(self._state, each) for name, each in functions.items()}

    def function(self, name: str) -> FunctionFacts:
        return self.functions()[name]

    @property
    def containers(self) -> list[ContainerFacts]:
        """All containers, in the order of their start."""
        return [describe_container(each) for each in list(self._scheduler.containers.values())]

    def container_logs(self, function: str) -> str:
        """What all containers of a function printed."""
        return "".join(each.log for each in self.containers if each.function == function)

    def kill_containers(self, function: str) -> int:
        """Kill a function's containers as the cloud may at any time; how many there were."""

        async def kill() -> int:
            live = [
                c
                for c in self._scheduler.live_containers()
                if c.function.message.function_name == function
            ]
            for container in live:
                container.kill()
            return len(live)

        return self._run_in_loop(kill())

    def volume_folder(self, name: str) -> Path:
        """The folder of a volume."""
        return next(v.folder for v in self._state.volumes.values() if v.name == name)

    @property
    def volume_calls(self) -> list[VolumeCall]:
        """Commits, reloads, writes and removals so far."""
        return list(self._state.volume_calls)

    # the web

    def web_url(self, function: str) -> str:
        """Return the address of a web function."""
        return self._web_endpoints.urls[self._function_ids[function]]
