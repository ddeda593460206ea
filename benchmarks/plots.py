"""Plots of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def saved_plot(file: Path, columns: int, size: tuple[float, float]) -> Iterator[list[Any]]:
    """Give matplotlib axes side by side, and save the figure at the end.

    Args:
        file: where to save it.
        columns: number of axes.
        size: width and height in inches.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=size, squeeze=False)
    yield list(axes[0])
    figure.savefig(file, dpi=120, bbox_inches="tight")
    print(f"plot: {file}")
