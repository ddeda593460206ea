"""Pages as HTML. Everything that comes from Label Studio is escaped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from backend.dashboard import wording
from backend.dashboard.chart import build_chart
from backend.dashboard.values import ProjectPage, ProjectSummary

DASHBOARD_FOLDER = Path(__file__).resolve().parent
ASSET_TYPES = {
    "style.css": "text/css",
    "refresh.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
LISTED_VERSIONS = 10
"""Versions that are shown without being asked for."""
ACTION_NOTICES = {
    "train": "A round was asked for. It learns if there is something new, and tells here how far "
    "it is.",
    "promote": "That version is live. Its suggestions are being written into Label Studio.",
    "rollback": "The earlier version is live again. Its suggestions are being written into Label "
    "Studio.",
    "cancel": "The training is being cancelled; the live version stays.",
}
"""What is said after an action, by the name that the address carries: no text comes from there."""


@dataclass(frozen=True)
class StaticAsset:
    """A file that pages need.

    Attributes:
        content: its bytes.
        type: its media type.
    """

    content: bytes
    type: str


class PageRenderer:
    """Renders pages.

    Args:
        retrain_after: new labels that start a round.
    """

    def __init__(self, retrain_after: int) -> None:
        self._retrain_after = retrain_after
        folder = DASHBOARD_FOLDER / "static"
        self._assets = {
            n: StaticAsset((folder / n).read_bytes(), type) for n, type in ASSET_TYPES.items()
        }
        self._templates = Environment(
            loader=FileSystemLoader(DASHBOARD_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            auto_reload=False,
        )
        all_content = b"".join(asset.content for asset in self._assets.values())
        self._templates.globals.update(
            headline=wording.format_headline,
            interval=wording.format_interval,
            meaning=wording.explain_figure,
            guessed=wording.explain_estimate,
            percent=wording.format_percent,
            states=wording.ROUND_STATE_TEXTS,
            short=wording.QUEUE_REASON_TAGS,
            newest=LISTED_VERSIONS,
            stamp=hashlib.sha256(all_content).hexdigest()[:8],
        )

    def asset(self, name: str) -> StaticAsset | None:
        """A file that pages need; None where there is none of this name."""
        return self._assets.get(name)

    def overview(
        self, projects: Sequence[ProjectSummary], *, notice: str, address: str, secured: bool
    ) -> str:
        """All projects.

        Args:
            projects: of this backend.
            notice: the name of what was just done; may be empty.
            address: that this page was asked for at.
            secured: basic auth is on.
        """
        return self._render(
            "overview.html",
            root="",
            projects=projects,
            running=any(project.status.round.is_running for project in projects),
            notice=ACTION_NOTICES.get(notice, ""),
            address=address,
            secured=secured,
        )

    def cards(self, projects: Sequence[ProjectSummary]) -> str:
        """The part of the overview that changes."""
        return self._render("cards.html", root="", projects=projects)

    def project(self, page: ProjectPage, notice: str) -> str:
        """One project; ``notice`` as for the overview."""
        return self._render(
            "project.html",
            root="../",
            page=page,
            chart=build_chart(page.versions, page.outlook),
            notice=ACTION_NOTICES.get(notice, ""),
            **self._status_values(page.summary),
        )

    def round_status(self, summary: ProjectSummary) -> str:
        """The part of a project's page that changes while a round runs."""
        return self._render("now.html", root="../", **self._status_values(summary))

    def error(self, heading: str, sentence: str, root: str) -> str:
        """A failure, in one sentence; ``root`` leads from the page's address to the overview."""
        return self._render("error.html", root=root, heading=heading, sentence=sentence, notice="")

    def _status_values(self, summary: ProjectSummary) -> Mapping[str, Any]:
        return {"s": summary, "next_step": wording.suggest_next_step(summary, self._retrain_after)}

    def _render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(values)
