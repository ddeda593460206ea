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

COMMAND_NAMES = (
    *("demo", "init", "serve", "connect", "status", "train", "versions", "promote", "rollback"),
    *("doctor", "advise", "label-errors", "similar", "predict", "export"),
    *("endpoint", "keys", "deploy"),
)
INTERRUPTED_EXIT_STATUS = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; the process's own when not given.

    Returns:
        exit status: 0 done, 1 failed, 2 wrong usage.
    """
    options = _parser().parse_args(arguments)
    _configure_logging(options.debug)
    command = _load_command(options.command)
    try:
        result = command.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_STATUS
    except PrelabelError as error:
        if options.debug:
            raise
        print(f"prelabel: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    if options.json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
    return int(command.status(result)) if hasattr(command, "status") else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prelabel",
        description="Pre-annotates images in Label Studio and learns from its labels.",
        epilog="Start with: prelabel demo",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMAND_NAMES:
        module = _load_command(name)
        subparser = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"Example: {module.EXAMPLE}",
        )
        subparser.add_argument(
            "--json", action="store_true", help="figures as one JSON object on stdout"
        )
        subparser.add_argument("--debug", action="store_true", help="tracebacks and more to read")
        module.add_options(subparser)
    return parser


def _load_command(command: str) -> Any:
    return importlib.import_module(f"backend.cli.{command.replace('-', '_')}")


def _configure_logging(debug: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    for logger_name in ("httpx", "httpcore", "asyncio", "filelock", "urllib3"):
        logging.getLogger(logger_name).setLevel(logging.WARNING)


def print_line(line: str, options: Any) -> None:
    """A line for people: on stdout, or on stderr where stdout belongs to the figures."""
    print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
