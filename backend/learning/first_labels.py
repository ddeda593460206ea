"""Instructions for a project without a model: what to label first."""

from __future__ import annotations

from collections.abc import Collection

MIN_DETECTOR_IMAGES = 3
"""Number of images with objects from which a detector is trained."""


def describe_first_labels(types: Collection[str], retrain_after: int, pause: str) -> str:
    """Return what to label before the first model, and when training starts.

    Args:
        types: tags of the project's controls, such as ``Choices`` or ``RectangleLabels``.
        retrain_after: number of labels that starts a round.
        pause: the pause in labeling that starts one as well, in words.

    Example:
        >>> describe_first_labels(["KeyPointLabels"], 10, "a pause of 30 seconds")
        'Mark the things in 3 images or more. It learns after 10 labels, after a pause of 30 \
seconds, or at once when you press Start Training.'
    """
    steps = ["label a few images of each kind"] if "Choices" in types or not types else []
    if set(types) - {"Choices"}:
        steps.append(f"mark the things in {MIN_DETECTOR_IMAGES} images or more")
    instructions = " and ".join(steps)
    return (
        f"{instructions[0].upper()}{instructions[1:]}. It learns after {retrain_after} labels, "
        f"after {pause}, or at once when you press Start Training."
    )
