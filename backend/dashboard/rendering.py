"""Pages as HTML. Everything that comes from Label Studio is escaped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from backend.dashboard import wording
from backend.dashboard.chart import draw
from backend.dashboard.values import ProjectPage, Summary

HERE = Path(__file__).resolve().parent
TYPES = {"style.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}
NEWEST = 10
"""Versions that are shown without being asked for."""
NOTICES = {
    "train": "A round was asked for. It learns if there is something new, and tells here how far "
    "it is.",
    "promote": "That version is live. Its suggestions are being written into Label Studio.",
    "rollback": "The earlier version is live again. Its suggestions are being written into Label "
    "Studio.",
    "cancel": "The training is being cancelled; the live version stays.",
}
"""What is said after an action, by the name that the address carries: no text comes from there."""


@dataclass(frozen=True)
class Asset:
    """A file that pages need.

    Attributes:
        content: its bytes.
        type: its media type.
    """

    content: bytes
    type: str


class Pages:
    """Renders pages.

    Args:
        retrain_after: new labels that start a round.
    """

    def __init__(self, retrain_after: int) -> None:
        self._retrain_after = retrain_after
        folder = HERE / "static"
        self._assets = {n: Asset((folder / n).read_bytes(), type) for n, type in TYPES.items()}
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            auto_reload=False,
        )
        whole = b"".join(asset.content for asset in self._assets.values())
        self._templates.globals.update(
            headline=wording.headline,
            interval=wording.interval,
            meaning=wording.meaning,
            guessed=wording.guessed,
            percent=wording.percent,
            states=wording.STATES,
            short=wording.SHORT,
            newest=NEWEST,
            stamp=hashlib.sha256(whole).hexdigest()[:8],
        )

    def asset(self, name: str) -> Asset | None:
        """A file that pages need; None where there is none of this name."""
        return self._assets.get(name)

    def overview(
        self, projects: Sequence[Summary], *, notice: str, address: str, secured: bool
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
            running=any(project.round.running for project in projects),
            notice=NOTICES.get(notice, ""),
            address=address,
            secured=secured,
        )

    def cards(self, projects: Sequence[Summary]) -> str:
        """The part of the overview that changes."""
        return self._render("cards.html", root="", projects=projects)

    def project(self, page: ProjectPage, notice: str) -> str:
        """One project; ``notice`` as for the overview."""
        return self._render(
            "project.html",
            root="../",
            page=page,
            chart=draw(page.versions, page.outlook),
            notice=NOTICES.get(notice, ""),
            **self._now(page.summary),
        )

    def now(self, summary: Summary) -> str:
        """The part of a project's page that changes while a round runs."""
        return self._render("now.html", root="../", **self._now(summary))

    def error(self, heading: str, sentence: str, root: str) -> str:
        """A failure, in one sentence; ``root`` leads from the page's address to the overview."""
        return self._render("error.html", root=root, heading=heading, sentence=sentence, notice="")

    def _now(self, summary: Summary) -> Mapping[str, Any]:
        return {"s": summary, "next_step": wording.next_step(summary, self._retrain_after)}

    def _render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(values)
