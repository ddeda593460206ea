"""Every command says what it does and how it is called; asking for help costs nothing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time

import pytest

from backend.cli.main import COMMAND_NAMES

TIMES = 20
"""Starts of a bare Python that asking for help may take: 0.3 s where one takes 0.015."""
TRIES = 5
"""The quickest counts: the machine does other things too."""


def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backend.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )


@pytest.mark.parametrize("command", COMMAND_NAMES)
def test_every_command_has_help_with_an_example_that_its_own_options_take(command: str) -> None:
    from backend.cli.main import _load_command, _parser

    told = asked(command, "--help")
    assert told.returncode == 0, told.stderr
    module = _load_command(command)
    assert module.HELP in " ".join(told.stdout.split())
    assert f"Example: {module.EXAMPLE}" in " ".join(told.stdout.split())
    words = shlex.split(module.EXAMPLE)
    while "=" in words[0]:  # a variable of the environment
        del words[0]
    name, *arguments = words
    assert (name, arguments[0]) == ("prelabel", command)
    assert _parser().parse_args(arguments).command == command


def test_help_costs_a_few_starts_of_a_bare_python() -> None:
    def seconds(*command: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        return time.perf_counter() - start

    told = asked("--help").stdout
    assert all(command in told for command in COMMAND_NAMES)
    pairs = [(seconds("-m", "backend.cli", "--help"), seconds("-c", "")) for _ in range(TRIES)]
    assert min(helped for helped, _ in pairs) < TIMES * min(bare for _, bare in pairs)
