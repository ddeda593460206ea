"""Measure the endpoint's throughput against its model alone, under a promotion, and over time.

    uv run python -m benchmarks.endpoint [--seconds 20] [--soak 100000]

One function of choices (builtin encoder) and one of boxes (the small builtin network at 640 pixels)
receive drawn scenes as JPEG of 640 × 480. *Bare* is a loop in a process of its own that decodes the
same bytes and runs the same version, one image after another. Requests come from this process over
keep-alive connections on loopback, and share the CPU. Everything is measured five times in turn,
because the machine's speed varies; the tables show medians, and ratios compare the same turn.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from backend.bootstrap import make_resources
from backend.endpoint.functions import load_local_version
from backend.endpoint.invoker import read_image
from backend.settings import Settings
from tests.support.drawings import make_drawing
from tests.support.harness import RGB_BY_COLOUR, EndpointServer, make_png
from tests.support.published_models import (
    BOXES_CONTROL,
    publish_version,
    train_colour_model,
    train_detector_model,
)

CLIENT_COUNTS = (1, 8, 32)
TURN_COUNT = 5
FUNCTION_KINDS = {"1": "choices", "3": "boxes"}
NO_CAPTURE_SETTINGS = {"PRELABEL_CAPTURE_PER_DAY": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--soak", type=int, default=0, help="requests of the memory test")
    parser.add_argument("--bare", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        time_bare_model(*options.bare)
        return
    with tempfile.TemporaryDirectory() as folder:
        home, image_folder = Path(folder) / "home", Path(folder) / "images"
        prepare_home(home, image_folder)
        images = [file.read_bytes() for file in sorted(image_folder.iterdir())]
        app = EndpointServer(home, NO_CAPTURE_SETTINGS)
        try:
            measure_speeds(app, home, image_folder, options.seconds / TURN_COUNT)
            measure_promotion(app, home, images, options.seconds)
            if options.soak:
                run_soak_test(
                    app,
                    [make_png(colour, i) for colour in RGB_BY_COLOUR for i in range(50)],
                    options.soak,
                )
        finally:
            app.stop()


def prepare_home(home: Path, image_folder: Path) -> None:
    """Publish two functions, and draw the images of the requests."""
    publish_version(home, "1", *train_colour_model())
    detector_model = train_detector_model(BOXES_CONTROL)
    detector = detector_model.detectors["things"]
    large_detector = replace(detector, class_mapping=replace(detector.class_mapping, size=640))  # type: ignore[type-var]
    publish_version(home, "3", replace(detector_model, detectors={"things": large_detector}))
    image_folder.mkdir()
    for number in range(16):
        file = io.BytesIO()
        make_drawing(number, (640, 480), radius=(20, 40)).image.save(file, "JPEG", quality=90)
        (image_folder / f"{number:02}.jpg").write_bytes(file.getvalue())


def measure_bare_model(
    home: Path, function: str, image_folder: Path, seconds: float
) -> tuple[float, float]:
    """Return images per second and median milliseconds of the model in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.endpoint", "--bare"]
    command += [str(home), function, str(image_folder), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rate, median = map(float, done.stdout.splitlines()[-1].split())
    return rate, median


def time_bare_model(home: str, function: str, image_folder: str, seconds: str) -> None:
    """Decode and predict images one after another; print the rate and the median."""
    resources = make_resources(Settings(home=Path(home)))
    record = resources.projects.get(function)
    version = resources.versions(record).live()
    assert version is not None
    loaded = load_local_version(resources, record, version)
    images = [file.read_bytes() for file in sorted(Path(image_folder).iterdir())]
    times: list[float] = []
    end = time.perf_counter() + float(seconds)
    while time.perf_counter() < end:
        content = images[len(times) % len(images)]
        start = time.perf_counter()
        loaded.predict([read_image(content, 100_000_000, loaded.min_pixels)])
        times.append(time.perf_counter() - start)
    print(len(times) / float(seconds), statistics.median_high(times) * 1000)


def measure_speeds(app: EndpointServer, home: Path, image_folder: Path, seconds: float) -> None:
    images = [file.read_bytes() for file in sorted(image_folder.iterdir())]
    heads = ("function", "clients", "per s", "p50 ms", "p99 ms", "of bare", "more ms")
    print("".join(f"{head:>9}" for head in heads))
    for function, name in FUNCTION_KINDS.items():
        asyncio.run(run_clients(app, function, images, 2, 2.0))
        rows: dict[int, list[tuple[float, ...]]] = {clients: [] for clients in (0, *CLIENT_COUNTS)}
        for _ in range(TURN_COUNT):
            rate, median = measure_bare_model(home, function, image_folder, seconds)
            rows[0].append((rate, median, median, 1.0, 0.0))
            for clients in CLIENT_COUNTS:
                times, failed = asyncio.run(run_clients(app, function, images, clients, seconds))
                assert not failed
                throughput, p50, p99 = len(times) / seconds, *percentiles(times)
                rows[clients].append((throughput, p50, p99, throughput / rate, p50 - median))
        for clients, turn_results in rows.items():
            figures = [statistics.median(column) for column in zip(*turn_results, strict=True)]
            columns_text = "".join(f"{figure:>9.2f}" for figure in figures)
            print(f"{name:>9}{clients or 'bare':>9}{columns_text}", flush=True)


def percentiles(times: list[float]) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds."""
    times.sort()
    return times[len(times) // 2] * 1000, times[int(len(times) * 0.99)] * 1000


def measure_promotion(
    app: EndpointServer, home: Path, images: Sequence[bytes], seconds: float
) -> None:
    """Promote a version while 8 clients send requests."""

    async def load_and_promote() -> tuple[int, int]:
        load_task = asyncio.create_task(run_clients(app, "1", images, 8, seconds))
        await asyncio.sleep(seconds / 4)
        await asyncio.to_thread(publish_version, home, "1", *train_colour_model())
        times, failed = await load_task
        return len(times), failed

    answered, failed = asyncio.run(load_and_promote())
    print(f"promotion under load: {answered} responses, {failed} failed", flush=True)


def run_soak_test(app: EndpointServer, images: Sequence[bytes], requests: int) -> None:
    """Send many requests with small images; print the memory after each tenth."""
    process = psutil.Process(app.server_process.pid)
    memory_sizes = [process.memory_info().rss / 1e6]
    start = time.perf_counter()
    for _ in range(10):
        asyncio.run(run_clients(app, "1", images, 8, 1e9, max_requests=requests // 10))
        memory_sizes.append(process.memory_info().rss / 1e6)
    seconds = time.perf_counter() - start
    memory_text = " ".join(f"{size:.0f}" for size in memory_sizes)
    print(f"{requests} requests in {seconds:.0f} s, memory in MB: {memory_text}")
    print(
        f"from the second tenth on: {statistics.fmean(memory_sizes[6:]) - memory_sizes[2]:+.1f} MB"
    )


async def run_clients(
    app: EndpointServer,
    function: str,
    images: Sequence[bytes],
    clients: int,
    seconds: float,
    max_requests: int = 10**12,
) -> tuple[list[float], int]:
    """Send requests over several connections; return their seconds and the number of failures."""
    times: list[float] = []
    failed = 0
    deadline = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        image_index = number
        while time.perf_counter() < deadline and len(times) < max_requests:
            content = images[image_index % len(images)]
            image_index += clients
            head = (
                f"POST /v1/functions/{function}/invoke HTTP/1.1\r\nhost: x\r\n"
                f"content-type: image/jpeg\r\ncontent-length: {len(content)}\r\n\r\n"
            )
            start = time.perf_counter()
            writer.write(head.encode() + content)
            status = await _read_status(reader)
            times.append(time.perf_counter() - start)
            failed += status != 200
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return times, failed


async def _read_status(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    )
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


if __name__ == "__main__":
    main()
