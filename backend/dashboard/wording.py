"""Figures and reasons in the words of people who know nothing of machine learning."""

from __future__ import annotations

from collections.abc import Mapping

from backend.dashboard.values import Figure, Summary
from backend.learning.first_labels import first_labels
from backend.store.queue_front import Asked

NOTHING = "(nothing)"
ROUGH, HARDLY = 30, 10
"""Audit images below which a figure is called rough, and below which it hardly says anything."""
STATES = {
    "idle": "Nothing under way",
    "observing": "Looking at the labels",
    "training": "Learning",
    "evaluating": "Checking what was learned",
    "pushing": "Writing suggestions into Label Studio",
    "failed": "The last round failed",
}
REASONS = {
    "audit": "Drawn by lot to measure the model. It never learns from this one.",
    "check": "The model is sure enough to need nobody. Drawn by lot to check that.",
    "sought": "May show a label that has hardly an example yet.",
    "unlike": "Unlike anything that was labeled so far.",
    "uncertain": "The model is unsure of it, and of others like it ({unsure} unsure).",
    "telling": "The model is fairly sure of all that are left ({unsure} unsure of this one); it "
    "tells most about the others.",
    "typical": "Nothing is learned yet, and many images are like this one.",
}
SHORT = {
    "audit": "audit",
    "check": "check",
    "sought": "sought",
    "unlike": "unlike others",
    "uncertain": "uncertain",
    "telling": "most telling",
    "typical": "typical",
}
UNSURE = 0.2
"""From which on a model is called unsure, 0 to 1."""
CAPTURED = {
    "uncertain": "the model was unsure",
    "rare": "a rare label",
    "random": "drawn by lot",
}


def percent(value: float) -> str:
    """A share as people read it."""
    return f"{value:.0%}"


def kind(asked: Asked) -> str:
    """The reason for a task, as people are told it: a key of ``REASONS`` and ``SHORT``."""
    return "telling" if asked.why == "uncertain" and asked.unsure < UNSURE else asked.why


def why(asked: Asked) -> str:
    """Why a task comes next."""
    return REASONS[kind(asked)].format(unsure=percent(asked.unsure))


def is_share(figure: Figure) -> bool:
    """Whether it counts right answers; F1 and its like do not."""
    return figure.metric.startswith("accuracy")


def headline(figure: Figure) -> str:
    """A figure, large."""
    if figure.value is None:
        return "not known yet"
    return percent(figure.value) if is_share(figure) else f"F1 {figure.value:.2f}"


def interval(figure: Figure) -> str:
    """Its 95 % interval, short."""
    if figure.value is None:
        return ""
    if is_share(figure):
        return f"{percent(figure.low)} to {percent(figure.high)}"
    return f"{figure.low:.2f} to {figure.high:.2f}"


def meaning(figure: Figure) -> str:
    """What a version's figure means, in a sentence or two; empty where nothing is known."""
    if figure.value is None:
        return ""
    rough = " That is few: take it as a rough figure." if figure.n < ROUGH else ""
    rough = " So few say hardly anything yet: label on." if figure.n < HARDLY else rough
    images = f"{figure.n} image{'s' if figure.n != 1 else ''}"
    if not is_share(figure):
        return (
            "1 would mean that it finds everything and marks nothing else. The true figure is "
            f"between {figure.low:.2f} and {figure.high:.2f} with 95 % confidence. "
            f"Measured on {images} drawn by lot, which the model never learned from.{rough}"
        )
    right, low, high = (round(100 * part) for part in (figure.value, figure.low, figure.high))
    return (
        f"Of 100 images it gets about {right} right; the true figure is between {low} and {high} "
        f"with 95 % confidence. Measured on {images} drawn by lot, which the model never learned "
        f"from.{rough}"
    )


def guessed(estimate: Figure, known: Figure) -> str:
    """What an estimate by cross-validation means; empty where there is none.

    Args:
        estimate: by cross-validation.
        known: the figure beside it, on the audit slice.
    """
    if estimate.value is None:
        return ""
    when = "until then" if known.value is None else "beside it, while those are few"
    return (
        f"An estimate {when}: {percent(estimate.value)} ({interval(estimate)}), by asking models "
        f"that had not seen them about {estimate.n} labeled images. Those were chosen because they "
        "are hard, so it is likely too low."
    )


def next_step(summary: Summary, retrain_after: int) -> str:
    """What a person should do next, in a sentence."""
    if summary.round.running:
        return ""
    if summary.round.state == "failed":
        return "Prelabel tries again by itself; Start Training tries at once."
    if not summary.tasks:
        return "Import images into the project in Label Studio; suggestions appear by themselves."
    if not summary.labels:
        return first_labels(summary.types, retrain_after, "a pause in labeling")
    if summary.waiting:
        left = max(0, retrain_after - summary.waiting)
        if left:
            return (
                f"It learns after {left} more label{'s' if left != 1 else ''}, after a pause in "
                "labeling, or now if you press Start Training."
            )
        return "Enough is new: it learns in a moment."
    if summary.held.get("version"):
        return (
            f"{summary.held['version']} has learned from all labels, and is held back. Go on "
            "labeling: the next version may pass."
        )
    if summary.labels < summary.tasks:
        return "It knows all labels. Go on labeling: the next image is the one that teaches most."
    return "Every image is labeled, and it knows all labels."


def why_not_live(held: Mapping[str, str]) -> str:
    """Why the newest version is not live, or none is made.

    Args:
        held: of a round's outcome; not empty.
    """
    version = held.get("version", "")
    return f"Version {version} is not live. {held['reason']}" if version else str(held["reason"])
