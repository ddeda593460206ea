"""Render pages as HTML; all values are escaped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from backend.dashboard import wording
from backend.dashboard.audit_values import AuditPage, ComparisonPage
from backend.dashboard.chart import build_chart
from backend.dashboard.tried_image import TriedImage
from backend.dashboard.values import ProjectPage, ProjectSummary, PromotionQuestion
from backend.estimate import (
    MIN_FIGURE_IMAGES,
    format_audit_progress,
    format_headline,
    format_interval,
    format_percent,
)
from backend.json_records import JsonObject
from backend.records import TRAINING_STATES

DASHBOARD_FOLDER = Path(__file__).resolve().parent
ASSET_TYPES = {
    "style.css": "text/css",
    "forms.js": "text/javascript",
    "local_times.js": "text/javascript",
    "refresh.js": "text/javascript",
    "try.js": "text/javascript",
    "notify.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
LISTED_VERSIONS = 10
"""Number of versions that are not collapsed in the table."""
ACTION_NOTICES = {
    "train": "A round was requested. It trains if there are new labels; its progress appears here.",
    "promote": "That version is live. Its predictions are being written to Label Studio.",
    "rollback": "The earlier version is live. Its predictions are being written to Label Studio.",
    "right": "The label is confirmed. It is not listed again unless it changes.",
    "change": "The label is changed in Label Studio. The next round learns from it. To undo the "
    "change, see Labels to check.",
    "undo": "The former label is restored in Label Studio, and listed again.",
    "cancel": "Training is being cancelled. The live version does not change.",
    "labels": "Saved. If the label was renamed, its annotations are changed in the next round.",
    "leave": "The project was removed from this page. Its versions are kept.",
}
"""Action → notice after it; the URL contains only the name of the action."""
DEFAULT_ENDPOINT_ADDRESS = "http://localhost:9091"
TEMPLATE_GLOBALS: Mapping[str, Any] = {
    "headline": format_headline,
    "interval": format_interval,
    "unanswered_text": wording.explain_unanswered,
    "unanswered_shown": wording.UNANSWERED_SHOWN,
    "audit_progress": format_audit_progress,
    "min_figure_images": MIN_FIGURE_IMAGES,
    "explain_figure": wording.explain_figure,
    "explain_estimate": wording.explain_estimate,
    "percent": format_percent,
    "activity_text": wording.activity_text,
    "activity_progress": wording.activity_progress,
    "predicting_text": wording.PREDICTING_TEXT,
    "removed_label_text": wording.explain_removed_label,
    "label_text": wording.label_text,
    "label_error_check": wording.label_error_check,
    "reason_tags": wording.QUEUE_REASON_TAGS,
    "listed_versions": LISTED_VERSIONS,
}


@dataclass(frozen=True)
class StaticAsset:
    """A static file with its media type."""

    content: bytes
    type: str


@dataclass(frozen=True)
class EndpointCall:
    """A request to the predict endpoint, as shown to people who want to call it.

    Attributes:
        address: address of the endpoint.
        function: id of the function.
        needs_key: whether requests need an API key.
        is_running: whether the endpoint shows it, so that it need not be started.
    """

    address: str = DEFAULT_ENDPOINT_ADDRESS
    function: str = "FUNCTION"
    needs_key: bool = True
    is_running: bool = True


class TemplateRenderer:
    """Renders templates, and reads the static files that they refer to."""

    def __init__(self) -> None:
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
        asset_hash = hashlib.sha256(all_content).hexdigest()[:8]
        self._templates.globals.update(TEMPLATE_GLOBALS, asset_hash=asset_hash)

    def asset(self, name: str) -> StaticAsset | None:
        """Return a static file; None for an unknown name."""
        return self._assets.get(name)

    def endpoint_page(self, call: EndpointCall) -> str:
        """Render the root page of the predict endpoint."""
        return self._render("endpoint.html", call=call)

    def _render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(values)


class PageRenderer(TemplateRenderer):
    """Renders the dashboard's pages.

    Args:
        retrain_after: number of new labels that starts training.
    """

    def __init__(self, retrain_after: int) -> None:
        super().__init__()
        self._retrain_after = retrain_after

    def overview(
        self,
        projects: Sequence[ProjectSummary],
        *,
        notice: str,
        address: str,
        secured: bool,
        problems: Sequence[str] = (),
    ) -> str:
        """Render the overview of all projects.

        Args:
            projects: projects of the backend.
            notice: name of the last action; may be empty.
            address: URL of the page.
            secured: whether basic authentication is enabled.
            problems: why projects are left out.
        """
        return self._render(
            "overview.html",
            root="",
            projects=projects,
            running=any(wording.activity_progress(p.status) is not None for p in projects),
            notice=ACTION_NOTICES.get(notice, ""),
            address=address,
            secured=secured,
            problems=problems,
        )

    def cards(self, projects: Sequence[ProjectSummary]) -> str:
        """Render the part of the overview that refreshes itself."""
        return self._render("cards.html", root="", projects=projects)

    def render_project(self, page: ProjectPage, notice: str) -> str:
        """Render a project's page; ``notice`` is the name of the last action."""
        return self._render(
            "project.html",
            root="../",
            page=page,
            chart=build_chart(page.versions, page.outlook),
            notice=ACTION_NOTICES.get(notice, ""),
            endpoint_call=EndpointCall(function=str(page.summary.status.id), is_running=False),
            **self._status_values(page.summary),
        )

    def promotion_question(self, question: PromotionQuestion) -> str:
        """Render the page that asks before another version goes live."""
        version = question.card.version
        action = f"Roll back to {version}" if question.is_rollback else f"Promote {version}"
        return self._render(
            "confirm.html",
            root="../../../",
            notice="",
            heading=f"{action}?",
            button=action,
            action=f"rollback?to={version}" if question.is_rollback else f"promote/{version}",
            s=question.summary,
            card=question.card,
            live=question.live,
            open_tasks_text=wording.describe_open_tasks(question.summary.status),
            training_text=wording.explain_running_training(version)
            if question.summary.status.round.state in TRAINING_STATES
            else "",
        )

    def render_audit(self, summary: ProjectSummary, page: AuditPage) -> str:
        """Render the page of selected audit images."""
        return self._render("audit.html", root="../../", s=summary, page=page, notice="")

    def comparison(self, summary: ProjectSummary, page: ComparisonPage) -> str:
        """Render the page that compares two versions."""
        return self._render("comparison.html", root="../../", s=summary, page=page, notice="")

    def try_answer(self, summary: ProjectSummary, answer: JsonObject) -> str:
        """Render the predictions for an uploaded image, for browsers without JavaScript."""
        values = {"s": summary, "answer": TriedImage.from_response(answer)}
        return self._render("try_answer.html", root="../../", notice="", **values)

    def round_status(self, summary: ProjectSummary) -> str:
        """Render the part of a project's page that refreshes itself."""
        return self._render("now.html", root="../", **self._status_values(summary))

    def error(self, heading: str, sentence: str, root: str) -> str:
        """Render an error page; ``root`` is the relative URL of the overview."""
        return self._render("error.html", root=root, heading=heading, sentence=sentence, notice="")

    def _status_values(self, summary: ProjectSummary) -> Mapping[str, Any]:
        return {"s": summary, "next_step": wording.suggest_next_step(summary, self._retrain_after)}
