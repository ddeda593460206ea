"""``prelabel demo``: the whole product in a few minutes, without internet."""

from __future__ import annotations

import argparse
import signal
from typing import Any

HELP = "watch a real Label Studio being pre-annotated, labeled and retrained"
EXAMPLE = "prelabel demo --labels 60"
DEMO_TASKS = ("classification", "boxes", "points")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--task", choices=DEMO_TASKS, default=DEMO_TASKS[0], help="what is learned")
    parser.add_argument(
        "--labels", type=_parse_label_count, help="tasks to label (60, with boxes and points 40)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawings (0)")
    parser.add_argument(
        "--keep", action="store_true", help="leave Label Studio and the backend running"
    )
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="label the same images in random order as well, in a second project "
        "(on for classification; boxes and points then take twice as long)",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Play it; Ctrl-C and a polite kill clean up."""
    from backend.cli.main import print_line
    from demo.run_demo import Demo
    from demo.scenarios import SCENARIOS

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    script = SCENARIOS[options.task]()
    label_count = options.labels or script.label_budget
    compare = script.compare_random if options.compare is None else options.compare
    demo = Demo(
        script,
        label_count,
        options.keep,
        compare,
        options.seed,
        lambda line: print_line(line, options),
    )
    return demo.run()


def _parse_label_count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 500:
        raise argparse.ArgumentTypeError("a whole number from 1 to 500")
    return int(text)
