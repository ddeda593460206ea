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

from tests.support.modal_plane.container import Setting
from tests.support.modal_plane.container_calls import ContainerDesk
from tests.support.modal_plane.deployment import IMAGE_BUILDER, AppDesk, FunctionDesk, ImageDesk
from tests.support.modal_plane.deployment_facts import (
    ContainerFacts,
    FunctionFacts,
    container_facts,
    function_facts,
)
from tests.support.modal_plane.function_calls import CallDesk
from tests.support.modal_plane.grpc_service import Wire
from tests.support.modal_plane.scheduler import Pools
from tests.support.modal_plane.state import App, Ledger, Secret, Volume, VolumeCall
from tests.support.modal_plane.storage import BlobDesk, DictDesk, SecretDesk, VolumeDesk
from tests.support.modal_plane.web_endpoints import HOST, Sites, Store, listen

T = TypeVar("T")
ENVIRONMENT = "main"
TOKEN = ("ak-local", "as-local")


class DeployError(AssertionError):
    """``modal deploy`` did not succeed; the text is what it printed."""


class ControlPlane:
    """Modal's service on this machine, enough of it for the real client and the real containers.

    ``environment`` is what containers find besides what image and secrets set; ``visible`` are
    folders of this machine that containers see; ``containers`` is the most that one function gets;
    ``namespaces=False`` runs containers in the host's own file system.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        visible: Sequence[Path] = (),
        containers: int = 3,
        namespaces: bool = True,
        grace: float = 5.0,
    ) -> None:
        self._given = dict(environment or {})
        self._visible = tuple(visible)
        self._most = containers
        self._namespaces = namespaces
        self._grace = grace
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="plane", daemon=True)
        self.folder = Path()
        self.url = ""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="plane-"))
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.folder)
        if error is None and self._wire.faults:
            raise AssertionError(f"the plane itself failed: {self._wire.faults}")

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> None:
        self._ledger = Ledger(self.folder)
        self._store, self._ledger.web = await listen(Store(self._ledger).app)
        listener = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{listener.getsockname()[1]}"
        setting = Setting(self.url, ENVIRONMENT, self._given, self._visible, self._namespaces)
        self._pools = Pools(self._ledger, setting, self._most)
        calls = CallDesk(self._ledger, self._pools)
        self._sites = Sites(self._ledger, calls)
        self._wire = Wire(
            [
                AppDesk(self._ledger, self._pools),
                FunctionDesk(self._ledger, self._sites.open),
                ImageDesk(self._ledger),
                VolumeDesk(self._ledger, self._pools.containers),
                SecretDesk(self._ledger),
                DictDesk(self._ledger),
                BlobDesk(self._ledger),
                calls,
                ContainerDesk(self._ledger, self._pools),
            ]
        )
        self._server = Server([self._wire])
        await self._server.start(sock=listener)

    async def _close(self) -> None:
        await self._pools.close(self._grace)
        await self._sites.close()
        await self._store.cleanup()
        self._server.close()
        await self._server.wait_closed()

    # for clients

    def environment(self) -> dict[str, str]:
        """The variables by which a client in another process finds the plane."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": TOKEN[0],
            "MODAL_TOKEN_SECRET": TOKEN[1],
            "MODAL_ENVIRONMENT": ENVIRONMENT,
            "MODAL_CONFIG_PATH": str(self.folder / "modal.toml"),
            "MODAL_IMAGE_BUILDER_VERSION": IMAGE_BUILDER,
            "MODAL_PROFILE": "default",
        }

    @contextlib.contextmanager
    def here(self) -> Iterator[modal.Client]:
        """Let code in this process find the plane, as if the environment had been so."""
        before = {name: os.environ.get(name) for name in self.environment()}
        os.environ.update(self.environment())
        kind = api_pb2.CLIENT_TYPE_CLIENT
        try:
            with modal.client.Client(self.url, kind, TOKEN) as client:
                modal.client.Client._set_env_client(client)
                try:
                    yield client
                finally:
                    modal.client.Client._set_env_client(None)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def deploy(self, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
        """Run ``modal deploy`` with these arguments; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "modal", "deploy", *arguments],
            env={**os.environ, **self.environment(), **environment},
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        printed = done.stdout + done.stderr
        if done.returncode:
            raise DeployError(f"{printed}\nnot answered: {self._wire.unanswered}")
        return printed

    def add_secret(self, name: str, **values: str) -> None:
        """A secret that an app may look up by its name."""
        number = self._ledger.new("st")
        self._ledger.secrets[number] = Secret(number, name, values)

    # facts

    @property
    def calls(self) -> list[str]:
        """The names of all gRPC calls so far."""
        return list(self._wire.calls)

    @property
    def unanswered(self) -> list[str]:
        """The names of gRPC calls that the plane refused as not implemented."""
        return list(self._wire.unanswered)

    @property
    def apps(self) -> list[str]:
        return [app.name for app in self._ledger.apps.values() if app.published]

    def _app(self, app: str) -> App:
        return self._ledger.app(app or self.apps[-1])

    def functions(self, app: str = "") -> dict[str, FunctionFacts]:
        """The functions of an app, the last one when not named; a class is ``Name.*``."""
        known = self._app(app).functions.items()
        functions = {name: self._ledger.function(number) for name, number in known}
        return {name: function_facts(self._ledger, each) for name, each in functions.items()}

    def function(self, name: str, app: str = "") -> FunctionFacts:
        return self.functions(app)[name]

    @property
    def containers(self) -> list[ContainerFacts]:
        """All containers, in the order of their start."""
        return [container_facts(each) for each in list(self._pools.containers.values())]

    def log(self, function: str) -> str:
        """What all containers of a function printed."""
        return "".join(each.log for each in self.containers if each.function == function)

    def kill_containers(self, function: str) -> int:
        """Kill a function's containers as the cloud may at any time; how many there were."""

        async def kill() -> int:
            live = [c for c in self._pools.live() if c.function.message.function_name == function]
            for container in live:
                container.kill()
            return len(live)

        return self._do(kill())

    def stop_containers(self) -> None:
        """Let every container leave as after its scaledown window, and wait until they have."""

        async def stop() -> None:
            for container in self._pools.live():
                container.stopping = True
            self._ledger.bell.ring()
            await self._ledger.bell.until(lambda: not self._pools.live(), 30)

        self._do(stop())

    def volume(self, name: str) -> Path:
        """The folder of a volume."""
        return self._volume(name).folder

    def _volume(self, name: str) -> Volume:
        return next(v for v in self._ledger.volumes.values() if v.name == name)

    @property
    def volume_calls(self) -> list[VolumeCall]:
        """Commits, reloads, writes and removals so far."""
        return list(self._ledger.volume_calls)

    # the web

    def http(self, function: str, method: str = "", app: str = "") -> str:
        """The address of a web function, or of a method of a class."""
        number = self._app(app).functions[f"{function}.*" if method else function]
        return self._sites.urls[number, method]
