"""A client for the predict endpoint. Copy this file; it needs only the standard library.

client = Client("http://localhost:9091", key="plk_…")
answer = client.invoke("3", "plant.jpg", externalId="bed-7")
print(answer["labelName"], answer["confidence"])
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

Image = bytes | str | Path
"""Bytes of an image, or the path of its file."""
MAX_ATTEMPTS = 4
RETRY_STATUSES = (429, 503)
QUOTA_PROBLEM_TYPE = "urn:prelabel:quota"
MAX_WAIT_SECONDS = 30.0


class EndpointError(Exception):
    """A request failed; ``str(error)`` states the cause and, if there is one, the fix.

    Attributes:
        status: HTTP status; 0 if there was no response.
        problem: the response's problem JSON (RFC 9457).
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail") or f"status {status}")
        self.status = status
        self.problem = problem


@dataclass
class Client:
    """A client for one endpoint; use one per thread.

    Attributes:
        address: URL of the endpoint, such as ``https://….modal.run``.
        key: API key, ``plk_…``; empty if the endpoint does not need one.
        seconds: timeout of a request.
    """

    address: str
    key: str = field(default="", repr=False)
    seconds: float = 60.0
    _connection: HTTPConnection | None = field(default=None, repr=False)

    def invoke(self, function: str, image: Image, **options: Any) -> dict[str, Any]:
        """Predict an image.

        Args:
            function: id of the function.
            image: bytes or a path.
            **options: ``labelCount``, ``threshold``, ``version``, ``externalId``, ``capture``,
                ``control``.

        Raises:
            EndpointError: the request failed.
        """
        path = f"/v1/functions/{quote(function, safe='')}/invoke{_format_query_string(options)}"
        content_headers = {"content-type": "application/octet-stream"}
        answer: dict[str, Any] = self._request("POST", path, _read_image(image), content_headers)
        return answer

    def invoke_batch(
        self, function: str, images: Sequence[Image], **options: Any
    ) -> dict[str, Any]:
        """Predict up to 64 images; ``results`` has a prediction or an ``error`` for each.

        The images may have 64 MB in total, unless the operator has set another limit.

        Raises:
            EndpointError: the request failed.
        """
        path = (
            f"/v1/functions/{quote(function, safe='')}/invoke-batch{_format_query_string(options)}"
        )
        body, content_type = _encode_multipart([_read_image(image) for image in images])
        answer: dict[str, Any] = self._request("POST", path, body, {"content-type": content_type})
        return answer

    def correct(self, function: str, externalId: str, **answer: Any) -> None:
        """Correct the prediction for an image.

        Args:
            function: id of the function.
            externalId: your own id for the image, as in the invocation.
            **answer: ``labelName``, ``labelNames`` or ``predictions``.

        Raises:
            EndpointError: the request failed.
        """
        path = f"/v1/functions/{quote(function, safe='')}/samples/{quote(externalId)}/annotation"
        content_headers = {"content-type": "application/json"}
        self._request("PUT", path, json.dumps(answer).encode(), content_headers)

    def functions(self) -> list[dict[str, Any]]:
        """List the functions that the API key may invoke."""
        listing: list[dict[str, Any]] = self._request("GET", "/v1/functions", b"", {})
        return listing

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        """Return the JSON of a response; retry on status 429 or 503 and broken connections."""
        if self.key:
            headers = {**headers, "authorization": f"Bearer {self.key}"}
        for tries_left in reversed(range(MAX_ATTEMPTS)):
            try:
                response, content = self._send(method, path, body, headers)
            except (OSError, HTTPException) as error:
                self._connection = None
                if not tries_left:
                    message = f"{self.address} cannot be reached: {error}."
                    raise EndpointError(0, {"detail": message}) from error
                continue
            if response.status < 400:
                return json.loads(content)
            problem = _parse_problem(content)
            is_over_quota = problem.get("type") == QUOTA_PROBLEM_TYPE  # no retry helps this month
            if response.status not in RETRY_STATUSES or is_over_quota or not tries_left:
                raise EndpointError(response.status, problem)
            wait = response.headers.get("retry-after", "1")
            time.sleep(min(float(wait) if wait.isdigit() else 1.0, MAX_WAIT_SECONDS))
        raise AssertionError("the last try returned or raised")

    def _send(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[HTTPResponse, bytes]:
        parts = urlsplit(self.address)
        if self._connection is None:
            connection_class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
            self._connection = connection_class(parts.netloc, timeout=self.seconds)
        try:
            self._connection.request(method, parts.path.rstrip("/") + path, body, headers)
        except OSError as error:
            return self._read_early_response(error)
        response = self._connection.getresponse()
        return response, response.read()

    def _read_early_response(self, error: OSError) -> tuple[HTTPResponse, bytes]:
        """Return a response that arrived before the whole request was sent, or raise ``error``.

        The endpoint rejects a request that is too large without reading all of it.
        """
        connection, self._connection = self._connection, None
        if connection is None or connection.sock is None:  # not connected
            raise error
        try:
            response = connection.getresponse()
            return response, response.read()
        except (OSError, HTTPException):
            raise error from None
        finally:
            connection.close()


def _read_image(image: Image) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _encode_multipart(images: Sequence[bytes]) -> tuple[bytes, str]:
    """Return images as the body of a multipart form, and its content type."""
    boundary = uuid4().hex
    part_header = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="data"; filename="image"\r\n\r\n'
    )
    parts = [part for image in images for part in (part_header.encode(), image, b"\r\n")]
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    return body, f"multipart/form-data; boundary={boundary}"


def _format_query_string(options: dict[str, Any]) -> str:
    set_options = {name: value for name, value in options.items() if value is not None}
    encoded = {n: str(v).lower() if isinstance(v, bool) else str(v) for n, v in set_options.items()}
    return f"?{urlencode(encoded)}" if encoded else ""


def _parse_problem(content: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(content)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}
