"""``prelabel predict``: predict image files, and draw the predictions or print them as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backend.cli.arguments import add_project_option
from backend.cli.command import Command, CommandResult
from backend.cli.projects import find_project, find_version
from backend.cli.terminal import print_line
from backend.errors import ImageError, UsageError
from backend.store.files import disk_errors

if TYPE_CHECKING:
    from backend.endpoint.functions import LoadedVersion
    from backend.settings import Settings

OUTPUT_SUFFIX = "-prelabel"
INPUT_IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
)
OUTPUT_JPEG_QUALITY = 92
NO_MODEL_MESSAGE = "No model is trained yet: label a few images first."


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="image file or folder"
    )
    add_project_option(parser, "--function")
    parser.add_argument(
        "--version",
        default="",
        help="version, see `prelabel versions`; the start of its name is enough (default: the live "
        "version)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder for the images with predictions "
        f"(default: the folder of each image, as NAME{OUTPUT_SUFFIX}.jpg)",
    )


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.settings import read_settings

    settings = read_settings()
    loaded = _load_version(settings, options.project, options.version)
    files = list(_find_images(options.images))
    if not files:
        raise UsageError(f"There is no image in {', '.join(map(str, options.images))}.")
    should_draw = options.output or not options.json
    output_files = _output_files(files, options.output) if should_draw else [None] * len(files)
    for control in loaded.controls:
        if note := loaded.card.control(control.name).note:
            print_line(f"{control.name}: {note}", options)
    results: list[CommandResult] = []
    for file, output_file in zip(files, output_files, strict=True):
        try:
            results.append(_predict_image(settings, loaded, file, output_file, options))
        except ImageError as error:
            print(f"prelabel: {file}: {error}.", file=sys.stderr)
            results.append({"image": str(file), "error": str(error)})
    return {"function": loaded.record.id, "version": loaded.card.version, "results": results}


def _load_version(settings: Settings, project: str, version: str) -> LoadedVersion:
    """Load a version as the endpoint does; "" loads the live version."""
    from backend.bootstrap import make_resources
    from backend.endpoint.functions import load_local_version

    resources = make_resources(settings)
    record = find_project(settings, project)
    versions = resources.versions(record)
    name = find_version(versions, version) if version else versions.live()
    if not name:
        raise UsageError(
            f"Project {record.id} has no version yet: `prelabel serve` creates the first one."
        )
    return load_local_version(resources, record, name)


def _find_images(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files, and images in folders except the output of this command."""
    for path in paths:
        if path.is_dir():
            yield from (
                file
                for file in sorted(path.iterdir())
                if file.suffix.lower() in INPUT_IMAGE_SUFFIXES
                and not file.stem.endswith(OUTPUT_SUFFIX)
            )
        else:
            yield path


def _output_files(files: Sequence[Path], folder: Path | None) -> list[Path]:
    """Return the output path for each file; duplicate names get a number."""
    output_files: list[Path] = []
    for file in files:
        parent = folder or file.parent
        output_file, number = parent / f"{file.stem}{OUTPUT_SUFFIX}.jpg", 1
        while output_file in output_files:
            number += 1
            output_file = parent / f"{file.stem}-{number}{OUTPUT_SUFFIX}.jpg"
        output_files.append(output_file)
    return output_files


def _predict_image(
    settings: Settings,
    loaded: LoadedVersion,
    file: Path,
    output_file: Path | None,
    options: argparse.Namespace,
) -> CommandResult:
    from backend.endpoint.problems import ProblemError
    from backend.endpoint.rendering import invoke_locally, summarize_response

    content = _read_image(file, settings.max_image_bytes)
    try:
        endpoint_result = invoke_locally(loaded, content, settings.max_image_pixels)
    except ProblemError as error:  # the version has no trained control
        raise UsageError(NO_MODEL_MESSAGE) from error
    result = {"image": str(file), **endpoint_result.response}
    summary = f"{file}: {summarize_response(endpoint_result.response)}"
    if output_file is None:
        print_line(summary, options)
        return result
    with disk_errors(output_file):
        output_file.parent.mkdir(parents=True, exist_ok=True)
        endpoint_result.draw_marks().save(output_file, quality=OUTPUT_JPEG_QUALITY)
    print_line(f"{summary}  → {output_file}", options)
    return {**result, "saved": str(output_file)}


def _read_image(file: Path, max_bytes: int) -> bytes:
    try:
        if file.stat().st_size > max_bytes:
            raise ImageError("image file is too large", f"over {max_bytes:,} bytes")
        return file.read_bytes()
    except OSError as error:
        raise ImageError("cannot be read", error.strerror or str(error)) from error


COMMAND = Command(
    "predict",
    "predict image files with the live version",
    "prelabel predict photos/*.jpg --project 3 --output predictions",
    _add_options,
    _run,
    exit_status=lambda result: int(any("error" in row for row in result["results"])),
)
