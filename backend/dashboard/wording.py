"""Texts of the dashboard, for readers without knowledge of machine learning."""

from __future__ import annotations

from backend.dashboard.values import ProjectSummary
from backend.estimate import IntervalEstimate
from backend.learning.first_labels import describe_first_labels
from backend.records import HeldVersion
from backend.store.queue_front import QueuedTask

NO_LABEL_TEXT = "(nothing)"
ROUGH_FIGURE_IMAGES, MIN_FIGURE_IMAGES = 30, 10
"""Numbers of audit images below which a figure is called rough, or too early to use."""
ROUND_STATE_TEXTS = {
    "idle": "Idle",
    "observing": "Reading labels",
    "training": "Training",
    "evaluating": "Evaluating the new version",
    "pushing": "Writing predictions to Label Studio",
    "failed": "The last round failed",
}
QUEUE_REASON_TEXTS = {
    "audit": "Drawn at random to measure the model, which is never trained on it.",
    "check": "Confident enough to be accepted without a person. Drawn at random as a spot check.",
    "sought": "May show a label that has few examples.",
    "unlike": "Unlike all images labeled so far.",
    "uncertain": "The model is uncertain about it and about similar images (uncertainty {unsure}).",
    "telling": "The model is fairly confident about all remaining images (uncertainty here "
    "{unsure}); this one represents the most of them.",
    "typical": "Similar to many other images; uncertainty does not distinguish them yet.",
}
QUEUE_REASON_TAGS = {
    "audit": "audit",
    "check": "check",
    "sought": "rare label",
    "unlike": "different",
    "uncertain": "uncertain",
    "telling": "representative",
    "typical": "typical",
}
MIN_SHOWN_UNCERTAINTY = 0.2
"""Uncertainty from which a model is called uncertain, 0 to 1."""
CAPTURE_REASON_TEXTS = {
    "uncertain": "uncertain prediction",
    "rare": "rare label",
    "random": "random sample",
}


def format_percent(value: float) -> str:
    """Format a share as a percentage."""
    return f"{value:.0%}"


def reason_key(queued_task: QueuedTask) -> str:
    """Return the key of a task's reason in ``QUEUE_REASON_TEXTS`` and ``QUEUE_REASON_TAGS``."""
    return (
        "telling"
        if queued_task.why == "uncertain" and queued_task.unsure < MIN_SHOWN_UNCERTAINTY
        else queued_task.why
    )


def describe_reason(queued_task: QueuedTask) -> str:
    """Return why a task comes next."""
    return QUEUE_REASON_TEXTS[reason_key(queued_task)].format(
        unsure=format_percent(queued_task.unsure)
    )


def is_proportion(figure: IntervalEstimate) -> bool:
    """Return whether a figure is a share of images, unlike F1."""
    return figure.metric.startswith("accuracy")


def format_headline(figure: IntervalEstimate) -> str:
    """Format a figure for a headline."""
    if figure.value is None:
        return "not known yet"
    return format_percent(figure.value) if is_proportion(figure) else f"F1 {figure.value:.2f}"


def format_interval(figure: IntervalEstimate) -> str:
    """Format a figure's 95 % interval."""
    if figure.value is None:
        return ""
    if is_proportion(figure):
        return f"{format_percent(figure.low)} to {format_percent(figure.high)}"
    return f"{figure.low:.2f} to {figure.high:.2f}"


def explain_figure(figure: IntervalEstimate) -> str:
    """Explain a version's figure; empty when it is unknown."""
    if figure.value is None:
        return ""
    caveat = " With so few images it is a rough figure." if figure.n < ROUGH_FIGURE_IMAGES else ""
    caveat = (
        " So few images say hardly anything yet: keep labeling."
        if figure.n < MIN_FIGURE_IMAGES
        else caveat
    )
    images = f"{figure.n} image{'s' if figure.n != 1 else ''}"
    if not is_proportion(figure):
        return (
            "1 would mean that it finds everything and marks nothing else. The true figure is "
            f"between {figure.low:.2f} and {figure.high:.2f} with 95 % confidence. "
            f"Measured on {images} drawn at random and never used for training.{caveat}"
        )
    correct_percent, low_percent, high_percent = (
        round(100 * bound) for bound in (figure.value, figure.low, figure.high)
    )
    return (
        f"Of 100 images it gets about {correct_percent} right; the true figure is between "
        f"{low_percent} and {high_percent} with 95 % confidence. Measured on {images} drawn at "
        f"random and never used for training.{caveat}"
    )


def explain_estimate(estimate: IntervalEstimate, audit_figure: IntervalEstimate) -> str:
    """Explain an estimate by cross-validation; empty when there is none.

    Args:
        estimate: the estimate.
        audit_figure: the figure on the audit set beside it.
    """
    if estimate.value is None:
        return ""
    prefix = "Until then estimated" if audit_figure.value is None else "Estimated"
    return (
        f"{prefix} by cross-validation: {format_percent(estimate.value)} "
        f"({format_interval(estimate)}), on {estimate.n} labeled images. They were chosen because "
        "they are hard, so the estimate is likely too low."
    )


def suggest_next_step(summary: ProjectSummary, retrain_after: int) -> str:
    """Return what a person should do next, in a sentence; empty while a round runs."""
    status = summary.status
    if status.round.is_running:
        return ""
    if status.round.state == "failed":
        return "Prelabel retries automatically. Start training retries now."
    if not status.tasks:
        return "Import images into the project in Label Studio; predictions appear automatically."
    if not status.labels:
        return describe_first_labels(summary.control_types, retrain_after, "a pause in labeling")
    if status.waiting:
        labels_left = max(0, retrain_after - status.waiting)
        if labels_left:
            return (
                f"Training starts after {labels_left} more label{'s' if labels_left != 1 else ''}, "
                "after a pause in labeling, or now if you press Start training."
            )
        return "There are enough new labels: training starts in a moment."
    if status.held and status.held.version:
        return (
            f"{status.held.version} has learned from all labels, and is held back. Keep labeling: "
            "the next version may pass."
        )
    if status.labels < status.tasks:
        return "All labels are learned. Keep labeling: the most useful image comes next."
    return "Every image is labeled, and all labels are learned."


def explain_held_version(held: HeldVersion) -> str:
    """Return why the newest version is not live, or why none is trained."""
    return f"Version {held.version} is not live. {held.reason}" if held.version else held.reason
