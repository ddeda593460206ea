"""Instructions on what to label first, for a project without a model."""

from __future__ import annotations

from collections.abc import Collection

MIN_DETECTOR_IMAGES = 3
"""Minimum number of annotated images to train a detector."""


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
