"""The endpoint under a real server: hostile requests, load, promotions and its OpenAPI document."""

from __future__ import annotations

import contextlib
import io
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from backend.store.api_keys import ApiKeyStore
from tests.support.drawings import make_drawing
from tests.support.harness import EndpointServer, make_png
from tests.support.image_files import (
    MALFORMED_EXIF_FIELDS,
    ROTATED_EXIF_FIELD,
    encode_image,
    make_exif_segment,
    make_jpeg_with_repeated_scans,
    make_jpeg_with_segments,
    make_png_chunk,
)
from tests.support.published_models import make_image

INVOKE = "/v1/functions/1/invoke"
FORM = "multipart/form-data; boundary=x"
RED = make_png("red", 1)
PRIVATE = [
    "https://127.0.0.1:{port}/x.png",
    "https://2130706433:{port}/x.png",  # as a decimal number
    "https://0x7f000001:{port}/x.png",  # hexadecimal
    "https://0177.0.0.1:{port}/x.png",  # octal
    "https://127.1:{port}/x.png",  # abbreviated
    "https://[::1]:{port}/x.png",
    "https://[::ffff:127.0.0.1]:{port}/x.png",
    "https://[::127.0.0.1]:{port}/x.png",
    "https://[::ffff:0:127.0.0.1]:{port}/x.png",
    "https://[64:ff9b::7f00:1]:{port}/x.png",  # NAT64
    "https://[64:ff9b:1::7f00:1]:{port}/x.png",  # local NAT64
    "https://[2002:7f00:1::]:{port}/x.png",  # 6to4
    "https://0.0.0.0:{port}/x.png",
    "https://[::]:{port}/x.png",
    "https://localhost:{port}/x.png",
    "https://LOCALHOST:{port}/x.png",
    "https://example.com@127.0.0.1:{port}/x.png",
    "https://①②⑦.⓪.⓪.①:{port}/x.png",
    "https://169.254.169.254/latest/meta-data",
    "https://168.63.129.16/x.png",
    "https://10.0.0.1/x.png",
    "https://[fd00::1]/x.png",
    "https://[fec0::1]/x.png",
]


class Listener:
    """A server on this machine that must not be reached; counts its connections."""

    def __init__(self) -> None:
        self._four = socket.create_server(("127.0.0.1", 0))
        self.port = self._four.getsockname()[1]
        self._doors = [self._four]
        with contextlib.suppress(OSError):  # a machine without IPv6
            self._doors.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))

    def visits(self) -> int:
        """Return how many connections were made; the system accepts them by itself."""
        ready, _, _ = select.select(self._doors, [], [], 0)
        for door in ready:
            door.accept()[0].close()
        return len(ready)

    def close(self) -> None:
        for door in self._doors:
            door.close()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(published, tmp_path_factory.mktemp("endpoint") / "home"))


@pytest.fixture(scope="module")
def app(home: Path) -> Iterator[EndpointServer]:
    """An endpoint that fetches URLs, with a short time limit for requests."""
    environment = {
        "PRELABEL_FETCH_URLS": "1",
        "PRELABEL_REQUEST_SECONDS": "2",
        "PRELABEL_ALLOWED_HOSTS": "localhost,127.0.0.1",  # allowed for tasks, not for requests
    }
    app = EndpointServer(home, {**environment, "PRELABEL_CAPTURE_PER_DAY": "0"})
    for function in ("1", "3", "4"):
        app.invoke(function, RED)
    yield app
    app.stop()


@pytest.fixture(autouse=True)
def still_up(app: EndpointServer) -> Iterator[None]:
    """Check after each test that the endpoint still answers."""
    yield
    assert app.invoke("1", RED)["labelName"] == "red"


def memory(app: EndpointServer) -> int:
    return int(psutil.Process(app.server_process.pid).memory_info().rss)


