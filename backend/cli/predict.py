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
from backend.store.files import explained

if TYPE_CHECKING:
    from backend.endpoint.functions import Loaded

HELP = "show what the live version sees in image files"
EXAMPLE = "prelabel predict photos/*.jpg --project 3 --output looked-at"
DRAWN = "-prelabel"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
QUALITY = 92
NOTHING = "Nothing is learned yet: label a few images first."


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
        help=f"where pictures are saved (beside each image, as NAME{DRAWN}.jpg)",
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
    loaded = _loaded(settings, options.project, options.version)
    files = list(_files(options.images))
    if not files:
        raise UsageError(f"There is no image in {', '.join(map(str, options.images))}.")
    draws = options.output or not options.json
    targets = _targets(files, options.output) if draws else [None] * len(files)
    results = []
    for file, target in zip(files, targets, strict=True):
        try:
            results.append(_look(settings, loaded, file, target, options))
        except ImageError as error:
            print(f"prelabel: {file}: {error}.", file=sys.stderr)
            results.append({"image": str(file), "error": str(error)})
    return {"function": loaded.record.id, "version": loaded.card.version, "results": results}


def status(figures: dict[str, Any]) -> int:
    """1 where an image could not be read."""
    return int(any("error" in result for result in figures["results"]))


def _loaded(settings: Settings, project: str, version: str) -> Loaded:
    """The version as the endpoint serves it."""
    from backend.bootstrap import make_resources
    from backend.endpoint.functions import load_here

    resources = make_resources(settings)
    record = projects.find(settings, project)
    name = version or resources.versions(record).live()
    if not name:
        raise UsageError(
            f"Project {record.id} has no version yet: `prelabel serve` makes the first one."
        )
    return load_here(resources, record, name)


def _files(named: Sequence[Path]) -> Iterator[Path]:
    """The images meant; of a folder those that were not drawn by this command."""
    for path in named:
        if path.is_dir():
            inside = (one for one in sorted(path.iterdir()) if one.suffix.lower() in SUFFIXES)
            yield from (one for one in inside if not one.stem.endswith(DRAWN))
        else:
            yield path


def _targets(files: Sequence[Path], folder: Path | None) -> list[Path]:
    """Where pictures are saved: files of one name from several places get a number."""
    found: list[Path] = []
    for file in files:
        place = folder or file.parent
        target, number = place / f"{file.stem}{DRAWN}.jpg", 1
        while target in found:
            number += 1
            target = place / f"{file.stem}-{number}{DRAWN}.jpg"
        found.append(target)
    return found


def _look(
    settings: Settings,
    loaded: Loaded,
    file: Path,
    target: Path | None,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One image, as the endpoint looks at it."""
    from backend.cli.main import say
    from backend.endpoint.problems import Problem
    from backend.endpoint.rendering import in_words, look

    content = _content(file, settings.max_image_bytes)
    try:
        looked = look(loaded, content, settings.max_image_pixels)
    except Problem as error:  # no control of the version has an answer
        raise UsageError(NOTHING) from error
    result = {"image": str(file), **looked.answer}
    if target is None:
        say(f"{file}: {in_words(looked.answer)}", options)
        return result
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        looked.drawn().save(target, quality=QUALITY)
    say(f"{file}: {in_words(looked.answer)}  → {target}", options)
    return {**result, "saved": str(target)}


def _content(file: Path, most: int) -> bytes:
    try:
        if file.stat().st_size > most:
            raise ImageError("image file is too large", f"over {most:,} bytes")
        return file.read_bytes()
    except OSError as error:
        raise ImageError("cannot be read", error.strerror or str(error)) from error
