"""Texts of the dashboard, for users without ML knowledge."""

from __future__ import annotations

from backend.dashboard.values import ProjectSummary
from backend.estimate import (
    MIN_FIGURE_IMAGES,
    IntervalEstimate,
    format_audit_progress,
    format_interval,
    format_percent,
)
from backend.learning.audit import labels_until
from backend.learning.first_labels import describe_first_labels
from backend.records import HeldVersion, ProjectStatus, RemovedLabel, RoundStatus
from backend.store.queue_front import DIFFERENT, RARE_LABEL, QueuedTask

NO_LABEL_TEXT = "(nothing)"
ROUGH_FIGURE_IMAGES = 30
"""Number of audit images below which a figure is described as rough."""
ROUND_STATE_TEXTS = {
    "idle": "Idle",
    "observing": "Reading labels",
    "training": "Training",
    "evaluating": "Evaluating the new version",
    "pushing": "Writing predictions to Label Studio",
    "failed": "The last round failed",
}
CANCELLING_TEXT = "Cancelling the training"
QUEUE_REASON_TEXTS = {
    "audit": "Selected at random to measure the accuracy. It is never used for training.",
    "check": "Confident enough to be auto-accepted. Selected at random as a spot check.",
    RARE_LABEL: "May show a label that has few examples.",
    DIFFERENT: "Least similar to the images labeled so far.",
    "uncertain": "The model is uncertain about this image and similar ones (uncertainty "
    "{uncertainty}).",
    "representative": "The model is fairly confident about this image (uncertainty: "
    "{uncertainty}). It is similar to many unlabeled images.",
    "typical": "Similar to many other images. Uncertainty does not distinguish them yet.",
}
QUEUE_REASON_TAGS = {
    "audit": "audit",
    "check": "check",
    RARE_LABEL: "rare label",
    DIFFERENT: "different",
    "uncertain": "uncertain",
    "representative": "representative",
    "typical": "typical",
}
LABEL_ERROR_CHECKS = {
    "wrong label": "Check",
    "overlooked": "Check for a missing object",
    "badly placed": "Check the positions",
    "swapped label": "Check the labels",
}
CAPTURE_REASON_TEXTS = {
    "uncertain": "uncertain prediction",
    "rare": "rare label",
    "random": "random sample",
}


def label_text(label: str) -> str:
    """Return a label, or a text for the absence of one."""
    return label or NO_LABEL_TEXT


def label_error_check(why: str) -> str:
    """Return what to check about a label that a model contradicts, by the kind of error."""
    return LABEL_ERROR_CHECKS.get(why, "Check")


def describe_label_error(why: str, given: str, suggested: str) -> str:
    """Return what to check about a label that a model contradicts.

    Example:
        >>> describe_label_error("overlooked", "1 × leaf", "2 × leaf")
        'Check for a missing object: labeled 1 × leaf, the model predicts 2 × leaf'
    """
    labels = f"labeled {label_text(given)}, the model predicts {label_text(suggested)}"
    return f"{label_error_check(why)}: {labels}"


def reason_key(queued_task: QueuedTask) -> str:
    """Return the key of a task's reason in ``QUEUE_REASON_TEXTS`` and ``QUEUE_REASON_TAGS``."""
    return (
        "representative"
        if queued_task.reason == "uncertain" and not queued_task.is_uncertain
        else queued_task.reason
    )


def describe_reason(queued_task: QueuedTask) -> str:
    """Return the reason for a task's rank in the queue."""
    uncertainty = format_percent(queued_task.uncertainty)
    return QUEUE_REASON_TEXTS[reason_key(queued_task)].format(uncertainty=uncertainty)


def explain_figure(figure: IntervalEstimate, audit_labels: int = 0) -> str:
    """Explain a version's figure, or why it is too early for one.

    Args:
        figure: the figure.
        audit_labels: number of audit images that are labeled by now.
    """
    if figure.n < MIN_FIGURE_IMAGES:
        return (
            "The accuracy is measured on one image in ten, selected at random and never used for "
            f"training: {format_audit_progress(figure, audit_labels)}."
            f"{describe_labels_left(figure, audit_labels)}"
        )
    if figure.value is None:
        return ""
    if figure.metric == "F1":
        meaning = (
            "F1 is 100% if the model finds all objects and nothing else. It is measured on "
            f"{figure.n} audit images"
        )
    else:
        correct_count = round(figure.n * figure.value)
        meaning = f"{correct_count} of {figure.n} audit images are predicted correctly"
    interval = format_interval(figure).replace(" to ", " and ")
    caveat = " With so few images it is a rough figure." if figure.n < ROUGH_FIGURE_IMAGES else ""
    return (
        f"{meaning}. They were selected at random and are never used for training. The true figure "
        f"is between {interval} with 95% confidence.{caveat}"
    )


