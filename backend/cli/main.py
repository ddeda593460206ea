"""``prelabel``: parse the command line and run one command."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence

from backend.cli import (
    advise,
    connect,
    demo,
    deploy,
    doctor,
    endpoint,
    export,
    forget,
    import_labels,
    init,
    keys,
    label_errors,
    login,
    predict,
    promote,
    rename,
    rollback,
    serve,
    similar,
    status,
    terminal,
    train,
    versions,
)
from backend.cli.command import Command
from backend.errors import PrelabelError, UsageError

COMMANDS: tuple[Command, ...] = (
    *(demo.COMMAND, init.COMMAND, serve.COMMAND, connect.COMMAND, login.COMMAND),
    *(import_labels.COMMAND, status.COMMAND, rename.COMMAND, forget.COMMAND),
    *(train.COMMAND, versions.COMMAND, promote.COMMAND, rollback.COMMAND),
    *(doctor.COMMAND, advise.COMMAND, label_errors.COMMAND, similar.COMMAND),
    *(predict.COMMAND, export.COMMAND, endpoint.COMMAND, keys.COMMAND, deploy.COMMAND),
)
INTERRUPTED_EXIT_STATUS, BROKEN_PIPE_EXIT_STATUS = 130, 141
"""As a shell reports SIGINT and SIGPIPE."""
QUIET_LOGGERS = ("httpx", "httpcore", "asyncio", "filelock", "urllib3")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command-line arguments; ``sys.argv[1:]`` by default.

    Returns:
        the exit status: 0 for success, 1 for a failure, 2 for wrong usage.
    """
    options = make_parser().parse_args(arguments)
    _configure_logging(options.debug)
    command: Command = options.command
    try:
        return _run_command(command, options)
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_STATUS
    except BrokenPipeError:  # the reader has enough, as in `prelabel versions | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_EXIT_STATUS
    finally:
        terminal.clear_progress()


def _run_command(command: Command, options: argparse.Namespace) -> int:
    """Run a command, print its result or its error, and return the exit status."""
    try:
        result = command.run(options)
        sys.stdout.flush()
    except PrelabelError as error:
        if options.debug:
            raise
        terminal.clear_progress()
        print(f"prelabel: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    if options.json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
    return command.exit_status(result)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="prelabel",
        description="Pre-annotate images in Label Studio and learn from the labels.",
        epilog="Start with: prelabel demo",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=f"Example: {command.example}",
        )
        subparser.add_argument(
            "--json", action="store_true", help="print the result as one JSON object on stdout"
        )
        subparser.add_argument(
            "--debug", action="store_true", help="print tracebacks and debug messages"
        )
        command.add_options(subparser)
        subparser.set_defaults(command=command)
    return parser


def _configure_logging(debug: bool) -> None:
    level = logging.DEBUG if debug else logging.INFO
    handler = terminal.TerminalLogHandler()
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
    for logger_name in QUIET_LOGGERS:
        logging.getLogger(logger_name).setLevel(logging.WARNING)
