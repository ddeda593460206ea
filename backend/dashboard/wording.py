"""Figures and reasons in the words of people who know nothing of machine learning."""

from __future__ import annotations

from backend.dashboard.values import ProjectSummary
from backend.estimate import IntervalEstimate
from backend.learning.first_labels import describe_first_labels
from backend.records import HeldVersion
from backend.store.queue_front import QueuedTask

NO_LABEL_TEXT = "(nothing)"
ROUGH_FIGURE_IMAGES, MIN_FIGURE_IMAGES = 30, 10
"""Audit images below which a figure is called rough, and below which it hardly says anything."""
ROUND_STATE_TEXTS = {
    "idle": "Nothing under way",
    "observing": "Looking at the labels",
    "training": "Learning",
    "evaluating": "Checking what was learned",
    "pushing": "Writing suggestions into Label Studio",
    "failed": "The last round failed",
}
QUEUE_REASON_TEXTS = {
    "audit": "Drawn by lot to measure the model. It never learns from this one.",
    "check": "The model is sure enough to need nobody. Drawn by lot to check that.",
    "sought": "May show a label that has hardly an example yet.",
    "unlike": "Unlike anything that was labeled so far.",
    "uncertain": "The model is unsure of it, and of others like it ({unsure} unsure).",
    "telling": "The model is fairly sure of all that are left ({unsure} unsure of this one); it "
    "tells most about the others.",
    "typical": "Nothing is learned yet, and many images are like this one.",
}
QUEUE_REASON_TAGS = {
    "audit": "audit",
    "check": "check",
    "sought": "sought",
    "unlike": "unlike others",
    "uncertain": "uncertain",
    "telling": "most telling",
    "typical": "typical",
}
MIN_SHOWN_UNCERTAINTY = 0.2
"""From which on a model is called unsure, 0 to 1."""
CAPTURE_REASON_TEXTS = {
    "uncertain": "the model was unsure",
    "rare": "a rare label",
    "random": "drawn by lot",
}


def format_percent(value: float) -> str:
    """A share as people read it."""
    return f"{value:.0%}"


def reason_key(queued_task: QueuedTask) -> str:
    """Return the key of a task's reason in ``QUEUE_REASON_TEXTS`` and ``QUEUE_REASON_TAGS``."""
    return (
        "telling"
        if queued_task.why == "uncertain" and queued_task.unsure < MIN_SHOWN_UNCERTAINTY
        else queued_task.why
    )


def describe_reason(queued_task: QueuedTask) -> str:
    """Why a task comes next."""
    return QUEUE_REASON_TEXTS[reason_key(queued_task)].format(
        unsure=format_percent(queued_task.unsure)
    )


def is_proportion(figure: IntervalEstimate) -> bool:
    """Whether it counts right answers; F1 and its like do not."""
    return figure.metric.startswith("accuracy")


def format_headline(figure: IntervalEstimate) -> str:
    """A figure, large."""
    if figure.value is None:
        return "not known yet"
    return format_percent(figure.value) if is_proportion(figure) else f"F1 {figure.value:.2f}"


def format_interval(figure: IntervalEstimate) -> str:
    """Its 95 % interval, short."""
    if figure.value is None:
        return ""
    if is_proportion(figure):
        return f"{format_percent(figure.low)} to {format_percent(figure.high)}"
    return f"{figure.low:.2f} to {figure.high:.2f}"


def explain_figure(figure: IntervalEstimate) -> str:
    """What a version's figure means, in a sentence or two; empty where nothing is known."""
    if figure.value is None:
        return ""
    caveat = " That is few: take it as a rough figure." if figure.n < ROUGH_FIGURE_IMAGES else ""
    caveat = (
        " So few say hardly anything yet: label on." if figure.n < MIN_FIGURE_IMAGES else caveat
    )
    images = f"{figure.n} image{'s' if figure.n != 1 else ''}"
    if not is_proportion(figure):
        return (
            "1 would mean that it finds everything and marks nothing else. The true figure is "
            f"between {figure.low:.2f} and {figure.high:.2f} with 95 % confidence. "
            f"Measured on {images} drawn by lot, which the model never learned from.{caveat}"
        )
    correct_percent, low_percent, high_percent = (
        round(100 * bound) for bound in (figure.value, figure.low, figure.high)
    )
    return (
        f"Of 100 images it gets about {correct_percent} right; "
        f"the true figure is between {low_percent} and {high_percent} "
        f"with 95 % confidence. Measured on {images} drawn by lot, which the model never learned "
        f"from.{caveat}"
    )


def explain_estimate(estimate: IntervalEstimate, audit_figure: IntervalEstimate) -> str:
    """What an estimate by cross-validation means; empty where there is none.

    Args:
        estimate: by cross-validation.
        audit_figure: the figure beside it, on the audit slice.
    """
    if estimate.value is None:
        return ""
    timing = "until then" if audit_figure.value is None else "beside it, while those are few"
    return (
        f"An estimate {timing}: {format_percent(estimate.value)} "
        f"({format_interval(estimate)}), by asking models "
        f"that had not seen them about {estimate.n} labeled images. Those were chosen because they "
        "are hard, so it is likely too low."
    )


def suggest_next_step(summary: ProjectSummary, retrain_after: int) -> str:
    """Return what a person should do next, in a sentence; empty while a round runs."""
    status = summary.status
    if status.round.is_running:
        return ""
    if status.round.state == "failed":
        return "Prelabel tries again by itself; Start Training tries at once."
    if not status.tasks:
        return "Import images into the project in Label Studio; suggestions appear by themselves."
    if not status.labels:
        return describe_first_labels(summary.control_types, retrain_after, "a pause in labeling")
    if status.waiting:
        labels_left = max(0, retrain_after - status.waiting)
        if labels_left:
            return (
                f"It learns after {labels_left} more label{'s' if labels_left != 1 else ''}, after "
                "a pause in labeling, or now if you press Start Training."
            )
        return "Enough is new: it learns in a moment."
    if status.held and status.held.version:
        return (
            f"{status.held.version} has learned from all labels, and is held back. Go on "
            "labeling: the next version may pass."
        )
    if status.labels < status.tasks:
        return "It knows all labels. Go on labeling: the next image is the one that teaches most."
    return "Every image is labeled, and it knows all labels."


def explain_held_version(held: HeldVersion) -> str:
    """Return why the newest version is not live, or why none is trained."""
    return f"Version {held.version} is not live. {held.reason}" if held.version else held.reason
