"""The type of a subcommand, of which each module defines one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CommandResult = Mapping[str, Any]
"""The object that ``--json`` prints."""


@dataclass(frozen=True)
class Command:
    """One subcommand of ``prelabel``.

    Attributes:
        name: name on the command line.
        help: one line for ``prelabel --help``.
        example: example of a command line.
        add_options: adds its arguments to a parser.
        run: runs it and returns its result; raises a ``PrelabelError`` if it fails.
        exit_status: returns the exit status of the process for a result.
    """

    name: str
    help: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], CommandResult]
    exit_status: Callable[[CommandResult], int] = lambda result: 0
