"""``prelabel deploy``: deploy training, prediction and the endpoint to Modal."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from backend.cli.command import Command, CommandResult
from backend.cli.terminal import print_line


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="only check the requirements")


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.settings import read_settings
    from serverless.deploy import check_deployable, deploy, next_steps

    settings = read_settings()
    if options.check:
        check_deployable(settings)
        print_line("All requirements are met. Run `prelabel deploy` to deploy.", options)
        return {"checked": True}
    deployed = deploy(settings, lambda line: print_line(line, options))
    for line in next_steps(deployed, settings):
        print_line(line, options)
    return asdict(deployed)


COMMAND = Command(
    "deploy",
    "deploy training, the backend and the predict endpoint to Modal",
    "PRELABEL_USER=team PRELABEL_PASSWORD=… prelabel deploy",
    _add_options,
    _run,
)
