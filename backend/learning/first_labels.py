"""Instructions for annotators: what to label first, and how to accept a suggestion."""

from __future__ import annotations

from collections.abc import Collection

MIN_DETECTOR_IMAGES = 3
"""Minimum number of annotated images to train a detector."""
SUBMIT_KEYS = "Ctrl+Enter (Cmd+Enter on a Mac)"
"""Label Studio's hotkey of the button Submit."""


def describe_first_labels(types: Collection[str], retrain_after: int, pause: str) -> str:
    """Return what to label before the first training, and when training starts.

    Args:
        types: tags of the project's controls, such as ``Choices`` or ``RectangleLabels``.
        retrain_after: number of labels that starts a round.
        pause: the pause in labeling that also starts one, as text.

    Example:
        >>> describe_first_labels(["KeyPointLabels"], 10, "a pause of 30 seconds")
        'Annotate the objects in 3 images or more. Training starts after 10 labels, after a pause \
of 30 seconds, or at once when you press Start Training.'
    """
    steps = ["label a few images of each kind"] if "Choices" in types or not types else []
    if set(types) - {"Choices"}:
        steps.append(f"annotate the objects in {MIN_DETECTOR_IMAGES} images or more")
    instructions = " and ".join(steps)
    return (
        f"{instructions[0].upper()}{instructions[1:]}. Training starts after {retrain_after} "
        f"labels, after {pause}, or at once when you press Start Training."
    )


def describe_submitting(types: Collection[str]) -> str:
    """Return how to accept a correct suggestion.

    Args:
        types: tags of the project's controls, such as ``Choices`` or ``RectangleLabels``.

    Example:
        >>> describe_submitting(["RectangleLabels"])
        'If the suggestions are right, only submit them with Ctrl+Enter (Cmd+Enter on a Mac).'
    """
    if "Choices" not in types:
        return f"If the suggestions are right, only submit them with {SUBMIT_KEYS}."
    return (
        f"If the suggested label is right, only submit it with {SUBMIT_KEYS}. Pressing its own key "
        "turns it off."
    )
