"""A response for eyes: marks to draw on the image, and a line of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain import Place
from backend.endpoint.functions import Loaded
from backend.endpoint.invoker import read_picture
from backend.endpoint.responses import Wish, answer
from backend.vision.images.decode import Picture
from backend.vision.images.draw import Mark, draw

if TYPE_CHECKING:
    from PIL import Image

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Looked:
    """An image that a version looked at.

    Attributes:
        answer: as the endpoint gives it.
        picture: that was looked at.
        labels: all of the version's.
    """

    answer: dict[str, Any]
    picture: Picture
    labels: tuple[str, ...]

    def drawn(self) -> Image.Image:
        """The answer on a copy of the picture."""
        return draw(self.picture.image, marks_of(self.answer), self.labels)


def look(loaded: Loaded, content: bytes, max_pixels: int) -> Looked:
    """Let a version look at an image, the way the endpoint does.

    Raises:
        ImageError: it cannot be read.
    """
    picture = read_picture(content, max_pixels, loaded.at_least)
    (said,) = loaded.say([picture])
    labels = (name for control in loaded.controls for name in control.label_names)
    return Looked(answer(loaded, said, Wish()), picture, tuple(labels))


def marks_of(answer: Answer) -> list[Mark]:
    """What to draw of a response to one image, see ``answers.answer``."""
    controls = answer.get("controls") or {"": answer}
    return [mark for one in controls.values() for mark in _marks(one)]


def in_words(answer: Answer) -> str:
    """A response in a line.

    Example:
        >>> in_words({"labelName": "red", "confidence": 0.981})
        'red 98%'
        >>> in_words({"predictions": [...], "counts": {"apple": 3, "pear": 0}})
        '3 apple'
    """
    controls = answer.get("controls")
    if controls:
        return "; ".join(f"{name}: {_words(one)}" for name, one in controls.items())
    return _words(answer)


def _words(answer: Answer) -> str:
    if "predictions" in answer:
        counts = [f"{count} {name}" for name, count in answer["counts"].items() if count]
        return ", ".join(counts) or "nothing found"
    if "labels" in answer:
        return ", ".join(map(_sure, answer["labels"])) or "none of the labels"
    return _sure(answer) if answer["labelName"] else "not certain of any label"


def _sure(one: Answer) -> str:
    return f"{one['labelName']} {one['confidence']:.0%}"


def _marks(answer: Answer) -> Iterator[Mark]:
    if answer.get("labelName"):
        yield Mark(answer["labelName"], answer["confidence"])
    for one in answer.get("labels", []):
        yield Mark(one["labelName"], one["confidence"])
    for one in answer.get("predictions", []):
        yield Mark(one["labelName"], one["confidence"], _place(one))


def _place(one: Answer) -> Place:
    if "center" in one:
        x, y = one["center"]["x"], one["center"]["y"]
        return Place(one["labelName"], x, y, x, y)
    box = one["boundingBox"]
    x, y = box["x"], box["y"]
    return Place(one["labelName"], x, y, x + box["width"], y + box["height"])
