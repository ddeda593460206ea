"""Image addresses and image bytes from outside: fetched carefully, decoded upright, or a reason."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.server
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import httpcore
import numpy as np
import pytest
from PIL import Image

from backend.errors import ImageError
from backend.label_studio.image_fetcher import TaskImageFetcher
from backend.vision.images.decode import decode_upright_image
from backend.vision.images.decode_memory import MemoryBudget
from backend.vision.images.formats import register_heif
from backend.web_fetcher import FetchLimits, WebFetcher, is_public_address
from tests.support.image_files import (
    MALFORMED_EXIF_FIELDS,
    ROTATED_EXIF_FIELD,
    encode_image,
    make_exif_segment,
    make_jpeg_with_repeated_scans,
    make_jpeg_with_segments,
    make_png_chunk,
)

PIXELS = 10_000_000


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
def images(site: str) -> Iterator[TaskImageFetcher]:
    made = TaskImageFetcher(
        f"{site}/ls", lambda: {"Authorization": "Token mine"}, FetchLimits(2000)
    )
    yield made
    made.close()


def to(url: str) -> str:
    return "/to/" + base64.urlsafe_b64encode(url.encode()).decode()


def test_label_studios_own_addresses_are_fetched_with_the_token(images: TaskImageFetcher) -> None:
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
    limits = FetchLimits(2000, frozenset({"localhost"}))
    images = TaskImageFetcher(site, lambda: {"Authorization": "Token mine"}, limits)
    assert images.fetch(to(f"{elsewhere}/plain.png"), 7) == b"plain"
    assert [auth for _, auth in Site.asked] == ["Token mine", None]
    images.close()


PRIVATE = """
127.0.0.2 localhost 10.0.0.1 169.254.169.254 [::1] [::ffff:127.0.0.1] 0.0.0.0 192.168.1.1
2130706433 [fe80::1] 100.64.0.1 224.0.0.1
""".split()


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_refused_also_behind_a_redirect(
    images: TaskImageFetcher, host: str
) -> None:
    for address in (f"http://{host}/plain.png", to(f"http://{host}/x.png")):
        with pytest.raises(ImageError) as caught:
            images.fetch(address, 1)
        assert caught.value.reason in ("image address is private", "image host not found")


class Street(httpcore.NetworkBackend):
    """A network where public addresses are houses on this machine; remembers who was called."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.called: list[tuple[str, int]] = []

    def connect_tcp(self, host: str, port: int, *rest: Any, **more: Any) -> Any:
        self.called.append((host, port))
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self.port, *rest, **more)


def test_a_host_that_resolves_to_a_private_address_later_is_refused(site: str) -> None:
    street = Street(int(site.rpartition(":")[2]))
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    web = WebFetcher(FetchLimits(10), lambda host, port: next(answers), street)
    assert web.fetch("http://rebinding.example/plain.png") == b"plain"
    assert street.called == [("93.184.216.34", 80)], "the address that was checked, not the name"
    with pytest.raises(ImageError, match="private"):
        web.fetch("http://rebinding.example:81/plain.png")
    assert len(street.called) == 1
    web.close()


def test_hosts_at_one_address_do_not_share_connections(site: str) -> None:
    street = Street(int(site.rpartition(":")[2]))
    web = WebFetcher(FetchLimits(10), lambda host, port: ["93.184.216.34"], street)
    for host in ("one.example", "other.example"):
        assert web.fetch(f"http://{host}/plain.png") == b"plain"
    assert len(street.called) == 2
    web.close()


def raw(*lines: bytes, pause: float = 0.0) -> Iterator[str]:
    """A server that says the same to everybody, however wrong, with pauses between the lines."""

    class Teller(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            with contextlib.suppress(OSError):
                for line in lines:
                    self.request.sendall(line)
                    time.sleep(pause)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Teller) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()


LOCAL = frozenset({"localhost"})


