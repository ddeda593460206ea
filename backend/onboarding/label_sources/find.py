"""Find the labels of a folder or file, in all formats that can be imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from backend.errors import UsageError
from backend.onboarding.image_folder import list_files
from backend.onboarding.label_sources.coco import find_coco
from backend.onboarding.label_sources.csv_table import find_csv
from backend.onboarding.label_sources.sorted_folders import find_sorted_folders
from backend.onboarding.label_sources.source import FORMAT_NAMES, LabelSource
from backend.onboarding.label_sources.voc import find_voc
from backend.onboarding.label_sources.yolo import find_yolo

FINDERS: Mapping[str, Callable[[Path, Sequence[Path]], LabelSource | None]] = {
    "coco": find_coco,
    "yolo": find_yolo,
    "voc": find_voc,
    "csv": find_csv,
    "folders": find_sorted_folders,
}


def find_label_sources(
    root: Path, files: Sequence[Path], format: str | None = None
) -> list[LabelSource]:
    """Return the labels of a folder, one source per format.

    Sorted folders count only if there is no label file, because datasets have folders, too.

    Args:
        root: the folder.
        files: its files.
        format: a key of ``FORMAT_NAMES``; all formats if None.

    Raises:
        UsageError: a label file is too large, or cannot be opened.
    """
    visible_files = [f for f in files if not any(p[0] == "." for p in f.relative_to(root).parts)]
    sources: list[LabelSource] = []
    for name, finder in FINDERS.items():
        if format not in (None, name) or (name == "folders" and sources):
            continue
        source = finder(root, visible_files)
        if source is not None:
            sources.append(source)
    return sources


def load_label_source(
    path: Path, format: str | None = None, option: str = "--format"
) -> LabelSource:
    """Return the labels of a folder or file.

    Args:
        path: path of the folder or file.
        format: a key of ``FORMAT_NAMES``; any format if None.
        option: the command-line option that chooses a format.

    Raises:
        UsageError: there are none, or several formats to choose from.
    """
    if path.is_file():
        root, files = path.parent, [path]
    else:
        root, files = path, list_files(path)
    sources = find_label_sources(root, files, format)
    if not sources:
        names = FORMAT_NAMES[format] if format else ", ".join(FORMAT_NAMES.values())
        raise UsageError(
            f"There are no labels in {path}: none of {names}. YOLO needs class names in data.yaml "
            "or classes.txt, and CSV needs a header with the columns image and label."
        )
    if len(sources) > 1:
        options = ", ".join(f"{option} {source.format}" for source in sources)
        raise UsageError(f"{path} has labels in several formats. Add one of {options}.")
    return sources[0]
