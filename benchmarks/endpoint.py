"""The endpoint's speed beside its model alone, a promotion under load, and many requests.

    uv run python -m benchmarks.endpoint [--seconds 20] [--soak 100000]

One home with a function of choices (builtin encoder) and one of boxes (the small builtin network at
640 pixels), asked with drawn scenes as JPEG of 640 × 480. *Bare* is a loop in a process of its own
that decodes the same bytes and asks the same loaded version, one image after another. The load
comes from this process, over keep-alive connections on loopback: it takes its share of the
processors. All are measured in turn, several times, as the machine is quicker at times: the ratios
are of the same turn, and what is shown is the median.
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

from tests.support.drawings import drawing
from tests.support.harness import COLOURS, Application, png
from tests.support.published_models import BOXES, colour_model, place_model, publish

CLIENTS = (1, 8, 32)
TURNS = 5
FUNCTIONS = {"1": "choices", "3": "boxes"}
QUIET = {"PRELABEL_CAPTURE_PER_DAY": "0"}
BARE = """
import sys, time
from pathlib import Path
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.endpoint.functions import load_here
from backend.endpoint.invoker import read_picture
home, function, folder, seconds = sys.argv[1:]
resources = Resources(Settings(home=Path(home)))
record = resources.projects.get(function)
loaded = load_here(resources, record, resources.versions(record).live())
images = [file.read_bytes() for file in sorted(Path(folder).iterdir())]
times, until = [], time.perf_counter() + float(seconds)
while time.perf_counter() < until:
    content = images[len(times) % len(images)]
    start = time.perf_counter()
    loaded.say([read_picture(content, 100_000_000, loaded.at_least)])
    times.append(time.perf_counter() - start)
times.sort()
print(len(times) / float(seconds), times[len(times) // 2] * 1000)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--soak", type=int, default=0, help="requests in a row, with memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, pictures = Path(folder) / "home", Path(folder) / "pictures"
        prepare(home, pictures)
        images = [file.read_bytes() for file in sorted(pictures.iterdir())]
        app = Application(home, QUIET)
        try:
            speeds(app, home, pictures, options.seconds / TURNS)
            promotion(app, home, images, options.seconds)
            if options.soak:
                soak(app, [png(colour, i) for colour in COLOURS for i in range(50)], options.soak)
        finally:
            app.stop()


def prepare(home: Path, pictures: Path) -> None:
    """A home with two functions, and pictures to ask about."""
    publish(home, "1", *colour_model())
    places = place_model(BOXES)
    finder = places.finders["things"]
    large = replace(finder, meaning=replace(finder.meaning, size=640))  # type: ignore[type-var]
    publish(home, "3", replace(places, finders={"things": large}))
    pictures.mkdir()
    for number in range(16):
        file = io.BytesIO()
        drawing(number, (640, 480), radius=(20, 40)).image.save(file, "JPEG", quality=90)
        (pictures / f"{number:02}.jpg").write_bytes(file.getvalue())


def alone(home: Path, function: str, pictures: Path, seconds: float) -> tuple[float, float]:
    """Images a second and the median in milliseconds, of the model alone."""
    command = [sys.executable, "-c", BARE, str(home), function, str(pictures), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rate, median = map(float, done.stdout.split())
    return rate, median


def speeds(app: Application, home: Path, pictures: Path, seconds: float) -> None:
    images = [file.read_bytes() for file in sorted(pictures.iterdir())]
    heads = ("function", "clients", "per s", "p50 ms", "p99 ms", "of bare", "more ms")
    print("".join(f"{head:>9}" for head in heads))
    for function, name in FUNCTIONS.items():
        asyncio.run(load(app, function, images, 2, 2.0))
        rows: dict[int, list[tuple[float, ...]]] = {clients: [] for clients in (0, *CLIENTS)}
        for _ in range(TURNS):
            rate, median = alone(home, function, pictures, seconds)
            rows[0].append((rate, median, median, 1.0, 0.0))
            for clients in CLIENTS:
                times, failed = asyncio.run(load(app, function, images, clients, seconds))
                assert not failed
                now, p50, p99 = len(times) / seconds, *percentiles(times)
                rows[clients].append((now, p50, p99, now / rate, p50 - median))
        for clients, each in rows.items():
            figures = [statistics.median(column) for column in zip(*each, strict=True)]
            shown = "".join(f"{figure:>9.2f}" for figure in figures)
            print(f"{name:>9}{clients or 'bare':>9}{shown}", flush=True)


def percentiles(times: list[float]) -> tuple[float, float]:
    """The median and the 99th of 100, in milliseconds."""
    times.sort()
    return times[len(times) // 2] * 1000, times[int(len(times) * 0.99)] * 1000


def promotion(app: Application, home: Path, images: Sequence[bytes], seconds: float) -> None:
    """A version goes live while 8 clients ask."""

    async def both() -> tuple[int, int]:
        asking = asyncio.create_task(load(app, "1", images, 8, seconds))
        await asyncio.sleep(seconds / 4)
        await asyncio.to_thread(publish, home, "1", *colour_model())
        times, failed = await asking
        return len(times), failed

    answered, failed = asyncio.run(both())
    print(f"promotion under load: {answered} answered, {failed} failed", flush=True)


def soak(app: Application, images: Sequence[bytes], requests: int) -> None:
    """Many requests with small images, and the process's memory at every tenth."""
    process = psutil.Process(app.program.pid)
    sizes = [process.memory_info().rss / 1e6]
    start = time.perf_counter()
    for _ in range(10):
        asyncio.run(load(app, "1", images, 8, 1e9, most=requests // 10))
        sizes.append(process.memory_info().rss / 1e6)
    seconds = time.perf_counter() - start
    shown = " ".join(f"{size:.0f}" for size in sizes)
    print(f"{requests} requests in {seconds:.0f} s, memory in MB: {shown}")
    print(f"from the second tenth on: {statistics.fmean(sizes[6:]) - sizes[2]:+.1f} MB")


async def load(
    app: Application,
    function: str,
    images: Sequence[bytes],
    clients: int,
    seconds: float,
    most: int = 10**12,
) -> tuple[list[float], int]:
    """Ask from several connections; the seconds of each answer, and how many failed."""
    times: list[float] = []
    failed = 0
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        turn = number
        while time.perf_counter() < until and len(times) < most:
            content = images[turn % len(images)]
            turn += clients
            head = (
                f"POST /v1/functions/{function}/invoke HTTP/1.1\r\nhost: x\r\n"
                f"content-type: image/jpeg\r\ncontent-length: {len(content)}\r\n\r\n"
            )
            start = time.perf_counter()
            writer.write(head.encode() + content)
            status = await _answer(reader)
            times.append(time.perf_counter() - start)
            failed += status != 200
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return times, failed


async def _answer(reader: asyncio.StreamReader) -> int:
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
