"""``prelabel export``: a version as ONNX, or a project's labels as COCO or YOLO."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from backend.cli import projects as known
from backend.errors import NotFoundError, UsageError
from backend.settings import Settings, read_settings
from backend.store.projects import ProjectRecord, ProjectStore
from backend.store.versions import VersionStore

HELP = "write a version as ONNX with an example, or the labels as COCO or YOLO"
EXAMPLE = "prelabel export v3-1f0c22aa --output model"
DATASET_FORMATS = ("coco", "yolo")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "what", metavar="VERSION", help="see `prelabel versions`; with --data the project"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="that is made (its name)")
    parser.add_argument(
        "--data",
        choices=DATASET_FORMATS,
        help="the project's labels, as Label Studio converts them",
    )
    parser.add_argument(
        "--images", action="store_true", help="with --data: the images as well (takes longer)"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write it.

    Raises:
        NotFoundError: there is no such version or project.
        PrelabelError: it cannot be written in this form.
    """
    settings = read_settings()
    return (
        _export_dataset(settings, options) if options.data else _export_version(settings, options)
    )


def _export_version(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    from backend.cli.main import print_line
    from backend.tools.export_version import export_version

    if options.images:
        raise UsageError("--images belongs to --data coco or --data yolo.")
    record, version = _find_version(settings, options.what)
    export_result = export_version(settings, record, version, options.output or Path(version))
    for name, reason in export_result.left_out.items():
        print_line(f"{name} is left out. {reason}", options)
    print_line(f"{version} is in {export_result.folder}: {', '.join(export_result.files)}", options)
    print_line(
        f"Try it: python {shlex.quote(str(export_result.folder / 'example.py'))} IMAGE", options
    )
    return {
        "version": version,
        "project": record.id,
        "folder": str(export_result.folder),
        "files": list(export_result.files),
        "left_out": dict(export_result.left_out),
    }


def _find_version(settings: Settings, version: str) -> tuple[ProjectRecord, str]:
    """The project that a version belongs to: a version's name is its own everywhere.

    Raises:
        NotFoundError: no project has it; the live ones are listed.
    """
    live_versions = {}
    for record in ProjectStore(settings.home).all():
        versions = VersionStore(known.project_folder(settings, record))
        if version in versions.names():
            return record, version
        live_versions[record.title or record.id] = versions.live() or "none yet"
    live_list = ", ".join(f"{name}: {one}" for name, one in live_versions.items())
    hint = (
        f"Live are: {live_list}." if live_list else "No project is connected to this PRELABEL_HOME."
    )
    raise NotFoundError(f"There is no version {version!r}. {hint}")


def _export_dataset(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    from backend.cli.main import print_line
    from backend.tools.export_labels import export_labels

    export_result = export_labels(
        settings, options.what, options.data, options.images, options.output
    )
    tasks = (
        "One labeled task"
        if export_result.labeled_count == 1
        else f"{export_result.labeled_count} labeled tasks"
    )
    print_line(f"{tasks} of project {export_result.project}: {export_result.folder}", options)
    return {
        "project": export_result.project,
        "format": options.data,
        "folder": str(export_result.folder),
        "files": list(export_result.files),
        "labels": export_result.labeled_count,
    }
