"""Read labels from the names of the folders that images were sorted into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from backend.onboarding.image_folder import HEADER_BYTES, detect_suffix
from backend.onboarding.label_order import sort_label_names
from backend.onboarding.label_sources.source import ImageLabels, LabelSource

SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Folders that divide a dataset; the labels are the folders inside them."""
NO_LABEL_FOLDERS = frozenset({"images", "labels", "annotations", "jpegimages"})
"""Folders of datasets whose labels are in files."""


def find_sorted_folders(root: Path, files: Sequence[Path]) -> LabelSource | None:
    """Return the labels of images in two or more subfolders; None if there are fewer."""
    labels = {file: label for file in files if (label := _folder_label(root, file))}
    if len(set(labels.values())) < 2:
        return None
    images = [file for file in labels if _is_image(file)]
    names = tuple(sort_label_names({labels[file] for file in images}))
    if len(names) < 2:
        return None

    def read() -> Iterator[ImageLabels]:
        for file in images:
            yield ImageLabels((file.relative_to(root).as_posix(),), choices=(labels[file],))

    return LabelSource("folders", root, frozenset(), names, False, len(images), read)


def _folder_label(root: Path, file: Path) -> str:
    """Return the label of a file; empty outside of a folder that can be one."""
    folders = file.relative_to(root).parts[:-1]
    if folders and folders[0].lower() in SPLIT_FOLDERS:
        folders = folders[1:]
    if not folders or any(name.startswith(".") for name in (*folders, file.name)):
        return ""
    return "" if folders[0].lower() in NO_LABEL_FOLDERS else folders[0]


def _is_image(file: Path) -> bool:
    try:
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            return detect_suffix(stream.read(HEADER_BYTES)) != ""
    except OSError:
        return False
