"""Benchmark runners on this machine and store which kind is fastest."""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from backend.arrays import Floats
from backend.vision.runtime.runner import Runner, RunnerKind, torch_thread_count

TIMINGS_FILE = "fastest.json"


def measure_seconds(runner: Runner, example: Floats) -> float:
    """Return the seconds to run one input per thread: the minimum of two runs after a warm-up."""
    inputs = [example] * torch_thread_count()
    runner.run(inputs)
    measurements = []
    for _ in range(2):
        start = time.perf_counter()
        runner.run(inputs)
        measurements.append(time.perf_counter() - start)
    return min(measurements)


def load_fastest_kind(folder: Path | None, family: str) -> RunnerKind | None:
    """Return the stored fastest kind for a family on this machine; None if never measured."""
    kind = _load_timings(folder).get(f"{_machine_id()} {family}") if folder else None
    return kind if kind in get_args(RunnerKind) else None


def save_fastest_kind(folder: Path | None, family: str, kind: RunnerKind) -> None:
    """Store the fastest kind; ignored if the folder is not writable."""
    if folder is None:
        return
    file = folder / TIMINGS_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fastest_kinds = {**_load_timings(folder), f"{_machine_id()} {family}": kind}
        temporary = file.with_name(f".{secrets.token_hex(4)}-{TIMINGS_FILE}")
        temporary.write_text(json.dumps(fastest_kinds, indent=1), encoding="utf-8")
        temporary.replace(file)
    except OSError:
        return


def _load_timings(folder: Path) -> dict[str, Any]:
    """Return the stored kinds; empty if the file is missing or damaged."""
    try:
        measurements = json.loads((folder / TIMINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return measurements if isinstance(measurements, dict) else {}


def _machine_id() -> str:
    """Return an id of the CPU, thread count and package versions, on which timings depend."""
    names = [platform.machine(), _processor_id(), f"{torch_thread_count()} threads"]
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
