"""``prelabel export``: a version as ONNX, or a project's labels as COCO or YOLO."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from backend.cli import projects as known
from backend.errors import NotThere, UsageError
from backend.settings import Settings, read_settings
from backend.store.projects import ProjectRecord, Projects
from backend.store.versions import Versions

HELP = "write a version as ONNX with an example, or the labels as COCO or YOLO"
EXAMPLE = "prelabel export v3-1f0c22aa --output model"
FORMATS = ("coco", "yolo")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "what", metavar="VERSION", help="see `prelabel versions`; with --data the project"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="that is made (its name)")
    parser.add_argument(
        "--data", choices=FORMATS, help="the project's labels, as Label Studio converts them"
    )
    parser.add_argument(
        "--images", action="store_true", help="with --data: the images as well (takes longer)"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write it.

    Raises:
        NotThere: there is no such version or project.
        PrelabelError: it cannot be written in this form.
    """
    settings = read_settings()
    return _data(settings, options) if options.data else _version(settings, options)


def _version(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    from backend.cli.main import say
    from backend.tools.export_version import export

    if options.images:
        raise UsageError("--images belongs to --data coco or --data yolo.")
    record, version = _find(settings, options.what)
    done = export(settings, record, version, options.output or Path(version))
    for name, reason in done.left_out.items():
        say(f"{name} is left out. {reason}", options)
    say(f"{version} is in {done.folder}: {', '.join(done.files)}", options)
    say(f"Try it: python {shlex.quote(str(done.folder / 'example.py'))} IMAGE", options)
    return {
        "version": version,
        "project": record.id,
        "folder": str(done.folder),
        "files": list(done.files),
        "left_out": dict(done.left_out),
    }


def _find(settings: Settings, version: str) -> tuple[ProjectRecord, str]:
    """The project that a version belongs to: a version's name is its own everywhere.

    Raises:
        NotThere: no project has it; the live ones are listed.
    """
    live = {}
    for record in Projects(settings.home).all():
        versions = Versions(known.folder(settings, record))
        if version in versions.names():
            return record, version
        live[record.title or record.id] = versions.live() or "none yet"
    told = ", ".join(f"{name}: {one}" for name, one in live.items())
    hint = f"Live are: {told}." if told else "No project is connected to this PRELABEL_HOME."
    raise NotThere(f"There is no version {version!r}. {hint}")


def _data(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    from backend.cli.main import say
    from backend.tools.export_labels import write_labels

    done = write_labels(settings, options.what, options.data, options.images, options.output)
    tasks = "One labeled task" if done.labels == 1 else f"{done.labels} labeled tasks"
    say(f"{tasks} of project {done.project}: {done.folder}", options)
    return {
        "project": done.project,
        "format": options.data,
        "folder": str(done.folder),
        "files": list(done.files),
        "labels": done.labels,
    }
