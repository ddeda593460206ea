"""``prelabel``: reads the command line and hands over to one module per command."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from backend.errors import PrelabelError, UsageError

COMMANDS = (
    *("demo", "init", "serve", "connect", "status", "train", "versions", "promote", "rollback"),
    *("doctor", "advise", "label-errors", "similar", "predict", "export"),
    *("endpoint", "keys", "deploy"),
)
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; the process's own when not given.

    Returns:
        exit status: 0 done, 1 failed, 2 wrong usage.
    """
    options = _parser().parse_args(arguments)
    _log_to_stderr(options.debug)
    command = _module(options.command)
    try:
        figures = command.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except PrelabelError as error:
        if options.debug:
            raise
        print(f"prelabel: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    if options.json:
        print(json.dumps(figures, ensure_ascii=False), flush=True)
    return int(command.status(figures)) if hasattr(command, "status") else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prelabel",
        description="Pre-annotates images in Label Studio and learns from its labels.",
        epilog="Start with: prelabel demo",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = _module(name)
        sub = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"Example: {module.EXAMPLE}",
        )
        sub.add_argument("--json", action="store_true", help="figures as one JSON object on stdout")
        sub.add_argument("--debug", action="store_true", help="tracebacks and more to read")
        module.add_options(sub)
    return parser


def _module(command: str) -> Any:
    return importlib.import_module(f"backend.cli.{command.replace('-', '_')}")


def _log_to_stderr(debug: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    for chatty in ("httpx", "httpcore", "asyncio", "filelock", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def say(line: str, options: Any) -> None:
    """A line for people: on stdout, or on stderr where stdout belongs to the figures."""
    print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