def test_slow_headers_time_out() -> None:
    drops = (b"HTTP/1.1 200 OK\r\n", *(b"x-%d: y\r\n" % n for n in range(600)))
    for address in raw(*drops, pause=0.05):
        began = time.monotonic()
        with pytest.raises(ImageError, match="timed out"):
            WebFetcher(FetchLimits(1000, LOCAL, timeout_seconds=0.3)).fetch(address)
        assert time.monotonic() - began < 10, "all of them take 30 s"


def test_compressed_responses_are_not_decompressed() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    for address in raw(head, bomb):
        with pytest.raises(ImageError, match="compressed as gzip"):
            WebFetcher(FetchLimits(100_000, LOCAL)).fetch(address)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", "302"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "304"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://[::1/\r\n\r\n", "cannot be fetched"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://a:b/\r\n\r\n", "cannot be fetched"),
        (b"garbage\r\n\r\n", "cannot be fetched"),
        (b"", "cannot be fetched"),
    ],
)
def test_every_response_gives_an_image_or_a_reason(answer: bytes, says: str) -> None:
    for address in raw(answer):
        with pytest.raises(ImageError, match=says):
            WebFetcher(FetchLimits(1000, LOCAL, timeout_seconds=2)).fetch(address)


@pytest.mark.parametrize("host", ["\ud800.com", "a" * 300, "xn--a", "[::1", "a b", "%00"])
def test_every_odd_host_name_gives_a_printable_reason(host: str) -> None:
    with pytest.raises(ImageError) as caught:
        WebFetcher(FetchLimits(1000, timeout_seconds=2), lambda host, port: []).fetch(
            f"https://{host}/x.png"
        )
    str(caught.value).encode()


def test_no_host_is_allowed_for_public_requests() -> None:
    with pytest.raises(ImageError) as caught:
        WebFetcher(FetchLimits(1000, None)).fetch("http://localhost/x.png")
    assert str(caught.value) == "image address is private: localhost"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("file:///etc/passwd", "image URL is not supported"),
        ("ftp://example.com/x.png", "image URL is not supported"),
        ("//example.com/x.png", "image URL is not supported"),
        ("x.png", "image URL is not supported"),
        ("data:image/png;base64", "damaged data URI"),
        ("data:image/png;base64," + "A" * 9000, "image file is too large"),
        ("/gone.png", "image not found"),
    ],
)
def test_a_failed_fetch_has_a_countable_reason(
    images: TaskImageFetcher, address: str, reason: str
) -> None:
    with pytest.raises(ImageError) as caught:
        images.fetch(address, 1)
    assert caught.value.reason == reason


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.web_fetcher.RETRY_DELAYS_SECONDS", (0.01, 0.01))
    statuses = [429, 503, 200, 500, 502, 504]

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.pop(0))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    fetcher = WebFetcher(FetchLimits(1000, frozenset({"127.0.0.1"})))
    url = f"http://127.0.0.1:{server.server_port}/a.png"
    assert fetcher.fetch(url) == b"ok"
    with pytest.raises(ImageError, match=r"busy or fails: http:127.0.0.1/a.png: 504"):
        fetcher.fetch(url)
    fetcher.close()
    server.shutdown()
    server.server_close()
    assert statuses == []


def test_an_address_by_which_label_studio_calls_itself_is_label_studios(site: str) -> None:
    """As with compose.yaml: the tasks of a local-files storage carry LABEL_STUDIO_HOST."""
    images = TaskImageFetcher(
        f"{site}/ls", lambda: {"Authorization": "Token mine"}, FetchLimits(2000, None),
        aliases=["http://labels.internal:8080"],
    )  # fmt: skip
    assert images.fetch("http://labels.internal:8080/data/upload/1/a.png", 1) == b"upload"
    assert Site.asked == [("/ls/data/upload/1/a.png", "Token mine")]
    images.close()


def test_a_body_is_cut_off_at_the_limit(site: str) -> None:
    images = TaskImageFetcher(site, dict, FetchLimits(2000))
    with pytest.raises(ImageError, match="too large"):
        images.fetch("/big", 1)
    images.close()


def test_endless_redirects_end(site: str) -> None:
    images = TaskImageFetcher(site, dict, FetchLimits(2000))
    loop = to("")
    with pytest.raises(ImageError, match="redirects too often"):
        images.fetch(loop, 1)
    images.close()


