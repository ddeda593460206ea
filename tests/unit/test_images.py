"""Image addresses and image bytes from outside: fetched carefully, decoded upright, or a reason."""

from __future__ import annotations

import base64
import http.server
import io
import threading
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from backend.errors import ImageError
from backend.label_studio.images import Images
from backend.vision.decode import decode
from backend.web import Limits, Web, public

PIXELS = 10_000_000


def file_of(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


class Site(http.server.BaseHTTPRequestHandler):
    """A web server with good, bad and treacherous pages; remembers what it was asked."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        path = self.path.partition("?")[0]
        path = path.removeprefix("/ls") if path.startswith("/ls/to/") else path
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", base64.urlsafe_b64decode(path[4:]).decode())
            self.end_headers()
            return
        bodies = {"/ls/data/upload/1/a.png": b"upload", "/plain.png": b"plain", "/big": b"x" * 5000}
        resolved = path == "/ls/tasks/7/resolve/"
        self.send_response(200 if path in bodies or resolved else 404)
        self.end_headers()
        self.wfile.write(b"cloud" if resolved else bodies.get(path, b""))

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[str]:
    Site.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def images(site: str) -> Iterator[Images]:
    made = Images(f"{site}/ls", lambda: {"Authorization": "Token mine"}, Limits(2000))
    yield made
    made.close()


def to(url: str) -> str:
    return "/to/" + base64.urlsafe_b64encode(url.encode()).decode()


def test_label_studios_own_addresses_are_fetched_with_the_token(images: Images) -> None:
    assert images.fetch("/data/upload/1/a.png", 7) == b"upload"
    assert images.fetch("/ls/data/upload/1/a.png", 7) == b"upload"
    assert images.fetch("s3://bucket/key with space.png", 7) == b"cloud"
    encoded = base64.urlsafe_b64encode(b"s3://bucket/key with space.png").decode()
    assert Site.asked[-1] == (
        f"/ls/tasks/7/resolve/?fileuri={encoded.replace('=', '%3D')}",
        "Token mine",
    )
    assert {auth for _, auth in Site.asked} == {"Token mine"}


def test_a_redirect_to_another_host_never_carries_the_token(site: str) -> None:
    elsewhere = site.replace("127.0.0.1", "localhost")
    limits = Limits(2000, frozenset({"localhost"}))
    images = Images(site, lambda: {"Authorization": "Token mine"}, limits)
    assert images.fetch(to(f"{elsewhere}/plain.png"), 7) == b"plain"
    assert [auth for _, auth in Site.asked] == ["Token mine", None]
    images.close()


PRIVATE = """
127.0.0.2 localhost 10.0.0.1 169.254.169.254 [::1] [::ffff:127.0.0.1] 0.0.0.0 192.168.1.1
2130706433 [fe80::1] 100.64.0.1 224.0.0.1
""".split()


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_refused_also_behind_a_redirect(images: Images, host: str) -> None:
    for address in (f"http://{host}/plain.png", to(f"http://{host}/x.png")):
        with pytest.raises(ImageError) as caught:
            images.fetch(address, 1)
        assert caught.value.reason in ("image address is private", "image host is not known")


def test_the_address_that_was_checked_is_the_one_connected_to() -> None:
    """A name that resolves to a public address first and to loopback later gets nowhere near."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    web = Web(Limits(10), lambda host, port: next(answers))
    request = web._request("http://rebinding.example/x.png", lambda parts: None)
    assert request.url.host == "93.184.216.34"
    assert request.headers["host"] == "rebinding.example"
    assert request.extensions["sni_hostname"] == "rebinding.example"
    with pytest.raises(ImageError, match="private"):
        web._request("http://rebinding.example/x.png", lambda parts: None)
    web.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("file:///etc/passwd", "image address is not served"),
        ("ftp://example.com/x.png", "image address is not served"),
        ("//example.com/x.png", "image address is not served"),
        ("x.png", "image address is not served"),
        ("data:image/png;base64", "damaged data URI"),
        ("data:image/png;base64," + "A" * 9000, "image file is too large"),
        ("/gone.png", "image is not there"),
    ],
)
def test_what_cannot_be_fetched_has_a_countable_reason(
    images: Images, address: str, reason: str
) -> None:
    with pytest.raises(ImageError) as caught:
        images.fetch(address, 1)
    assert caught.value.reason == reason


def test_a_body_is_cut_off_at_the_limit(site: str) -> None:
    images = Images(site, dict, Limits(2000))
    with pytest.raises(ImageError, match="too large"):
        images.fetch("/big", 1)
    images.close()


def test_endless_redirects_end(site: str) -> None:
    images = Images(site, dict, Limits(2000))
    loop = to("")
    with pytest.raises(ImageError, match="redirects too often"):
        images.fetch(loop, 1)
    images.close()


def test_data_uris(images: Images) -> None:
    assert images.fetch("data:image/png;base64," + base64.b64encode(b"abc").decode(), 1) == b"abc"
    assert images.fetch("data:,a%20b", 1) == b"a b"


CORNER = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}
"""Where the stored top left corner appears, by EXIF orientation (TIFF 6.0, tag 274)."""


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste((255, 0, 0), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(file_of(image, "JPEG", exif=exif, quality=95), max_pixels=PIXELS)
    turned = orientation >= 5
    assert (
        picture.image.size == (picture.width, picture.height) == ((20, 40) if turned else (40, 20))
    )
    x = 2 if CORNER[orientation][1] == "l" else picture.width - 3
    y = 2 if CORNER[orientation][0] == "t" else picture.height - 3
    red, green, _ = picture.image.getpixel((x, y))  # type: ignore[misc]
    assert red > 200
    assert green < 100


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 40_000, dtype=np.uint16))
    else:
        image = Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode)
    picture = decode(file_of(image, kind), max_pixels=PIXELS)
    assert (picture.image.mode, picture.image.size) == ("RGB", (6, 4))
    if mode == "I;16":
        assert picture.image.getpixel((0, 0)) == (156, 156, 156)  # 40,000 of 65,535


def test_transparency_becomes_white() -> None:
    picture = decode(file_of(Image.new("RGBA", (3, 3), (0, 0, 0, 0))), max_pixels=PIXELS)
    assert picture.image.getpixel((1, 1)) == (255, 255, 255)


def test_a_large_jpeg_is_reduced_while_decoding_and_keeps_its_true_size() -> None:
    content = file_of(Image.new("RGB", (4000, 3000), "green"), "JPEG")
    picture = decode(content, max_pixels=20_000_000, at_least=512)
    assert (picture.width, picture.height) == (4000, 3000)
    assert 512 <= min(picture.image.size) < 1200


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"not an image at all", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (file_of(Image.new("RGB", (64, 64), "red"))[:90], "damaged image"),
        (file_of(Image.new("L", (4000, 3000))), "too many pixels"),
    ],
)
def test_what_cannot_be_decoded_has_a_countable_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(content, max_pixels=PIXELS)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.0.0.7", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),  # noqa: S104 - refused
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),  # an IPv4 address as IPv6 writes it
        ("::127.0.0.1", False),  # the same, an older way
        ("64:ff9b::7f00:1", False),  # 127.0.0.1 behind a translator
        ("2002:7f00:1::", False),  # and through a 6to4 tunnel
        ("64:ff9b::5db8:d822", True),  # 93.184.216.34 behind a translator
    ],
)
def test_public_addresses_are_told_from_all_others(address: str, expected: bool) -> None:
    assert public(address) is expected
