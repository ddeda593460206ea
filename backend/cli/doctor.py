"""``prelabel doctor``: report what is wrong with the setup and how to fix it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from backend.cli import arguments
from backend.cli.command import Command, CommandResult
from backend.cli.terminal import print_line

if TYPE_CHECKING:
    from backend.doctor.check import CheckResult


def _add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add_project_argument(parser, "to check all connected ones")
    arguments.add_backend_option(parser)


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.doctor.doctor import Doctor
    from backend.onboarding.backend_connection import validate_backend_url
    from backend.onboarding.backend_port import default_backend_url
    from backend.settings import read_settings

    def print_result(result: CheckResult) -> None:
        project_prefix = f"[{result.project}] " if result.project else ""
        mark, _, text = str(result).partition(" ")
        print_line(f"{mark} {project_prefix}{text}", options)

    settings = read_settings()
    backend = validate_backend_url(options.backend or default_backend_url(settings), settings)
    results = Doctor(settings, backend, print_result).run(options.project)
    failed_count = sum(result.state == "bad" for result in results)
    checked_count = sum(result.state != "open" for result in results)
    print_line(
        f"{failed_count} of {checked_count} checks failed." if failed_count else "No check failed.",
        options,
    )
    return {"ok": not failed_count, "lines": [asdict(result) for result in results]}


COMMAND = Command(
    "doctor",
    "check the whole setup and suggest fixes",
    "prelabel doctor 3",
    _add_options,
    _run,
    exit_status=lambda result: int(not result["ok"]),
)