def test_data_uris_are_decoded_or_refused(images: TaskImageFetcher) -> None:
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
    picture = decode_upright_image(
        encode_image(image, "JPEG", exif=exif, quality=95), max_pixels=PIXELS
    )
    turned = orientation >= 5
    assert (
        picture.image.size == (picture.width, picture.height) == ((20, 40) if turned else (40, 20))
    )
    x = 2 if CORNER[orientation][1] == "l" else picture.width - 3
    y = 2 if CORNER[orientation][0] == "t" else picture.height - 3
    red, green, _ = picture.image.getpixel((x, y))  # type: ignore[misc]
    assert red > 200
    assert green < 100


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_photos_of_other_formats_come_out_upright(kind: str, orientation: int) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste((255, 0, 0), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode_upright_image(encode_image(image, kind, exif=exif), max_pixels=PIXELS)
    assert picture.image.size == ((20, 40) if orientation >= 5 else (40, 20))
    x = 2 if CORNER[orientation][1] == "l" else picture.width - 3
    y = 2 if CORNER[orientation][0] == "t" else picture.height - 3
    red, green, _ = picture.image.getpixel((x, y))  # type: ignore[misc]
    assert (red > 200, green < 100) == (True, True)


def test_a_heic_photo_is_read_within_the_limits() -> None:
    register_heif()
    content = encode_image(Image.new("RGB", (64, 48), (200, 30, 30)), "HEIF")
    picture = decode_upright_image(content, max_pixels=PIXELS)
    assert (picture.width, picture.height, picture.image.mode) == (64, 48, "RGB")
    assert picture.image.getpixel((30, 20))[0] > 150  # type: ignore[index]
    for kind in ("HEIF", "AVIF", "TIFF"):
        large = encode_image(Image.new("RGB", (128, 128)), kind)
        with pytest.raises(ImageError) as caught:
            decode_upright_image(large, max_pixels=128 * 127)
        assert caught.value.reason == "too many pixels"


@pytest.mark.parametrize("progressive", [False, True])
def test_the_rows_of_a_jpeg_that_is_cut_off_are_read(progressive: bool) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    content = encode_image(Image.fromarray(pixels), "JPEG", progressive=progressive, quality=90)
    whole = decode_upright_image(content, max_pixels=PIXELS)
    cut = decode_upright_image(content[: len(content) * 3 // 4], max_pixels=PIXELS)
    assert cut.image.size == (300, 200)
    top = [np.asarray(one.image, dtype=int)[:16] for one in (whole, cut)]
    assert np.abs(top[0] - top[1]).mean() < (60 if progressive else 1)
    decoded_again = decode_upright_image(cut.jpeg_bytes, max_pixels=PIXELS)
    assert np.array_equal(np.asarray(decoded_again.image), np.asarray(cut.image))


def test_a_jpeg_that_is_cut_off_before_its_first_row_is_damaged() -> None:
    content = encode_image(Image.new("RGB", (64, 64), "red"), "JPEG")
    start = content.index(b"\xff\xda")
    for length in (40, start, start + 14):
        with pytest.raises(ImageError, match=r"damaged image|not an image"):
            decode_upright_image(content[:length], max_pixels=PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 40_000, dtype=np.uint16))
    else:
        image = Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode)
    picture = decode_upright_image(encode_image(image, kind), max_pixels=PIXELS)
    assert (picture.image.mode, picture.image.size) == ("RGB", (6, 4))
    if mode == "I;16":
        assert picture.image.getpixel((0, 0)) == (156, 156, 156)  # 40,000 of 65,535


def test_transparency_becomes_white() -> None:
    picture = decode_upright_image(
        encode_image(Image.new("RGBA", (3, 3), (0, 0, 0, 0))), max_pixels=PIXELS
    )
    assert picture.image.getpixel((1, 1)) == (255, 255, 255)


def test_a_large_jpeg_is_reduced_while_decoding_and_keeps_its_true_size() -> None:
    content = encode_image(Image.new("RGB", (4000, 3000), "green"), "JPEG")
    picture = decode_upright_image(content, max_pixels=20_000_000, min_side=512)
    assert (picture.width, picture.height) == (4000, 3000)
    assert 512 <= min(picture.image.size) < 1200


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"not an image at all", "not an image"),
        (b"<html><svg xmlns='http://www.w3.org/2000/svg'/></html>", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing"),
        (
            b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<!DOCTYPE svg PUBLIC 'x' 'y'>\n<svg >",
            "SVG drawing",
        ),
        (encode_image(Image.new("RGB", (64, 64), "red"))[:90], "damaged image"),
        (encode_image(Image.new("L", (4000, 3000))), "too many pixels"),
    ],
)
def test_a_failed_decoding_has_a_countable_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_upright_image(content, max_pixels=PIXELS)
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
        ("64:ff9b:1::7f00:1", False),  # a translator of one's own
        ("::ffff:0:127.0.0.1", False),  # as translators write it
        ("fec0::1", False),  # a site's own, of old
        ("4000::1", False),  # nobody's
        ("2001:0:7f00:1::", False),  # Teredo
        ("2001:db8::1", False),
        ("3fff::1", False),
        ("168.63.129.16", False),  # Azure's machine
        ("192.88.99.1", False),
    ],
)
def test_only_public_addresses_are_public(address: str, expected: bool) -> None:
    assert is_public_address(address) is expected