def describe_labels_left(figure: IntervalEstimate, audit_labels: int) -> str:
    """Return when the first figure comes, with a leading space; empty if nothing is missing.

    Example:
        >>> describe_labels_left(IntervalEstimate(), 3)
        ' The first figure comes after about 70 more labels.'
    """
    missing = MIN_FIGURE_IMAGES - max(figure.n, audit_labels)
    if missing <= 0:
        return ""
    return f" The first figure comes after about {labels_until(missing)} more labels."


def explain_estimate(
    estimate: IntervalEstimate, audit_figure: IntervalEstimate, is_selected: bool
) -> str:
    """Explain an estimate by cross-validation; empty without one on enough images.

    Args:
        estimate: estimate by cross-validation.
        audit_figure: figure on the audit set, which is displayed first.
        is_selected: most labels are of images that were served because the model was uncertain.
    """
    if not estimate.is_conclusive or estimate.value is None:
        return ""
    prefix = "Estimated" if audit_figure.is_conclusive else "Estimate until then,"
    sentence = (
        f"{prefix} by cross-validation: {format_percent(estimate.value)} "
        f"({format_interval(estimate)}), on {estimate.n} labeled images."
    )
    bias = (
        " Most of them were selected because they are difficult, so the estimate is probably too "
        "low."
        if is_selected
        else ""
    )
    return sentence + bias


UNANSWERED_SHOWN = 12
"""Number of tasks without a choice that are listed."""


def explain_unanswered(count: int) -> str:
    """Explain tasks that were submitted without a choice; the list of them follows."""
    images = "1 image was" if count == 1 else f"{count} images were"
    return (
        f"{images} submitted without a choice. Label Studio counts {'it' if count == 1 else 'them'}"
        " as labeled, but nothing is learned without a label. Open, choose a label and press "
        "Update:"
    )


PREDICTING_TEXT = "Computing predictions for Label Studio"


def explain_removed_label(removed: RemovedLabel, has_controls: bool) -> str:
    """Explain that annotations use a label that the labeling config lost.

    Args:
        removed: the label.
        has_controls: name its control, because the config has several.

    Example:
        >>> explain_removed_label(RemovedLabel("clothes", "pants", 12), has_controls=False)
        '12 annotations use “pants”, which the labeling config no longer has.'
    """
    use = (
        "1 annotation uses"
        if removed.annotations == 1
        else f"{removed.annotations} annotations use"
    )
    control = f" of {removed.control}" if has_controls else ""
    return f"{use} “{removed.label}”{control}, which the labeling config no longer has."


def describe_open_tasks(status: ProjectStatus) -> str:
    """Return a text for the tasks without a label, such as ``all 12 open tasks``."""
    count = max(0, status.tasks - status.labels)
    if count <= 1:
        return "the open task" if count else "all open tasks"
    return f"all {count:,} open tasks"


def activity_text(status: ProjectStatus) -> str:
    """Return a short text for the current activity, or for what the round waits for."""
    if status.predicting and not status.round.is_running:
        return PREDICTING_TEXT
    return round_text(status.round)


def round_text(round_status: RoundStatus) -> str:
    """Return a short text for the step of a round, or for what the round waits for."""
    if round_status.cancelling:
        return CANCELLING_TEXT
    if round_status.waiting and round_status.detail:
        return round_status.detail
    return ROUND_STATE_TEXTS.get(round_status.state, round_status.state)


def activity_progress(status: ProjectStatus) -> float | None:
    """Return the progress of what happens in a project, 0 to 1; None if nothing does."""
    if status.round.is_running:
        return status.round.progress
    return status.predicting.share if status.predicting else None


def suggest_next_step(summary: ProjectSummary, retrain_after: int) -> str:
    """Return a sentence about the user's next step; empty while a round is running."""
    status = summary.status
    if status.round.is_running or status.removed_at:
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
    if summary.is_all_labeled:
        return (
            "Every image is labeled. Next, add images to the project, see the labels to check, or "
            "use the model in applications (see Try it)."
        )
    if status.held and status.held.version:
        return (
            f"{status.held.version} is up to date with all labels, but is held back. Keep "
            "labeling: the next version may pass."
        )
    return (
        "The model is up to date with all labels. Keep labeling: the most informative image is "
        "next."
    )


def explain_running_training(version: str) -> str:
    """Explain what becomes of a running training when a person makes a version live."""
    return (
        "A training is running and continues. The version that it trains is compared with "
        f"{version} and goes live if it is not worse; to prevent that, cancel the training."
    )


def explain_held_version(held: HeldVersion) -> str:
    """Return why the newest version is not live, or why none is trained."""
    return f"Version {held.version} is not live. {held.reason}" if held.version else held.reason
