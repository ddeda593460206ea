"""``prelabel export``: export a version as ONNX, or a project's labels as a dataset."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from backend.cli.arguments import add_project_option
from backend.cli.command import Command, CommandResult
from backend.cli.projects import (
    find_project,
    find_version,
    is_named,
    matching_projects,
    project_folder,
)
from backend.cli.terminal import clear_progress, print_line, show_progress
from backend.errors import NotFoundError, UsageError
from backend.store.projects import ProjectRecord, ProjectStore
from backend.store.versions import VersionStore

if TYPE_CHECKING:
    from backend.settings import Settings
    from backend.tools.export_labels import ExportedLabels

DATASET_FORMATS = ("coco", "yolo", "csv", "folders")
PREDICTION_FORMATS = ("csv", "folders")
PREDICTIONS_MESSAGE = f"--predictions needs --data {' or --data '.join(PREDICTION_FORMATS)}."
MAX_SHOWN_TASKS = 5


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        default="",
        metavar="VERSION",
        help="version to export, see `prelabel versions`; the start of its name is enough; with "
        "--data a project",
    )
    add_project_option(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder to create (default: named after the version, or project and format)",
    )
    parser.add_argument(
        "--data",
        choices=DATASET_FORMATS,
        help="export the project's labels: coco (boxes, points), yolo (boxes), csv (all labels), "
        "or folders (images in a folder per class)",
    )
    parser.add_argument(
        "--images",
        action="store_true",
        help="with --data: include the images, upright (takes longer)",
    )
    parser.add_argument(
        "--predictions",
        action="store_true",
        help="with --data csv or folders: include the images that the live version predicted, with "
        "its confidence",
    )


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.settings import read_settings

    export = _export_dataset if options.data else _export_version
    return export(read_settings(), options)


def _export_version(settings: Settings, options: argparse.Namespace) -> CommandResult:
    from backend.tools.export_version import export_version

    if options.predictions:
        raise UsageError(PREDICTIONS_MESSAGE)
    if options.images:
        raise UsageError(f"--images needs --data {', '.join(DATASET_FORMATS)}.")
    if not options.what:
        raise UsageError("Which version? See `prelabel versions`; --data exports labels.")
    record, version = _find_version(settings, options.what, options.project)
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


def _find_version(settings: Settings, version: str, project: str) -> tuple[ProjectRecord, str]:
    """Return a version and its project.

    Projects with the same images and labels have versions of the same name.

    Raises:
        NotFoundError: no project has it; the message lists the live versions.
        UsageError: several projects have it.
    """
    records = [find_project(settings, project)] if project else ProjectStore(settings.home).all()
    stores = {record: VersionStore(project_folder(settings, record)) for record in records}
    named = {r for r, s in stores.items() if any(is_named(name, version) for name in s.names())}
    matches = {
        record: find_version(versions, version)
        for record, versions in stores.items()
        if record in named
        or (not named and any(name.startswith(version) for name in versions.names()))
    }
    if len(matches) == 1:
        return next(iter(matches.items()))
    if matches:
        ids = ", ".join(f"{record.id} ({record.title})" for record in matches)
        raise UsageError(f"Several projects have {version}: {ids}. Choose one with --project.")
    live_list = ", ".join(
        f"{record.title or record.id}: {versions.live() or 'none yet'}"
        for record, versions in stores.items()
    )
    hint = (
        f"Live versions: {live_list}."
        if live_list
        else "No project is connected to this PRELABEL_HOME."
    )
    raise NotFoundError(f"There is no version {version!r}. {hint}")


def _export_dataset(settings: Settings, options: argparse.Namespace) -> CommandResult:
    from backend.runtime.project_session import ProjectSession
    from backend.runtime.resources import Resources
    from backend.tools.export_labels import export_labels

    if options.predictions and options.data not in PREDICTION_FORMATS:
        raise UsageError(PREDICTIONS_MESSAGE)
    if options.what and options.project:
        raise UsageError("Name the project once: --data takes it as PROJECT or as --project.")
    record = _find_labeled_project(settings, options.what or options.project)
    session = ProjectSession(Resources(settings), record)
    exported = export_labels(
        session,
        options.data,
        options.images,
        options.output,
        _show_images,
        with_predictions=options.predictions,
    )
    clear_progress()
    _print_labels(exported, record, options)
    return {
        "project": record.number,
        "format": options.data,
        "folder": str(exported.folder),
        "files": list(exported.files),
        "labels": exported.tasks,
        "accepted": exported.accepted,
        "predicted": exported.predicted,
        "splits": dict(exported.splits),
        "val": "audit set" if exported.is_val_audit else "random tenth",
        "left_out": dict(exported.left_out),
        "unreadable": {str(task): error for task, error in exported.unreadable.items()},
    }


def _find_labeled_project(settings: Settings, project: str) -> ProjectRecord:
    """Return a connected project, or one of Label Studio's that is not connected."""
    from backend.tools.export_labels import find_unconnected_project

    if project and not matching_projects(settings, project):
        return find_unconnected_project(settings, project)
    return find_project(settings, project)


def _show_images(done: int, total: int) -> None:
    show_progress(f"images {done} of {total}")


def _print_labels(
    exported: ExportedLabels, record: ProjectRecord, options: argparse.Namespace
) -> None:
    tasks = "1 labeled task" if exported.tasks == 1 else f"{exported.tasks} labeled tasks"
    print_line(f"{tasks} of project {record.number}: {exported.folder}", options)
    if exported.accepted:
        print_line(f"{exported.accepted} of them were accepted by Prelabel.", options)
    source = (
        "the audit set, on which no version was trained"
        if exported.is_val_audit
        else "a random tenth until both the audit set and other tasks have labels"
    )
    train, val = exported.splits.get("train", 0), exported.splits.get("val", 0)
    print_line(f"images: {train} in train, {val} in val ({source})", options)
    if options.predictions:
        print_line(f"predicted by the live version: {exported.predicted} open tasks", options)
    for reason, count in exported.left_out.items():
        print_line(f"left out: {count} × {reason}", options)
    for task, error in list(exported.unreadable.items())[:MAX_SHOWN_TASKS]:
        print_line(f"    task {task}: {error}", options)


COMMAND = Command(
    "export",
    "export a version as ONNX, or a project's labels as COCO, YOLO, CSV or class folders",
    "prelabel export --project 3 --data yolo --images",
    _add_options,
    _run,
)
