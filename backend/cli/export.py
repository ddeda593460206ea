"""``prelabel export``: export a version as ONNX, or a project's labels as COCO or YOLO."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from backend.cli.command import Command, CommandResult
from backend.cli.projects import project_folder
from backend.cli.terminal import print_line
from backend.errors import NotFoundError, UsageError
from backend.store.projects import ProjectRecord, ProjectStore
from backend.store.versions import VersionStore

if TYPE_CHECKING:
    from backend.settings import Settings

DATASET_FORMATS = ("coco", "yolo")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        metavar="VERSION",
        help="version to export, see `prelabel versions`; with --data a project number or title",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder to create (default: name of the version)",
    )
    parser.add_argument(
        "--data",
        choices=DATASET_FORMATS,
        help="export the labels of a project in this format, converted by Label Studio",
    )
    parser.add_argument(
        "--images",
        action="store_true",
        help="with --data: include the images (slower)",
    )


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.settings import read_settings

    export = _export_dataset if options.data else _export_version
    return export(read_settings(), options)


def _export_version(settings: Settings, options: argparse.Namespace) -> CommandResult:
    from backend.tools.export_version import export_version

    if options.images:
        raise UsageError("--images needs --data coco or --data yolo.")
    record, version = _find_version(settings, options.what)
    exported = export_version(settings, record, version, options.output or Path(version))
    for name, reason in exported.left_out.items():
        print_line(f"{name} is left out. {reason}", options)
    print_line(f"{version} is in {exported.folder}: {', '.join(exported.files)}", options)
    print_line(f"Try it: python {shlex.quote(str(exported.folder / 'example.py'))} IMAGE", options)
    return {
        "version": version,
        "project": record.id,
        "folder": str(exported.folder),
        "files": list(exported.files),
        "left_out": dict(exported.left_out),
    }


def _find_version(settings: Settings, version: str) -> tuple[ProjectRecord, str]:
    """Return the project of a version and the version; names are unique across projects.

    Raises:
        NotFoundError: no project has the version; the message lists the live versions.
    """
    live_versions = {}
    for record in ProjectStore(settings.home).all():
        versions = VersionStore(project_folder(settings, record))
        if version in versions.names():
            return record, version
        live_versions[record.title or record.id] = versions.live() or "none yet"
    live_list = ", ".join(f"{name}: {live}" for name, live in live_versions.items())
    hint = (
        f"Live versions: {live_list}."
        if live_list
        else "No project is connected to this PRELABEL_HOME."
    )
    raise NotFoundError(f"There is no version {version!r}. {hint}")


def _export_dataset(settings: Settings, options: argparse.Namespace) -> CommandResult:
    from backend.tools.export_labels import export_labels

    exported = export_labels(settings, options.what, options.data, options.images, options.output)
    count = exported.labeled_count
    tasks = "1 labeled task" if count == 1 else f"{count} labeled tasks"
    print_line(f"{tasks} of project {exported.project}: {exported.folder}", options)
    return {
        "project": exported.project,
        "format": options.data,
        "folder": str(exported.folder),
        "files": list(exported.files),
        "labels": count,
    }


COMMAND = Command(
    "export",
    "export a version as ONNX, or a project's labels as COCO or YOLO",
    "prelabel export v3-1f0c22aa --output model",
    _add_options,
    _run,
)
