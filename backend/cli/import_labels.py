"""``prelabel import``: import existing labels into a project."""

from __future__ import annotations

import argparse
from pathlib import Path

from backend.cli.arguments import add_project_argument
from backend.cli.command import Command, CommandResult
from backend.cli.label_setup import (
    LABEL_FORMATS,
    LABEL_ROLES,
    add_known_labels_option,
    import_labels,
)
from backend.cli.terminal import print_line


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser, "if Label Studio has only one")
    parser.add_argument(
        "path",
        metavar="PATH",
        type=Path,
        help="COCO, YOLO, Pascal VOC or CSV labels, or sorted folders; images match by file name",
    )
    parser.add_argument(
        "--as",
        dest="role",
        choices=LABEL_ROLES,
        default=LABEL_ROLES[0],
        help="annotations (default), or suggestions to check",
    )
    parser.add_argument("--format", choices=LABEL_FORMATS, help="if there are several formats")
    add_known_labels_option(parser)


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.errors import UsageError
    from backend.label_studio.client import LabelStudioClient
    from backend.onboarding.label_sources.find import load_label_source
    from backend.settings import read_settings

    settings = read_settings()
    path = options.path.expanduser()
    if not path.exists():
        raise UsageError(f"There is no file or folder {path}.")
    source = load_label_source(path, options.format)
    client = LabelStudioClient(settings.label_studio_url, settings.api_key)
    number = client.find_project_number(options.project)
    print_line(f"Found {source.description}.", options)
    labels = import_labels(
        client,
        settings,
        number,
        source,
        options.role,
        options.known_labels_only,
        lambda line: print_line(line, options),
    )
    return {"project": number, **labels}


COMMAND = Command(
    "import",
    "import existing labels into a project: COCO, YOLO, Pascal VOC, CSV or sorted folders",
    "prelabel import 3 annotations.json --as suggestions",
    _add_options,
    _run,
)
