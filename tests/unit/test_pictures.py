"""The images of a project as detectors look at them: upright, reduced, kept, whatever comes in."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.domain import ImageSize
from backend.inference.images import ImageSource, ProjectImages
from backend.label_studio.image_fetcher import TaskImageFetcher
from backend.store.image_copies import MAX_EDGE_PIXELS, ImageCopies
from backend.vision.encoders.embedding_cache import EmbeddingCache
from backend.web_fetcher import FetchLimits

MEGA = 1_000_000


def address(image: Image.Image, kind: str = "PNG", **more: object) -> str:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def pictures(tmp_path: Path) -> ProjectImages:
    limits = FetchLimits(max_bytes=64 * MEGA, allowed_hosts=frozenset())
    images = TaskImageFetcher("http://127.0.0.1:1", dict, limits)
    cache = EmbeddingCache(tmp_path / "facts.sqlite")
    return ProjectImages("server", images, cache, ImageCopies(tmp_path / "files"), 100 * MEGA)


def only(pictures: ProjectImages, source: str) -> tuple[Image.Image, ImageSize]:
    (batch,) = pictures.iter_batches([ImageSource(source, 1)])
    assert not batch.errors
    return batch.images[source], batch.sizes[source]


QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
"""Red, green; blue, white."""
TURNS = {
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}
"""What a camera does to the upright image, by the EXIF orientation that says so."""


@pytest.mark.parametrize("orientation", list(TURNS))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_orientation_comes_out_upright(
    pictures: ProjectImages, orientation: int, kind: str
) -> None:
    upright = Image.fromarray(QUARTERS.repeat(40, 0).repeat(60, 1))
    stored = upright
    for turn in TURNS[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, size = only(pictures, address(stored, kind, exif=exif))
    assert size == ImageSize(120, 80)
    corners = [image.getpixel(at) for at in ((5, 5), (115, 5), (5, 75), (115, 75))]
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    assert np.abs(np.array(corners, dtype=int) - np.array(expected)).max() < 40


@pytest.mark.parametrize(
    ("size", "copied"),
    [
        ((1, 1), (1, 1)),
        ((3, 2000), (2, 1280)),
        ((2000, 3), (1280, 2)),
        ((640, 480), (640, 480)),
        ((8660, 5774), (1280, 854)),  # 50 megapixels, decoded at a quarter of that
    ],
)
def test_images_of_any_size_are_kept_reduced_and_their_own_size_is_known(
    pictures: ProjectImages, size: tuple[int, int], copied: tuple[int, int]
) -> None:
    source = address(Image.new("RGB", size, (90, 140, 60)), "JPEG", quality=30)
    image, known = only(pictures, source)
    assert (known.width, known.height) == size
    assert image.size == copied
    assert max(image.size) <= MAX_EDGE_PIXELS
    again, same = only(pictures, source)
    assert (again.tobytes(), same) == (image.tobytes(), known), "the copy gives the same"


def test_a_bad_image_costs_one_of_many_and_is_named(pictures: ProjectImages) -> None:
    good = address(Image.new("RGB", (40, 30)))
    bad = "data:image/png;base64," + base64.b64encode(b"no image").decode()
    (batch,) = pictures.iter_batches([ImageSource(good, 1), ImageSource(bad, 2)])
    assert (set(batch.images), set(batch.errors)) == ({good}, {bad})
    assert pictures.errors[bad].reason == "not an image"


def test_a_damaged_copy_is_made_anew(tmp_path: Path, pictures: ProjectImages) -> None:
    source = address(Image.new("RGB", (600, 500), "teal"))
    first, _ = only(pictures, source)
    (file,) = [f for f in (tmp_path / "files").glob("*/*") if f.is_file()]
    file.write_bytes(file.read_bytes()[:200])
    again, _ = only(pictures, source)
    assert again.tobytes() == first.tobytes()


def test_the_copies_used_longest_ago_go_first(tmp_path: Path) -> None:
    import os

    files = ImageCopies(tmp_path, max_bytes=30_000)
    noise = np.random.default_rng(0)
    for number in range(4):
        pixels = noise.integers(0, 256, (80, 60, 3), dtype=np.uint8)
        files.put(f"{number}{number}aa", Image.fromarray(pixels))
        os.utime(tmp_path / f"{number}{number}" / f"{number}{number}aa", (number, number))
    files.get("00aa")  # used just now
    assert files.trim() == 2
    assert [files.has(f"{n}{n}aa") for n in range(4)] == [True, False, False, True]


def test_what_is_asked_for_next_is_fetched_meanwhile_and_only_once(
    pictures: ProjectImages, tmp_path: Path
) -> None:
    first, second = (address(Image.new("RGB", (64, 48), colour)) for colour in ("teal", "navy"))
    bad = "data:image/png;base64," + base64.b64encode(b"no image").decode()
    looking = pictures.iter_batches(
        [ImageSource(first, 1)], next_sources=[ImageSource(second, 2), ImageSource(bad, 3)]
    )
    next(looking)  # while this one is looked at …
    folder = tmp_path / "files"
    until = time.monotonic() + 20
    while len([f for f in folder.glob("*/*") if f.is_file()]) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    (batch,) = pictures.iter_batches([ImageSource(second, 2), ImageSource(bad, 3)])
    assert batch.images[second].getpixel((5, 5)) == (0, 0, 128)
    assert batch.sizes[second] == ImageSize(64, 48)
    assert set(batch.errors) == {bad}
    shutil.rmtree(folder)
    (again,) = pictures.iter_batches([ImageSource(second, 2)])
    assert again.images[second].size == (64, 48), "nothing of what was fetched ahead is left over"


def test_a_small_jpeg_is_kept_as_it_came_but_for_what_is_told_of_it(
    pictures: ProjectImages, tmp_path: Path
) -> None:
    """To write it anew takes longer than to look at it, and makes it worse."""
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    for kind in (Image.fromarray(noise), Image.fromarray(noise).convert("L")):
        source = address(kind, "JPEG", quality=80, exif=exif)
        original = base64.b64decode(source.partition(",")[2])
        first, _ = only(pictures, source)
        file = tmp_path / "files" / (name := hashlib.sha256(original).hexdigest())[:2] / name
        assert b"a secret" in original
        assert b"a secret" not in file.read_bytes()
        assert len(file.read_bytes()) < len(original)
        again, _ = only(pictures, source)
        want = np.asarray(Image.open(io.BytesIO(original)).convert("RGB"))
        assert (np.asarray(first) == want).all()
        assert (np.asarray(again) == want).all()
