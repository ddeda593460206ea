"""``prelabel demo``: run the whole loop offline, on synthetic images."""

from __future__ import annotations

import argparse
import signal

from backend.cli.arguments import whole_number
from backend.cli.command import Command, CommandResult
from backend.cli.terminal import print_line, show_progress

DEMO_TASKS = ("classification", "boxes", "points")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", choices=DEMO_TASKS, default=DEMO_TASKS[0], help="task (default classification)"
    )
    parser.add_argument(
        "--labels",
        type=whole_number(1, 500),
        help="number of images to label (default 60 for classification, 40 for boxes and points)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the images (default 0)")
    parser.add_argument(
        "--keep", action="store_true", help="leave Label Studio and the backend running at the end"
    )
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="repeat the run in random order for comparison "
        "(default for classification; doubles the time for boxes and points)",
    )


def _run(options: argparse.Namespace) -> CommandResult:
    from demo.run_demo import Demo
    from demo.scenarios import SCENARIOS

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    scenario = SCENARIOS[options.task]()
    return Demo(
        scenario,
        options.labels or scenario.label_budget,
        options.keep,
        scenario.compare_random if options.compare is None else options.compare,
        options.seed,
        lambda line: print_line(line, options),
        show_progress,
    ).run()


COMMAND = Command(
    "demo",
    "run the whole loop in a few minutes, offline: pre-annotate, label and retrain in a real "
    "Label Studio",
    "prelabel demo --labels 60",
    _add_options,
    _run,
)