@pytest.mark.parametrize(
    "field", MALFORMED_EXIF_FIELDS, ids=[hex(field[0]) for field in MALFORMED_EXIF_FIELDS]
)
def test_odd_camera_metadata_do_not_prevent_decoding(
    field: tuple[int, int, int, bytes],
) -> None:
    picture = decode_upright_image(
        make_jpeg_with_segments(make_exif_segment(ROTATED_EXIF_FIELD, field)), max_pixels=PIXELS
    )
    assert picture.image.size == (picture.width, picture.height) == (48, 64), "and it is upright"


@pytest.mark.parametrize(
    ("segment", "size"),
    [
        (make_exif_segment((0x0112, 3, 1, struct.pack(">HH", 6, 0)), order=">"), (48, 64)),
        (make_exif_segment((0x0112, 3, 1, struct.pack("<HH", 9, 0))), (64, 48)),  # undefined
        (make_exif_segment((0x0112, 2, 1, b"6\0\0\0")), (64, 48)),  # a text
        (b"\xff\xe1Exif\0\0", (64, 48)),
        (b"\xff\xe1Exif\0\0II*\0\xff\xff\xff\xff", (64, 48)),
        (b"\xff\xe1Exif\0\0MM\0*\0\0\0\x08\xff\xff", (64, 48)),
        (b"\xff\xe2MPF\0II*\0\x08\0\0\0\xff\xff", (64, 48)),
        (b"\xff\xedPhotoshop 3.0\x008BIM\x03", (64, 48)),
    ],
)  # fmt: skip
def test_unreadable_metadata_are_ignored(segment: bytes, size: tuple[int, int]) -> None:
    assert (
        decode_upright_image(make_jpeg_with_segments(segment), max_pixels=PIXELS).image.size == size
    )


def test_only_exif_rotates_an_image_as_in_browsers() -> None:
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    for kind in ("JPEG", "WEBP"):
        content = encode_image(Image.new("RGB", (64, 48)), kind, xmp=packet)
        assert decode_upright_image(content, max_pixels=PIXELS).image.size == (64, 48), kind


