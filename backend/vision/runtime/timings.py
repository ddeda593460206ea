"""Benchmark runners on this machine and store which kind is fastest."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from backend.arrays import Floats
from backend.vision.runtime.cache_files import write_atomically
from backend.vision.runtime.runner import Runner, RunnerKind
from backend.vision.threads import count_cores, count_threads

TIMINGS_FILE = "fastest.json"
MEASUREMENTS = 3
"""Measurements of each runner; the fastest counts."""


def measure_seconds(runners: Sequence[Runner], example: Floats) -> list[float]:
    """Return the seconds of each runner for one input per thread: the minimum after a warm-up.

    The runners take turns, so that other processes slow down all of them.
    """
    inputs = [example] * count_threads()
    for runner in runners:
        runner.run(inputs)
    seconds = [[_time_run(runner, inputs) for runner in runners] for _ in range(MEASUREMENTS)]
    return [min(column) for column in zip(*seconds, strict=True)]


def _time_run(runner: Runner, inputs: Sequence[Floats]) -> float:
    start = time.perf_counter()
    runner.run(inputs)
    return time.perf_counter() - start


def load_fastest_kind(folder: Path | None, family: str) -> RunnerKind | None:
    """Return the stored fastest kind for a family on this machine; None if never measured."""
    kind = _load_timings(folder).get(f"{machine_id()} {family}") if folder else None
    return kind if kind in get_args(RunnerKind) else None


def save_fastest_kind(folder: Path | None, family: str, kind: RunnerKind) -> None:
    """Store the fastest kind; ignored if the folder is not writable."""
    if folder is None:
        return
    fastest_kinds = {**_load_timings(folder), f"{machine_id()} {family}": kind}
    with suppress(OSError):
        write_atomically(folder / TIMINGS_FILE, json.dumps(fastest_kinds, indent=1).encode())


def _load_timings(folder: Path) -> dict[str, Any]:
    """Return the stored kinds; empty if the file is missing or damaged."""
    try:
        measurements = json.loads((folder / TIMINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return measurements if isinstance(measurements, dict) else {}


def machine_id() -> str:
    """Return an id of the CPU, thread count and package versions, on which timings depend."""
    names = [platform.machine(), _processor_id(), f"{count_cores()} threads"]
    for package in ("torch", "openvino"):
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return " ".join(name for name in names if name)


def _processor_id() -> str:
    """Return the CPU name and a hash of its feature flags, which virtual machines may mask."""
    try:
        content = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return platform.processor()
    parts = (line.partition(":") for line in content.partition("\n\n")[0].splitlines())
    cpu = {name.strip(): value.strip() for name, _, value in parts}
    features = cpu.get("flags") or cpu.get("Features") or ""
    name = cpu.get("model name") or cpu.get("CPU part") or platform.processor()
    return f"{name} {hashlib.sha256(features.encode()).hexdigest()[:8]}"
