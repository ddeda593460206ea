"""The type that every module of a command defines one value of."""

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
        name: as typed on the command line.
        help: one line for ``prelabel --help``.
        example: a command line that runs it.
        add_options: adds its arguments to a parser.
        run: runs it; raises a ``PrelabelError`` when it fails.
        exit_status: the process's exit status for a result.
    """

    name: str
    help: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], CommandResult]
    exit_status: Callable[[CommandResult], int] = lambda result: 0
