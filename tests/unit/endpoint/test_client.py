"""The client for users to copy: with a real server, and alone in a folder."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from backend.endpoint.assembly import create_endpoint
from backend.settings import Settings
from backend.store.api_keys import ApiKeyStore
from serverless.client import Client, EndpointError
from tests.support.harness import make_png

FILE = Path(sys.modules[Client.__module__].__file__ or "")


@contextmanager
def serving(home: Path, **settings: Any) -> Iterator[str]:
    """Run the endpoint under a real server; yield its URL."""
    app = create_endpoint(Settings(home=home, **settings))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def served(home: Path) -> Iterator[str]:
    """The endpoint with default settings."""
    with serving(home) as address:
        yield address


def test_it_invokes_corrects_and_lists(served: str, home: Path, tmp_path: Path) -> None:
    _, key = ApiKeyStore(home).create("app")
    client = Client(served, key)
    file = tmp_path / "x.png"
    file.write_bytes(make_png("red", 1))
    assert client.invoke("1", file, externalId="bed/7", labelCount=1)["labelName"] == "red"
    many = client.invoke_batch("1", [make_png("blue", 1), file], capture=False)
    assert [row["labelName"] for row in many["results"]] == ["blue", "red"]
    assert [f["id"] for f in client.functions()] == ["1", "2", "3", "4", "5"]
    with pytest.raises(EndpointError, match="was not captured") as caught:
        client.correct("1", "nobody's", labelName="blue")
    assert caught.value.status == 404
    with pytest.raises(EndpointError, match="Send an API key"):
        Client(served).functions()


def test_it_waits_as_long_as_the_endpoint_asks(served: str, home: Path) -> None:
    _, key = ApiKeyStore(home).create("slow", rate=1)
    client = Client(served, key)
    began = time.monotonic()
    answers = [client.invoke("1", make_png("red", i))["labelName"] for i in range(3)]
    assert answers == ["red"] * 3
    assert time.monotonic() - began >= 1


def test_it_does_not_wait_for_an_exhausted_quota(served: str, home: Path) -> None:
    _, key = ApiKeyStore(home).create("few", quota=1)
    client = Client(served, key)
    client.invoke("1", make_png("red", 1))
    began = time.monotonic()
    with pytest.raises(EndpointError, match="next month") as caught:
        client.invoke("1", make_png("red", 2))
    assert caught.value.status == 429
    assert time.monotonic() - began < 5


def test_a_request_that_is_too_large_is_refused_once_with_the_reason(home: Path) -> None:
    _, key = ApiKeyStore(home).create("large")
    with serving(home, max_request_bytes=1_000_000) as address:
        client = Client(address, key)
        for send in (
            partial(client.invoke, "1", bytes(60_000_000)),
            partial(client.invoke_batch, "1", [bytes(30_000_000)] * 2),
        ):
            began = time.monotonic()
            with pytest.raises(EndpointError, match="may have at most 1,000,000 bytes") as caught:
                send()
            assert caught.value.status == 413
            assert time.monotonic() - began < 5
        assert client.invoke("1", make_png("red", 1))["labelName"] == "red"


def test_a_batch_is_sent_without_the_overhead_of_base64(home: Path) -> None:
    _, key = ApiKeyStore(home).create("batch")
    padded = make_png("red", 1) + bytes(450_000)  # two of them would be too large in base64
    with serving(home, max_request_bytes=1_000_000) as address:
        rows = Client(address, key).invoke_batch("1", [padded, b"--\r\nnone", padded])["results"]
    assert [row.get("labelName") for row in rows] == ["red", None, "red"]
    assert "error" in rows[1]


def test_an_empty_batch_is_refused(served: str, home: Path) -> None:
    _, key = ApiKeyStore(home).create("none")
    with pytest.raises(EndpointError, match="has no image"):
        Client(served, key).invoke_batch("1", [])


def test_printing_a_client_does_not_show_its_key() -> None:
    assert repr(Client("http://127.0.0.1:9", "plk_secret")).count("secret") == 0


def test_it_needs_only_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(FILE.read_text())
    code = (
        "from client import Client, EndpointError\n"
        "try: Client('http://127.0.0.1:9').functions()\n"
        "except EndpointError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.')\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "cannot be reached" in done.stdout, done.stderr
