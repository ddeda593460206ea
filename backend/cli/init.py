"""``prelabel init``: turn a folder of images into a Label Studio project."""

from __future__ import annotations

import argparse

from backend.cli import arguments
from backend.cli.command import Command, CommandResult
from backend.cli.label_setup import add_label_options
from backend.cli.label_studio_starter import LabelStudioStarter, add_start_option
from backend.cli.terminal import print_line

JOB_NAMES = ("binary", "one-of-many", "several-of-many", "boxes", "points")
YES_NO = ("yes", "no")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="folder with images, including its subfolders",
    )
    answers = parser.add_argument_group("answers", "answer questions that are asked otherwise")
    answers.add_argument("--job", choices=JOB_NAMES, help="labeling job, instead of the questions")
    answers.add_argument(
        "--goal", choices=("sort", "find"), help="classify whole images, or find objects in them"
    )
    answers.add_argument(
        "--place", choices=YES_NO, help="whether the position or number of objects matters"
    )
    answers.add_argument(
        "--small", choices=YES_NO, help="whether a small part of the image decides the label"
    )
    answers.add_argument(
        "--mark", choices=("click", "box"), help="mark objects with a click or a bounding box"
    )
    answers.add_argument(
        "--several", choices=YES_NO, help="whether an image can have several labels"
    )
    answers.add_argument(
        "--labels",
        action="append",
        metavar="A,B",
        help="labels; `name = description` adds a hint, which may contain commas if `;` separates "
        "the labels",
    )
    answers.add_argument("--title", help="title of the project (default: name of the folder)")
    answers.add_argument(
        "--new", action="store_true", help="create another project from the same folder"
    )
    add_label_options(parser)
    backend = parser.add_argument_group("backend")
    backend.add_argument(
        "--backend",
        metavar="URL",
        help="address at which Label Studio reaches the backend "
        f"(default {arguments.DEFAULT_BACKEND_URL}, or the port that projects call already)",
    )
    backend.add_argument(
        "--serve",
        action=argparse.BooleanOptionalAction,
        help="start a backend if none is running, and keep it running until Ctrl-C",
    )
    add_start_option(backend)
    arguments.add_host_option(backend)
    backend.add_argument("--no-browser", action="store_true", help="do not open a browser")


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.cli.project_setup import ProjectSetup
    from backend.settings import read_settings

    settings = read_settings()
    with LabelStudioStarter(options, settings, lambda line: print_line(line, options)) as own:
        return ProjectSetup(options, settings, own).run()


COMMAND = Command(
    "init",
    "turn a folder of images into a Label Studio project with pre-annotations",
    "prelabel init ~/photos --serve",
    _add_options,
    _run,
)
