"""The endpoint's routes, and nothing else: what applications call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from backend.endpoint import schemas
from backend.endpoint.access import Access
from backend.endpoint.corrections import Correction
from backend.endpoint.functions import Functions, Loaded
from backend.endpoint.invoker import Asked, Invoker
from backend.endpoint.metrics import Metrics
from backend.endpoint.middleware import Watching
from backend.endpoint.post_response import Desk
from backend.endpoint.problems import MEDIA_TYPE, Problem
from backend.endpoint.request_reader import BATCH, Reader
from backend.endpoint.responses import LABELS, Wish, kind_of
from backend.errors import PrelabelError

log = logging.getLogger("prelabel")
DESCRIPTION = """
Ask the live version of a Label Studio project about images. Send a key as
`Authorization: Bearer plk_…` (`prelabel keys create NAME` makes one). Images are JPEG, PNG, WebP,
GIF (the first frame) or BMP. Coordinates are 0 to 1 from the top left corner of the upright image.
Errors are problem JSON (RFC 9457).
"""
IMAGE = {"type": "string", "format": "binary", "description": "an image file"}
TEXT = {
    "type": "string",
    "minLength": 1,
    "description": "an image as base64 or data URI, or its https address",
    "examples": ["data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4"
                 "2mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="],
}  # fmt: skip
BEARER: list[dict[str, list[str]]] = [{"bearer": []}]


@dataclass(frozen=True)
class Parts:
    """What the endpoint is put together from."""

    functions: Functions
    access: Access
    reader: Reader
    desk: Desk
    metrics: Metrics
    invoker: Invoker


FunctionId = Annotated[str, Path(min_length=1, max_length=200, examples=["3"])]
ExternalId = Annotated[str, Path(min_length=1, max_length=200, examples=["bed-7"])]
LabelCount = Annotated[int, Query(ge=1, le=1000, description="labels in labelConfidences")]
Threshold = Annotated[
    float | None, Query(ge=0, le=1, description="confidence from which an answer is given")
]
Version = Annotated[str, Query(max_length=100, description="by name; the live one when empty")]
External = Annotated[str, Query(max_length=200, description="your name for the picture")]
Capture = Annotated[bool, Query(description="the picture may be kept, to be labeled")]
ControlName = Annotated[str, Query(max_length=200, description="one control, where it has several")]


async def _asked(  # not a plain function: those wait for a thread
    request: Request,
    function: FunctionId,
    labelCount: LabelCount = LABELS,
    threshold: Threshold = None,
    version: Version = "",
    externalId: External = "",
    capture: Capture = True,
    control: ControlName = "",
) -> Asked:
    """What the parameters of a request ask for."""
    wish = Wish(labelCount, threshold, control)
    return Asked(_id(request), function, version, _plain(externalId), capture, wish)


def _plain(name: str) -> str:
    """A name without control characters, which no database likes."""
    return "".join(c for c in name if unicodedata.category(c) != "Cc")


Question = Annotated[Asked, Depends(_asked)]


def make_endpoint(parts: Parts) -> FastAPI:
    """The application.

    Args:
        parts: started and stopped with it.
    """

    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        await parts.functions.start()
        parts.desk.start()
        yield
        parts.reader.stop()
        parts.invoker.stop()
        await parts.desk.stop()
        await parts.functions.stop()

    app = FastAPI(
        title="Prelabel",
        version="1",
        description=DESCRIPTION,
        lifespan=running,
        docs_url=None,
        redoc_url=None,
    )
    app.state.parts = parts
    known = {loaded.record.id for loaded in parts.functions.all()}

    def is_known(function: str) -> bool:
        if function not in known:
            known.update(loaded.record.id for loaded in parts.functions.all())
        return function in known

    app.add_middleware(Watching, metrics=parts.metrics, known=is_known, failed=_failed)
    app.exception_handler(Problem)(_problem)
    app.exception_handler(HTTPException)(_http)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(PrelabelError)(_failed)
    _add_about(app, parts)
    _add_functions(app, parts)
    _add_invoking(app, parts)
    _describe_keys(app)
    return app


def _describe_keys(app: FastAPI) -> None:
    """How keys are sent, in the OpenAPI document."""
    described = app.openapi()  # made once, kept by the application
    schemes = described.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer", "description": "a key: plk_…"}


def _add_about(app: FastAPI, parts: Parts) -> None:
    """What operators ask."""

    @app.get("/", include_in_schema=False)
    async def root() -> dict[str, str]:
        """What this is, and where its source is (AGPL-3.0-or-later)."""
        return {"name": "Prelabel", "functions": "/v1/functions", "source": "/source"}

    @app.get("/source", include_in_schema=False)
    async def source() -> Response:
        """The source of what is running here, as its licence promises."""
        from backend.server.source_archive import pack_source

        named = {"content-disposition": 'attachment; filename="prelabel-source.zip"'}
        packed = await asyncio.to_thread(pack_source)
        return Response(packed, media_type="application/zip", headers=named)

    @app.get("/health", response_model=dict[str, Any])
    async def health() -> dict[str, Any]:
        """Alive; answered from memory."""
        return {"status": "UP", "functions": len(parts.functions.all())}

    @app.get(
        "/metrics",
        responses={200: {"content": {"text/plain": {}}}, **_problems(401, 403)},
        response_class=Response,
        openapi_extra={"security": BEARER},
    )
    async def metrics(request: Request) -> Response:
        """Counters of all functions, as Prometheus reads them."""
        parts.access.all_functions(request)
        for loaded in parts.functions.all():
            await parts.desk.drift(loaded)
        return Response(parts.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_functions(app: FastAPI, parts: Parts) -> None:
    """What can be invoked."""

    @app.get(
        "/v1/functions",
        response_model=list[schemas.Function],
        responses=_problems(401),
        openapi_extra={"security": BEARER},
    )
    async def functions(request: Request) -> Response:
        """The functions that the key may invoke."""
        key = parts.access.known(request)
        mine = [one for one in parts.functions.all() if key.may_ask(one.record.id)]
        return JSONResponse([_function(loaded) for loaded in mine])

    @app.get(
        "/v1/functions/{function}",
        response_model=schemas.FunctionCard,
        responses=_problems(401, 403, 404, 422, 503),
        openapi_extra={"security": BEARER},
    )
    async def card(request: Request, function: FunctionId) -> Response:
        """One function: its versions, what it learned from, how it is doing."""
        parts.access.allowed(request, function)
        loaded = parts.functions.live(function)
        versions = await asyncio.to_thread(parts.functions.versions, loaded)
        examples = {name: known.get("examples", {}) for name, known in loaded.card.controls.items()}
        drift = await parts.desk.drift(loaded)
        told = {"versions": versions, "examples": examples, "drift": drift}
        return JSONResponse({**_function(loaded), **told})


def _add_invoking(app: FastAPI, parts: Parts) -> None:
    """What applications ask."""

    @app.post(
        "/v1/functions/{function}/invoke",
        response_model=schemas.Answer,
        response_model_exclude_none=True,
        responses=_problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": _body(several=False), "security": BEARER},
    )
    async def invoke(request: Request, asked: Question) -> Response:
        """Ask about one image: a file in a form, the bytes themselves, base64, or an address."""
        parts.access.allowed(request, asked.function)
        parts.functions.live(asked.function)
        parts.access.admit(request, asked.function)
        content = await parts.reader.one(request)
        return JSONResponse(await parts.invoker.one(asked, content, request.state.began))

    @app.post(
        "/v1/functions/{function}/invoke-batch",
        response_model=schemas.BatchAnswer,
        response_model_exclude_none=True,
        responses=_problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": _body(several=True), "security": BEARER},
    )
    async def invoke_batch(request: Request, asked: Question) -> Response:
        """Ask about up to 64 images; one that cannot be read costs no other."""
        parts.access.allowed(request, asked.function)
        parts.functions.live(asked.function)
        parts.access.welcome(request, asked.function)
        found = await parts.reader.several(request)
        parts.access.admit(request, asked.function, len(found))
        contents = await parts.reader.contents(found)
        return JSONResponse(await parts.invoker.several(asked, contents, request.state.began))

    @app.put(
        "/v1/functions/{function}/samples/{externalId:path}/annotation",
        response_model=schemas.Noted,
        status_code=202,
        responses=_problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _inlined(Correction)}},
            },
            "security": BEARER,
        },
    )
    async def correct(request: Request, function: FunctionId, externalId: ExternalId) -> Response:
        """Tell the right answer to a picture; it becomes an annotation in Label Studio."""
        parts.access.allowed(request, function)
        parts.functions.live(function)
        parts.access.admit(request, function)
        payload = await parts.reader.json(request)
        try:
            correction = Correction.model_validate(payload)
        except ValidationError as error:
            raise Problem(422, "no-answer", _sentence(error.errors()[0])) from error
        data = correction.data
        content = None if data is None else await parts.reader.text(data)
        asked = Asked(_id(request), function, "", _plain(externalId), True, Wish())
        await parts.invoker.correct(asked, correction, content)
        told = {"function": function, "externalId": externalId, "requestId": _id(request)}
        return JSONResponse(told, 202)


def _function(loaded: Loaded) -> dict[str, Any]:
    controls = [
        {"name": c.name, "type": kind_of(c), "labels": list(c.label_names)} for c in loaded.controls
    ]
    return {
        "id": loaded.record.id,
        "name": loaded.record.title or f"Project {loaded.record.number}",
        "type": controls[0]["type"],
        "labels": controls[0]["labels"],
        "controls": controls,
        "version": loaded.card.version,
        "created": loaded.card.created,
        "audit": dict(asdict(loaded.card)["audit"]),
    }


def _body(*, several: bool) -> dict[str, Any]:
    """The ways to send images, for the OpenAPI document."""
    data = {"type": "array", "items": TEXT, "minItems": 1, "maxItems": BATCH} if several else TEXT
    files = {"type": "array", "items": IMAGE, "minItems": 1, "maxItems": BATCH}
    form = {
        "type": "object",
        "properties": {"data": files if several else IMAGE},
        "required": ["data"],
    }
    json = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": json},
    }
    if not several:
        content["image/*"] = {"schema": IMAGE}
        content["application/octet-stream"] = {"schema": IMAGE}
    return {"required": True, "content": content}


def _inlined(model: type[Correction]) -> dict[str, Any]:
    """A schema without references, which stand elsewhere in an OpenAPI document."""
    schema = model.model_json_schema()
    defined = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolve(defined[part["$ref"].rpartition("/")[2]])
            return {key: resolve(value) for key, value in part.items()}
        return [resolve(value) for value in part] if isinstance(part, list) else part

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"model": schemas.Problem, "content": content} for status in statuses}


def _id(request: Request) -> str:
    return str(request.state.request)


def _sentence(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in ("query", "path", "body"))
    return f"{where or 'The body'}: {error['msg']}."


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - it is registered for nothing else
    body = error.json(_id(request))
    return JSONResponse(body, error.status, headers=error.headers, media_type=MEDIA_TYPE)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for nothing else
    kinds = {404: "no-such-address", 405: "no-such-method"}
    kind = kinds.get(error.status_code, "bad-request")
    problem = Problem(error.status_code, kind, f"{error.detail}: see /openapi.json.", error.headers)
    return await _problem(request, problem)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for nothing else
    return await _problem(request, Problem(422, "bad-parameter", _sentence(error.errors()[0])))


async def _failed(request: Request, error: Exception) -> Response:
    """A failure of ours: the caller learns its number, the operator the rest."""
    log.error("request %s failed", _id(request), exc_info=error)
    told = f"Something failed here; the operator finds it in the log as {_id(request)}."
    return await _problem(request, Problem(500, "failure", told))
