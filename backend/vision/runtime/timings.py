"""Which runner was fastest on this machine: measured once, then remembered."""

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
    """For as many inputs as there are threads, twice; the better of two."""
    inputs = [example] * torch_thread_count()
    runner.run(inputs)
    measurements = []
    for _ in range(2):
        start = time.perf_counter()
        runner.run(inputs)
        measurements.append(time.perf_counter() - start)
    return min(measurements)


def load_fastest_kind(folder: Path | None, family: str) -> RunnerKind | None:
    """The way that was fastest for this family, if it was measured on this machine."""
    kind = _load_timings(folder).get(f"{_machine_id()} {family}") if folder else None
    return kind if kind in get_args(RunnerKind) else None


def save_fastest_kind(folder: Path | None, family: str, kind: RunnerKind) -> None:
    """Keep it; a folder that cannot be written costs the next start a measurement."""
    if folder is None:
        return
    file = folder / TIMINGS_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        all_measurements = {**_load_timings(folder), f"{_machine_id()} {family}": kind}
        temporary = file.with_name(f".{secrets.token_hex(4)}-{TIMINGS_FILE}")
        temporary.write_text(json.dumps(all_measurements, indent=1), encoding="utf-8")
        temporary.replace(file)
    except OSError:  # timed again at the next start
        return


def _load_timings(folder: Path) -> dict[str, Any]:
    """What was measured before; nothing where the file is missing or damaged."""
    try:
        measurements = json.loads((folder / TIMINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return measurements if isinstance(measurements, dict) else {}


def _machine_id() -> str:
    """What the times depend on besides the network."""
    names = [platform.machine(), _processor_id(), f"{torch_thread_count()} threads"]
    for package in ("torch", "openvino"):
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return " ".join(name for name in names if name)


def _processor_id() -> str:
    """Its name and a digest of what it can do; virtual machines of one name differ in that."""
    try:
        first_entry = (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        )
    except OSError:  # not Linux
        return platform.processor()
    parts = (line.partition(":") for line in first_entry.splitlines())
    cpu_fields = {name.strip(): value.strip() for name, _, value in parts}
    cpu_flags = cpu_fields.get("flags") or cpu_fields.get("Features") or ""
    digest = hashlib.sha256(cpu_flags.encode()).hexdigest()[:8]
    return f"{cpu_fields.get('model name') or cpu_fields.get('CPU part') or platform.processor()} {digest}"
