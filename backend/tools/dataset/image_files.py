"""Fetch the images of an export: their upright sizes, and the files as training tools read them."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from backend.callbacks import ProgressCallback
from backend.domain import ImageSize
from backend.errors import ImageError, NotFoundError
from backend.inference.images import FETCH_THREADS
from backend.label_studio.json_values import read_field
from backend.runtime.project_session import ProjectSession
from backend.store.files import write_bytes
from backend.tools.dataset.file_names import split_suffix
from backend.tools.dataset.labels import LabeledImage
from backend.vision.images.decode import DecodedImage, decode_upright_image
from backend.vision.images.display import make_displayable, needs_conversion

SUFFIX_BY_FORMAT = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".png", "BMP": ".bmp"}
"""By Pillow's name of the format. A GIF is written as PNG, because ultralytics reads no GIF; other
formats are converted to JPEG."""
MIN_SIDE_PIXELS = 64
"""A JPEG is reduced to this size to check that it can be read, which is fast."""
JPEG_QUALITY = 95
FilePlaces = Callable[[LabeledImage], Sequence[Path]]
"""Returns where the file of an image is written, relative to the folder of the export."""


@dataclass
class FetchedDataset:
    """The images that could be read.

    Attributes:
        images: images with their sizes, and with the suffix that their file has.
        errors: task id → why an image of it cannot be read.
        reasons: number of unreadable images, by reason.
    """

    images: list[LabeledImage] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)


class ExportImages:
    """Fetches the images of one project for an export, several at a time.

    Args:
        session: session of the project.
        folder: folder of the export.
    """

    def __init__(self, session: ProjectSession, folder: Path) -> None:
        self._connection = session.connection
        self._max_pixels = session.settings.max_image_pixels
        self._folder = folder
        self._encoding = threading.Lock()  # one at a time: 100 megapixels take 300 MB

    def fetch(
        self,
        images: Sequence[LabeledImage],
        file_places: FilePlaces | None,
        progress: ProgressCallback,
    ) -> FetchedDataset:
        """Fetch images and write their files.

        Args:
            images: images to be fetched.
            file_places: where their files are written; None to determine only unknown sizes.
            progress: receives the number of finished and of all images.
        """
        fetched = FetchedDataset()
        with ThreadPoolExecutor(FETCH_THREADS, "export") as pool:
            results = pool.map(lambda image: self._fetch_one(image, file_places), images)
            for done, (image, result) in enumerate(zip(images, results, strict=True), 1):
                if isinstance(result, ImageError):
                    fetched.errors[image.task.id] = str(result)
                    fetched.reasons[f"image that cannot be read ({result.reason})"] += 1
                else:
                    fetched.images.append(result)
                progress(done, len(images))
        return fetched

    def _fetch_one(
        self, image: LabeledImage, file_places: FilePlaces | None
    ) -> LabeledImage | ImageError:
        if file_places is None and image.size:
            return image
        try:
            content = self._connection.images.fetch(self._address(image), image.task.id)
            decoded = decode_upright_image(
                content, max_pixels=self._max_pixels, min_side=MIN_SIDE_PIXELS
            )
            image = replace(image, size=ImageSize(decoded.width, decoded.height))
            if file_places is None:
                return image
            image, content = self._make_file(image, content, decoded)
        except ImageError as error:
            return error
        for place in file_places(image):
            write_bytes(self._folder / place, content, durable=False)
        return image

    def _address(self, image: LabeledImage) -> str:
        """Return the address of an image; that of an inline image is read again."""
        address = image.task.images[image.image_key]
        if address:
            return address
        try:
            data = self._connection.client.task_data(self._connection.project_number, image.task.id)
        except NotFoundError as error:
            raise ImageError("the task was deleted") from error
        return str(read_field(data, image.image_key) or "")

    def _make_file(
        self, image: LabeledImage, content: bytes, decoded: DecodedImage
    ) -> tuple[LabeledImage, bytes]:
        """Return the image with the suffix of its file, and the content of the file."""
        stem, suffix = split_suffix(image.file_name)
        with self._encoding:
            content, suffix = training_file(content, decoded, suffix, self._max_pixels)
        return replace(image, file_name=stem + suffix), content


def training_file(
    content: bytes, decoded: DecodedImage, suffix: str, max_pixels: int
) -> tuple[bytes, str]:
    """Return the file that training tools read of an image, with its suffix.

    It has the original bytes, unless the tools would read other pixels than annotators saw (many
    ignore the EXIF orientation) or none at all, as of GIF and HEIC.

    Args:
        content: original file.
        decoded: the file, decoded at any size.
        suffix: suffix of its name; may be empty.
        max_pixels: maximum number of pixels.
    """
    if needs_conversion(content):
        return make_displayable(content, max_pixels)
    is_gif = decoded.file_format == "GIF"
    if decoded.is_turned or is_gif:
        content = _encode_upright(content, max_pixels)
    return content, SUFFIX_BY_FORMAT[decoded.file_format] if is_gif or not suffix else suffix


def _encode_upright(content: bytes, max_pixels: int) -> bytes:
    decoded = decode_upright_image(content, max_pixels=max_pixels)
    buffer = io.BytesIO()
    if decoded.file_format in ("JPEG", "WEBP"):
        decoded.image.save(buffer, decoded.file_format, quality=JPEG_QUALITY)
    else:
        decoded.image.save(buffer, "PNG")
    return buffer.getvalue()
