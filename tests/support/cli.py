"""Run the `prelabel` command as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def run_prelabel(
    *arguments: str, input: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backend.cli", *arguments],
        env={**os.environ, **environment},
        input=input,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def json_output(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