def test_corrupted_bytes_give_an_image_or_a_reason() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    random = np.random.default_rng(5)
    noise = Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    seeds = [encode_image(noise, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")]
    register_heif()
    seeds += [encode_image(noise, kind, exif=exif) for kind in ("AVIF", "TIFF", "HEIF")]
    seeds += [encode_image(noise.convert(mode), "GIF") for mode in ("P", "L")] + [
        encode_image(noise, "BMP")
    ]
    for number in range(1500):
        content = bytearray(seeds[number % len(seeds)])
        for at in random.integers(0, min(len(content), 300), random.integers(1, 5)):
            content[at] = random.integers(0, 256)
        with contextlib.suppress(ImageError):
            decode_upright_image(bytes(content), max_pixels=PIXELS)


SMALL = encode_image(Image.new("RGB", (8, 8)))
RUNS = b"BM" + bytes(24) + struct.pack("<HHI", 1, 8, 1)
TIFF = encode_image(Image.new("RGB", (8, 8)), "TIFF")


def make_tiff(*entries: tuple[int, int, int]) -> bytes:
    """A TIFF of a directory alone; each entry is tag, type and value."""
    rows = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<HH" if kind == 3 else "<I", *values)
        for tag, kind, value in entries
        for values in [(value, 0) if kind == 3 else (value,)]
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + bytes(4)


LABORIOUS = {
    "passes": make_jpeg_with_repeated_scans(64, 101),
    "passes over many pixels": make_jpeg_with_repeated_scans(3000, 300),
    "segments": make_jpeg_with_segments(*[b"\xff\xfe"] * 20_001),
    "chunks": SMALL[:33] + make_png_chunk(b"teSt", b"") * 100_001 + SMALL[33:],
    "blocks": b"GIF89a" + bytes(7) + b"!\xfe" + b"\x01x" * 20_001 + b"\0,",
    "runs": RUNS + bytes(1_000_001),
    "entries": b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) + bytes(12 * 60_000),
    "values": TIFF[:8]
    + struct.pack("<H", 12)
    + struct.pack("<HHII", 700, 7, len(TIFF), 0) * 12
    + TIFF,
    "tiles": make_tiff(
        (256, 3, 4),
        (257, 3, 4),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (277, 3, 1),
        (322, 4, 60_000),
        (323, 4, 60_000),
        (324, 4, 8),
        (325, 4, 99),
    ),
}


@pytest.mark.parametrize("name", list(LABORIOUS))
def test_a_small_file_with_a_high_decoding_cost_is_refused_at_once(name: str) -> None:
    began = time.process_time()
    with pytest.raises(ImageError) as caught:
        decode_upright_image(LABORIOUS[name], max_pixels=PIXELS)
    assert caught.value.reason == "too much work"
    assert time.process_time() - began < 0.5


def test_files_of_common_programs_are_below_the_cost_limits() -> None:
    assert decode_upright_image(
        make_jpeg_with_repeated_scans(64, 20), max_pixels=PIXELS
    ).image.size == (64, 64)
    thumbnail = make_jpeg_with_repeated_scans(64, 101)  # inside of a segment, where nobody draws it
    assert (
        decode_upright_image(
            make_jpeg_with_segments(b"\xff\xe5" + thumbnail), max_pixels=PIXELS
        ).width
        == 64
    )


def test_large_images_wait_for_memory_and_small_ones_do_not() -> None:
    budget, together, most = MemoryBudget(100, min_counted=10), [0], [0]
    full, go = threading.Event(), threading.Event()

    def work(size: int) -> None:
        with budget.reserve(size):
            together[0] += size
            most[0] = max(most[0], together[0])
            full.set()
            go.wait(5)
            together[0] -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in (60, 60, 30, 500)]
    for thread in threads:
        thread.start()
    assert full.wait(5)
    with budget.reserve(9):  # does not wait, though all is taken
        go.set()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads), "not even one larger than all"
    assert most[0] <= 500
    assert together[0] == 0


def test_an_image_is_reduced_while_its_memory_is_reserved() -> None:
    from backend.vision.images.decode_memory import DECODING_BUDGET

    held: list[int] = []

    def shrink(image: Image.Image) -> Image.Image:
        held.append(DECODING_BUDGET._used)
        return image.resize((8, 8))

    picture = decode_upright_image(
        encode_image(Image.new("L", (3000, 2500))), max_pixels=PIXELS, shrink=shrink
    )
    assert (picture.image.size, picture.width, picture.height) == ((8, 8), 3000, 2500)
    assert held == [3000 * 2500 * 8]
    assert DECODING_BUDGET._used == 0
