"""Texts of the dashboard, for users without ML knowledge."""

from __future__ import annotations

from backend.dashboard.values import ProjectSummary
from backend.estimate import IntervalEstimate
from backend.learning.first_labels import describe_first_labels
from backend.records import HeldVersion, RoundStatus
from backend.store.queue_front import QueuedTask

NO_LABEL_TEXT = "(nothing)"
ROUGH_FIGURE_IMAGES, MIN_FIGURE_IMAGES = 30, 10
"""Numbers of audit images below which a figure is described as rough, or as unusable."""
ROUND_STATE_TEXTS = {
    "idle": "Idle",
    "observing": "Reading labels",
    "training": "Training",
    "evaluating": "Evaluating the new version",
    "pushing": "Writing predictions to Label Studio",
    "failed": "The last round failed",
}
QUEUE_REASON_TEXTS = {
    "audit": "Selected at random to measure the accuracy. It is never used for training.",
    "check": "Confident enough to be auto-accepted. Selected at random as a spot check.",
    "sought": "May show a label that has few examples.",
    "unlike": "Not similar to any image labeled so far.",
    "uncertain": "The model is uncertain about this image and similar ones (uncertainty "
    "{uncertainty}).",
    "representative": "The model is fairly confident about all remaining images (uncertainty of "
    "this one: {uncertainty}). This one is similar to most of them.",
    "typical": "Similar to many other images. Uncertainty does not distinguish them yet.",
}
QUEUE_REASON_TAGS = {
    "audit": "audit",
    "check": "check",
    "sought": "rare label",
    "unlike": "different",
    "uncertain": "uncertain",
    "representative": "representative",
    "typical": "typical",
}
MIN_SHOWN_UNCERTAINTY = 0.2
"""Uncertainty from which a task is described as uncertain, 0 to 1."""
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
        "representative"
        if queued_task.why == "uncertain" and queued_task.unsure < MIN_SHOWN_UNCERTAINTY
        else queued_task.why
    )


def describe_reason(queued_task: QueuedTask) -> str:
    """Return the reason for a task's rank in the queue."""
    uncertainty = format_percent(queued_task.unsure)
    return QUEUE_REASON_TEXTS[reason_key(queued_task)].format(uncertainty=uncertainty)


def is_proportion(figure: IntervalEstimate) -> bool:
    """Return whether a figure is a share of images, unlike F1."""
    return figure.metric.startswith("accuracy")


def format_headline(figure: IntervalEstimate) -> str:
    """Format a figure as a headline."""
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
    """Explain a version's figure; empty if it is unknown."""
    if figure.value is None:
        return ""
    caveat = ""
    if figure.n < MIN_FIGURE_IMAGES:
        caveat = " There are too few images for a reliable figure: keep labeling."
    elif figure.n < ROUGH_FIGURE_IMAGES:
        caveat = " With so few images it is a rough figure."
    images = f"{figure.n} image{'s' if figure.n != 1 else ''}"
    if not is_proportion(figure):
        return (
            "F1 is 1 if the model finds all objects and nothing else. The true figure is "
            f"between {figure.low:.2f} and {figure.high:.2f} with 95 % confidence. "
            f"Measured on {images} selected at random and never used for training.{caveat}"
        )
    correct_percent, low_percent, high_percent = (
        round(100 * bound) for bound in (figure.value, figure.low, figure.high)
    )
    return (
        f"About {correct_percent} of 100 images are predicted correctly. The true figure is "
        f"between {low_percent} and {high_percent} with 95 % confidence. Measured on {images} "
        f"selected at random and never used for training.{caveat}"
    )


def explain_estimate(estimate: IntervalEstimate, audit_figure: IntervalEstimate) -> str:
    """Explain an estimate by cross-validation; empty if there is none.

    Args:
        estimate: estimate by cross-validation.
        audit_figure: figure on the audit set, which is displayed first.
    """
    if estimate.value is None:
        return ""
    prefix = "Until then estimated" if audit_figure.value is None else "Estimated"
    return (
        f"{prefix} by cross-validation: {format_percent(estimate.value)} "
        f"({format_interval(estimate)}), on {estimate.n} labeled images. They were selected "
        "because they are difficult, so the estimate is probably too low."
    )


def round_text(round_status: RoundStatus) -> str:
    """Return what a round does, in a few words; what it waits for when another one runs."""
    if round_status.waiting and round_status.detail:
        return round_status.detail
    return ROUND_STATE_TEXTS.get(round_status.state, round_status.state)


def suggest_next_step(summary: ProjectSummary, retrain_after: int) -> str:
    """Return a sentence about the user's next step; empty while a round is running."""
    status = summary.status
    if status.round.is_running:
        return ""
    if status.round.state == "failed":
        return "Prelabel retries automatically. Press Start training to retry now."
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
            f"{status.held.version} is trained on all labels, and is held back. Keep labeling: "
            "the next version may pass."
        )
    if status.labels < status.tasks:
        return (
            "The model is trained on all labels. Keep labeling: the most informative image is next."
        )
    return "Every image is labeled, and the model is trained on all labels."


def explain_held_version(held: HeldVersion) -> str:
    """Return why the newest version is not live, or why none is trained."""
    return f"Version {held.version} is not live. {held.reason}" if held.version else held.reason
