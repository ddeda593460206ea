"""``prelabel rename``: rename a label, and keep its annotations."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import projects
from backend.cli.arguments import add_project_argument
from backend.cli.command import Command


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)
    parser.add_argument("old", metavar="OLD", help="the label; of one with an alias, the alias")
    parser.add_argument("new", metavar="NEW", help="its new name")
    parser.add_argument(
        "--control", default="", metavar="NAME", help="name of the tag, if several have the label"
    )


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Rename a label in the labeling config, the annotations and the drafts."""
    from backend.cli.terminal import clear_progress, print_line, show_progress
    from backend.label_studio.annotation_relabeling import LabelRename
    from backend.loop.rename_label import rename_label
    from backend.settings import read_settings

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    session = projects.open_session(settings, record)
    rename = LabelRename(options.control, options.old, options.new)

    def on_progress(done: int, total: int) -> None:
        show_progress(f"annotation {done} of {total}")

    with projects.wait_for_round_lock(session):
        counts = rename_label(session, rename, on_progress)
    clear_progress()
    parts = [f"{counts.annotations} annotation{'' if counts.annotations == 1 else 's'}"]
    if counts.drafts:
        parts.append(f"{counts.drafts} draft{'' if counts.drafts == 1 else 's'}")
    print_line(f"Renamed {options.old} to {options.new} in {' and '.join(parts)}.", options)
    if counts.refused:
        print_line(
            f"{counts.refused} annotations and drafts still have {options.old}, "
            "so it stays in the labeling config. Each round tries again. "
            f"Label Studio refused: {counts.reason}",
            options,
        )
    print_line("The next round trains with the new name and renews the predictions.", options)
    return {
        "project": record.id,
        "old": options.old,
        "new": options.new,
        "annotations": counts.annotations,
        "drafts": counts.drafts,
        "refused_annotations": counts.refused_annotations,
        "refused_drafts": counts.refused_drafts,
    }


COMMAND = Command(
    "rename",
    "rename a label and keep its annotations",
    "prelabel rename 3 pants trousers",
    _add_options,
    _run,
)