def refused(answer: httpx.Response) -> str:
    """The detail of a clear refusal."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


def bomb() -> bytes:
    """A PNG of 50,000 × 50,000 black pixels, in kilobytes."""

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(6251) * 100, 9)
    png_ = b"\x89PNG\r\n\x1a\n" + make_png_chunk(b"IHDR", header) + make_png_chunk(b"IDAT", rows)
    return png_ + make_png_chunk(b"IEND", b"")


def huge_exif() -> bytes:
    """A JPEG with 10 MB of application data before its pixels."""
    content = encode_image(make_image("red", 1), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 65_535) + b"Exif\0\0" + bytes(65_527)
    return content[:2] + segment * 160 + content[2:]


def animated() -> bytes:
    file = io.BytesIO()
    frames = [make_image("red", i) for i in range(5)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def sixteen_bits() -> bytes:
    pixels = np.asarray(make_image("red", 1).convert("L"), dtype=np.uint16) * 256
    return encode_image(Image.fromarray(pixels))


def large_alpha() -> bytes:
    """A PNG of 6,000 × 6,000 pixels with transparency, 16 bits each."""
    rows = zlib.compressobj(1)
    pixels = b"".join(rows.compress(bytes(6000 * 8 + 1)) for _ in range(6000)) + rows.flush()
    header = make_png_chunk(b"IHDR", struct.pack(">IIBBBBB", 6000, 6000, 16, 6, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + make_png_chunk(b"IDAT", pixels)
        + make_png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (bomb(), 413),
        (b"", 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", 415),
        (encode_image(make_image("red", 1), "JPEG")[:-300], 422),
        (b"\x00" * 5000, 415),
        (b"GIF89a", 415),
        (b"%PDF-1.7", 415),
        (huge_exif(), 200),
        (encode_image(make_image("red", 1).convert("CMYK"), "JPEG"), 200),
        (sixteen_bits(), 200),
        (animated(), 200),
        (
            make_jpeg_with_segments(
                make_exif_segment(ROTATED_EXIF_FIELD, MALFORMED_EXIF_FIELDS[0])
            ),
            200,
        ),
        (
            make_jpeg_with_segments(
                make_exif_segment(ROTATED_EXIF_FIELD, MALFORMED_EXIF_FIELDS[1])
            ),
            200,
        ),
        (make_jpeg_with_repeated_scans(64, 500), 422),
        (encode_image(make_image("red", 1), "TIFF"), 200),
    ],
    ids=[
        *("bomb", "nothing", "svg", "truncated", "zeros", "gif head", "pdf"),
        *("huge exif", "cmyk", "16 bits", "animated", "odd resolution", "odd maker"),
        *("many passes", "tiff"),
    ],
)
def test_every_file_is_predicted_or_refused_with_a_problem(
    app: EndpointServer, content: bytes, status: int
) -> None:
    before = memory(app)
    answer = app.http.post(INVOKE, content=content)
    assert answer.status_code == status, answer.text
    if status >= 400:
        refused(answer)
    else:
        assert answer.json()["labelName"] in ("red", "blue")
    assert memory(app) - before < 150e6, "memory is released"


def test_simultaneous_large_images_stay_within_the_memory_budget(app: EndpointServer) -> None:
    """Eight images that take 290 MB each while they are decoded, of a budget of 1 GB."""
    content, most, done = large_alpha(), [memory(app)], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most.append(memory(app))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: app.http.post(INVOKE, content=content), range(8)))
    done.set()
    watcher.join()
    assert {answer.status_code for answer in answers} == {200}
    assert max(most) - most[0] < 1.3e9


def test_cmyk_and_animated_files_keep_their_colours(app: EndpointServer) -> None:
    for content in (encode_image(make_image("red", 1).convert("CMYK"), "JPEG"), animated()):
        assert app.invoke("1", content)["labelName"] == "red"


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_body_of_a_gigabyte_is_refused_and_never_in_memory(
    app: EndpointServer, announced: bool
) -> None:
    before = memory(app)
    most = [before]
    with socket.create_connection(("127.0.0.1", app.port), timeout=30) as line:
        length = "content-length: 1000000000" if announced else "transfer-encoding: chunked"
        line.sendall(f"POST {INVOKE} HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n".encode())
        part = bytes(1_000_000)
        body_chunk = part if announced else b"f4240\r\n" + part + b"\r\n"
        reply, sent = b"", 0
        with contextlib.suppress(OSError):  # the endpoint is expected to close the connection
            for _ in range(1000):
                line.sendall(body_chunk)
                sent += len(part)
                most.append(memory(app))
        with contextlib.suppress(OSError):  # a reset may overtake the answer
            reply = line.recv(65_536)
    assert not reply or b" 413 " in reply
    assert sent < 200e6, "no more than the limit and what was in transit"
    assert max(most) - before < 150e6
    assert app.invoke("1", RED)["labelName"] == "red"


def test_an_ordinary_client_receives_the_refusal_of_a_large_body(app: EndpointServer) -> None:
    answer = app.http.post(INVOKE, content=bytes(65_000_000))
    assert answer.status_code == 413
    assert "64,000,000" in refused(answer)


def test_the_listener_counts_connections(listener: Listener) -> None:
    assert listener.visits() == 0
    socket.create_connection(("127.0.0.1", listener.port)).close()
    assert listener.visits() == 1


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_in_any_notation_are_never_connected_to(
    app: EndpointServer, listener: Listener, address: str
) -> None:
    answer = app.http.post(INVOKE, json={"data": address.format(port=listener.port)})
    detail = refused(answer)  # some are not valid host names and are refused before a look-up
    assert "image address is private: " in detail or ": Invalid " in detail
    assert "PRELABEL_ALLOWED_HOSTS" not in answer.text
    assert listener.visits() == 0


def test_only_https_is_fetched(app: EndpointServer, listener: Listener) -> None:
    for address in ("http://93.184.216.34/x.png", f"http://127.0.0.1:{listener.port}/x.png"):
        assert "not supported" in refused(app.http.post(INVOKE, json={"data": address}))
    assert listener.visits() == 0


def test_a_slow_body_is_cut_off_and_silent_connections_block_no_other(app: EndpointServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", app.port)) for _ in range(200)]
    try:
        with socket.create_connection(("127.0.0.1", app.port), timeout=20) as line:
            head = f"POST {INVOKE} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
            line.sendall(head.encode())
            began = time.monotonic()
            line.sendall(b"x")
            time.sleep(1.2)
            line.sendall(b"x")
            reply = line.recv(65_536)
            assert b" 408 " in reply
            assert 1.5 < time.monotonic() - began < 10
        began = time.monotonic()
        assert app.invoke("1", RED)["labelName"] == "red"
        assert time.monotonic() - began < 5
    finally:
        for one in silent:
            one.close()


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("POST", "/v1/functions/..%2F..%2Fetc/invoke", {"content": RED}),
        ("POST", "/v1/functions/1%00/invoke", {"content": RED}),
        ("POST", f"/v1/functions/{'x' * 5000}/invoke", {"content": RED}),
        ("POST", f"{INVOKE}?version=../../1/versions", {"content": RED}),
        ("POST", f"{INVOKE}?version=%00", {"content": RED}),
        ("POST", f"{INVOKE}?labelCount=1e9", {"content": RED}),
        ("POST", f"{INVOKE}?threshold=NaN", {"content": RED}),
        ("POST", f"{INVOKE}?externalId={'x' * 300}", {"content": RED}),
        ("DELETE", INVOKE, {}),
        ("GET", INVOKE, {}),
        ("PUT", "/v1/functions/1/samples/x/annotation", {"content": b"\xff\xfe"}),
        ("PUT", "/v1/functions/1/samples/x/annotation", {"json": []}),
        ("POST", INVOKE, {"files": [("data", b"x")] * 5000}),
        ("POST", INVOKE, {"content": b"{" * 100_000, "headers": {"content-type": "x/y+json"}}),
        ("POST", INVOKE, {"content": b"--x", "headers": {"content-type": FORM}}),
        ("POST", INVOKE, {"json": {"data": "data:;base64,"}}),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_with_a_problem(
    app: EndpointServer, method: str, path: str, more: dict[str, Any]
) -> None:
    refused(app.http.request(method, path, **more))


def test_garbage_and_closed_connections_do_no_harm(app: EndpointServer) -> None:
    for content in (b"\x16\x03\x01garbage", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 1000):
        with socket.create_connection(("127.0.0.1", app.port), timeout=5) as line:
            line.sendall(content)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", app.port), timeout=5) as line:
            head = f"POST {INVOKE} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(RED)}\r\n\r\n"
            line.sendall(head.encode() + RED)  # closed without waiting for the response
    headers = {f"x-{number}": "y" * 200 for number in range(500)}
    assert app.http.post(INVOKE, content=RED, headers=headers).status_code in (200, 400, 431)


def test_simultaneous_requests_all_get_the_right_response(app: EndpointServer) -> None:
    drawn = encode_image(make_drawing(900).image)

    def one(number: int) -> bool:
        colour = ("red", "blue")[number % 2]
        if number % 5 == 0:
            return "predictions" in app.invoke("3", drawn)
        return bool(app.invoke("1", make_png(colour, number))["labelName"] == colour)

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(one, range(200)))


def test_the_openapi_document_is_true(published: Path, tmp_path: Path) -> None:
    """Schemathesis tries what the document allows and forbids, except noise as an image."""
    home = Path(shutil.copytree(published, tmp_path / "home"))
    _, key = ApiKeyStore(home).create("schemathesis", rate=100_000)
    locked = EndpointServer(home, {"PRELABEL_CAPTURE_PER_DAY": "0"})
    try:
        done = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "schemathesis"), "run"),
                *(f"{locked.url}/openapi.json", "-H", f"Authorization: Bearer {key}"),
                *("--exclude-checks", "positive_data_acceptance", "--seed", "7"),
                *("--max-examples", "15", "--phases", "examples,coverage,fuzzing"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        assert "7 selected / 7 total" in done.stdout
        assert httpx.get(f"{locked.url}/v1/functions", trust_env=False).status_code == 401
    finally:
        locked.stop()


def test_a_promotion_under_load_fails_no_request(published: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(published, tmp_path / "home"))
    app = EndpointServer(home, {"PRELABEL_CAPTURE_PER_DAY": "0"})
    counts: dict[str, int] = {}
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=app.url, timeout=60, trust_env=False) as http:
            while not stop.is_set():
                answer = http.post(INVOKE, content=RED)
                version = answer.json().get("version", f"status {answer.status_code}")
                counts[version] = counts.get(version, 0) + 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        code = (
            "from pathlib import Path; "
            "from tests.support.published_models import publish_version, train_colour_model; "
            f"print(publish_version(Path({str(home)!r}), '1', *train_colour_model()))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = done.stdout.strip()
        assert after, done.stderr
        deadline = time.monotonic() + 30
        while after not in counts and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        app.stop()
    assert len(counts) == 2, counts
    assert after in counts


def test_requests_that_arrived_before_a_shutdown_are_answered(
    published: Path, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(published, tmp_path / "home"))
    app = EndpointServer(home, {"PRELABEL_CAPTURE_PER_DAY": "0"})
    app.invoke("3", RED)
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000), "red").save(file, "PNG")  # small to send, slow to decode
    slow = file.getvalue()
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(httpx.post, app.url + INVOKE, content=slow, trust_env=False, timeout=60)
            for _ in range(8)
        ]
        time.sleep(0.5)
        assert not all(one.done() for one in asked)
        os.kill(app.server_process.pid, signal.SIGTERM)
        ended = [one.exception() or one.result().status_code for one in asked]
    assert ended == [200] * 8
    app.stop()


def test_the_commands_report_what_is_missing(tmp_path: Path) -> None:
    environment = {**os.environ, "PRELABEL_HOME": str(tmp_path)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "backend.cli", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    refused = run("endpoint", "--host", "0.0.0.0")  # noqa: S104 - refused
    assert refused.returncode == 2
    assert "prelabel keys create" in refused.stderr
    made = run("keys", "create", "greenhouse", "--function", "3", "--quota", "10")
    assert made.stdout.startswith("plk_")
    listed = run("keys", "list")
    assert "greenhouse" in listed.stdout
    assert made.stdout.split()[0] not in listed.stdout
    assert run("keys", "revoke", made.stdout.split("_")[1]).returncode == 0
    assert "revoked" in run("keys", "list").stdout
    assert run("keys", "revoke", "nobody").returncode == 1
    (tmp_path / "alerts.toml").write_text("[[alert]]\nlabel = 3\n")
    broken = run("endpoint", "--open")
    assert broken.returncode == 2
    assert "'function' is missing" in broken.stderr
