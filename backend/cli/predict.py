"""``prelabel predict``: what a version says of image files, as pictures or as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.cli import projects
from backend.errors import ImageError, UsageError
from backend.settings import Settings, read_settings
from backend.store.files import disk_errors

if TYPE_CHECKING:
    from backend.endpoint.functions import LoadedVersion

HELP = "show what the live version sees in image files"
EXAMPLE = "prelabel predict photos/*.jpg --project 3 --output looked-at"
OUTPUT_SUFFIX = "-prelabel"
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
JPEG_QUALITY = 92
NO_MODEL_MESSAGE = "Nothing is learned yet: label a few images first."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a file or a folder")
    parser.add_argument(
        *("--project", "--function"),
        default="",
        metavar="PROJECT",
        help="whose version: its number or title; not needed when only one is connected",
    )
    parser.add_argument("--version", default="", help="see `prelabel versions` (the live one)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"where pictures are saved (beside each image, as NAME{OUTPUT_SUFFIX}.jpg)",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Look at each image; a bad one costs no other.

    Raises:
        NotThere: there is no such project or version.
        UsageError: no image is named, or nothing is learned yet.
        PrelabelError: the version cannot answer.
        StoreError: pictures cannot be saved.
    """
    settings = read_settings()
    loaded = _load_version(settings, options.project, options.version)
    files = list(_find_images(options.images))
    if not files:
        raise UsageError(f"There is no image in {', '.join(map(str, options.images))}.")
    should_draw = options.output or not options.json
    output_files = _output_files(files, options.output) if should_draw else [None] * len(files)
    results = []
    for file, output_file in zip(files, output_files, strict=True):
        try:
            results.append(_predict_image(settings, loaded, file, output_file, options))
        except ImageError as error:
            print(f"prelabel: {file}: {error}.", file=sys.stderr)
            results.append({"image": str(file), "error": str(error)})
    return {"function": loaded.record.id, "version": loaded.card.version, "results": results}


def status(figures: dict[str, Any]) -> int:
    """1 where an image could not be read."""
    return int(any("error" in result for result in figures["results"]))


def _load_version(settings: Settings, project: str, version: str) -> LoadedVersion:
    """The version as the endpoint serves it."""
    from backend.bootstrap import make_resources
    from backend.endpoint.functions import load_local_version

    resources = make_resources(settings)
    record = projects.find_project(settings, project)
    name = version or resources.versions(record).live()
    if not name:
        raise UsageError(
            f"Project {record.id} has no version yet: `prelabel serve` makes the first one."
        )
    return load_local_version(resources, record, name)


def _find_images(paths: Sequence[Path]) -> Iterator[Path]:
    """The images meant; of a folder those that were not drawn by this command."""
    for path in paths:
        if path.is_dir():
            images = (
                file for file in sorted(path.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES
            )
            yield from (file for file in images if not file.stem.endswith(OUTPUT_SUFFIX))
        else:
            yield path


def _output_files(files: Sequence[Path], folder: Path | None) -> list[Path]:
    """Where pictures are saved: files of one name from several places get a number."""
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
) -> dict[str, Any]:
    """One image, as the endpoint looks at it."""
    from backend.cli.main import print_line
    from backend.endpoint.problems import ProblemError
    from backend.endpoint.rendering import invoke_locally, summarize_response

    content = _read_image(file, settings.max_image_bytes)
    try:
        endpoint_result = invoke_locally(loaded, content, settings.max_image_pixels)
    except ProblemError as error:  # no control of the version has an answer
        raise UsageError(NO_MODEL_MESSAGE) from error
    result = {"image": str(file), **endpoint_result.response}
    if output_file is None:
        print_line(f"{file}: {summarize_response(endpoint_result.response)}", options)
        return result
    with disk_errors(output_file):
        output_file.parent.mkdir(parents=True, exist_ok=True)
        endpoint_result.draw_marks().save(output_file, quality=JPEG_QUALITY)
    print_line(f"{file}: {summarize_response(endpoint_result.response)}  → {output_file}", options)
    return {**result, "saved": str(output_file)}


def _read_image(file: Path, max_bytes: int) -> bytes:
    try:
        if file.stat().st_size > max_bytes:
            raise ImageError("image file is too large", f"over {max_bytes:,} bytes")
        return file.read_bytes()
    except OSError as error:
        raise ImageError("cannot be read", error.strerror or str(error)) from error
