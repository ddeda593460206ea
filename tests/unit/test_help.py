"""Every command has help and an example; showing help is fast."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time

import pytest

from backend.cli.command import Command
from backend.cli.main import COMMANDS, make_parser

MAX_BARE_PYTHON_STARTS = 20
"""Time limit for help in starts of a bare Python: 0.3 s where one takes 0.015 s."""
TRIALS = 5
"""The fastest trial counts, because other processes share the machine."""


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backend.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_command_has_help_and_an_example_that_its_own_options_accept(command: Command) -> None:
    result = run_cli(command.name, "--help")
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert command.help[1:] in text
    assert f"Example: {command.example}" in text
    words = shlex.split(command.example)
    while "=" in words[0]:  # an environment variable
        del words[0]
    name, *arguments = words
    assert (name, arguments[0]) == ("prelabel", command.name)
    assert make_parser().parse_args(arguments).command is command


def test_help_takes_a_few_starts_of_a_bare_python_at_most() -> None:
    def seconds(*command: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        return time.perf_counter() - start

    text = run_cli("--help").stdout
    assert all(command.name in text for command in COMMANDS)
    pairs = [(seconds("-m", "backend.cli", "--help"), seconds("-c", "")) for _ in range(TRIALS)]
    limit = MAX_BARE_PYTHON_STARTS * min(bare for _, bare in pairs)
    assert min(help_seconds for help_seconds, _ in pairs) < limit
