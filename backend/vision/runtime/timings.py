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
from backend.vision.runtime.runner import Kind, Runner, threads_here

TIMES = "fastest.json"


def seconds(runner: Runner, example: Floats) -> float:
    """For as many inputs as there are threads, twice; the better of two."""
    inputs = [example] * threads_here()
    runner.run(inputs)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        runner.run(inputs)
        times.append(time.perf_counter() - start)
    return min(times)


def remembered(folder: Path | None, family: str) -> Kind | None:
    """The way that was fastest for this family, if it was measured on this machine."""
    kind = _times(folder).get(f"{_machine()} {family}") if folder else None
    return kind if kind in get_args(Kind) else None


def remember(folder: Path | None, family: str, kind: Kind) -> None:
    """Keep it; a folder that cannot be written costs the next start a measurement."""
    if folder is None:
        return
    file = folder / TIMES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = {**_times(folder), f"{_machine()} {family}": kind}
        temporary = file.with_name(f".{secrets.token_hex(4)}-{TIMES}")
        temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
        temporary.replace(file)
    except OSError:  # timed again at the next start
        return


def _times(folder: Path) -> dict[str, Any]:
    """What was measured before; nothing where the file is missing or damaged."""
    try:
        times = json.loads((folder / TIMES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return times if isinstance(times, dict) else {}


def _machine() -> str:
    """What the times depend on besides the network."""
    names = [platform.machine(), _processor(), f"{threads_here()} threads"]
    for package in ("torch", "openvino"):
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return " ".join(name for name in names if name)


def _processor() -> str:
    """Its name and a digest of what it can do; virtual machines of one name differ in that."""
    try:
        first = (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        )
    except OSError:  # not Linux
        return platform.processor()
    parts = (line.partition(":") for line in first.splitlines())
    told = {name.strip(): value.strip() for name, _, value in parts}
    abilities = told.get("flags") or told.get("Features") or ""
    digest = hashlib.sha256(abilities.encode()).hexdigest()[:8]
    return f"{told.get('model name') or told.get('CPU part') or platform.processor()} {digest}"
