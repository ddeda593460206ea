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
from backend.endpoint.access import AccessControl
from backend.endpoint.corrections import Correction
from backend.endpoint.functions import FunctionRegistry, LoadedVersion
from backend.endpoint.invoker import InvocationRequest, Invoker
from backend.endpoint.metrics import EndpointMetrics
from backend.endpoint.middleware import RequestMiddleware
from backend.endpoint.post_response import PostResponseTasks
from backend.endpoint.problems import MEDIA_TYPE, ProblemError
from backend.endpoint.request_reader import MAX_BATCH_IMAGES, RequestReader
from backend.endpoint.responses import DEFAULT_LABEL_COUNT, ResponseOptions, control_type
from backend.errors import PrelabelError

log = logging.getLogger("prelabel")
DESCRIPTION = """
Ask the live version of a Label Studio project about images. Send a key as
`Authorization: Bearer plk_…` (`prelabel keys create NAME` makes one). Images are JPEG, PNG, WebP,
GIF (the first frame) or BMP. Coordinates are 0 to 1 from the top left corner of the upright image.
Errors are problem JSON (RFC 9457).
"""
IMAGE_SCHEMA = {"type": "string", "format": "binary", "description": "an image file"}
IMAGE_TEXT_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "description": "an image as base64 or data URI, or its https address",
    "examples": ["data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4"
                 "2mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="],
}  # fmt: skip
BEARER_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}]


@dataclass(frozen=True)
class EndpointParts:
    """What the endpoint is put together from."""

    functions: FunctionRegistry
    access: AccessControl
    reader: RequestReader
    post_response: PostResponseTasks
    metrics: EndpointMetrics
    invoker: Invoker


FunctionId = Annotated[str, Path(min_length=1, max_length=200, examples=["3"])]
ExternalId = Annotated[str, Path(min_length=1, max_length=200, examples=["bed-7"])]
LabelCount = Annotated[int, Query(ge=1, le=1000, description="labels in labelConfidences")]
Threshold = Annotated[
    float | None, Query(ge=0, le=1, description="confidence from which an answer is given")
]
VersionName = Annotated[str, Query(max_length=100, description="by name; the live one when empty")]
ExternalName = Annotated[str, Query(max_length=200, description="your name for the picture")]
CaptureFlag = Annotated[bool, Query(description="the picture may be kept, to be labeled")]
ControlName = Annotated[str, Query(max_length=200, description="one control, where it has several")]


async def _invocation_request(  # not a plain function: those wait for a thread
    request: Request,
    function: FunctionId,
    labelCount: LabelCount = DEFAULT_LABEL_COUNT,
    threshold: Threshold = None,
    version: VersionName = "",
    externalId: ExternalName = "",
    capture: CaptureFlag = True,
    control: ControlName = "",
) -> InvocationRequest:
    """What the parameters of a request ask for."""
    options = ResponseOptions(labelCount, threshold, control)
    return InvocationRequest(
        _request_id(request),
        function,
        version,
        _strip_control_characters(externalId),
        capture,
        options,
    )


def _strip_control_characters(name: str) -> str:
    """A name without control characters, which no database likes."""
    return "".join(character for character in name if unicodedata.category(character) != "Cc")


InvocationParameters = Annotated[InvocationRequest, Depends(_invocation_request)]


def create_endpoint_app(parts: EndpointParts) -> FastAPI:
    """The application.

    Args:
        parts: started and stopped with it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await parts.functions.start()
        parts.post_response.start()
        yield
        parts.reader.stop()
        parts.invoker.stop()
        await parts.post_response.stop()
        await parts.functions.stop()

    app = FastAPI(
        title="Prelabel",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.parts = parts
    known_ids = {loaded.record.id for loaded in parts.functions.live_versions()}

    def is_known(function: str) -> bool:
        if function not in known_ids:
            known_ids.update(loaded.record.id for loaded in parts.functions.live_versions())
        return function in known_ids

    app.add_middleware(
        RequestMiddleware, metrics=parts.metrics, is_known=is_known, handle_error=_handle_failure
    )
    app.exception_handler(ProblemError)(_handle_problem)
    app.exception_handler(HTTPException)(_handle_http_error)
    app.exception_handler(RequestValidationError)(_handle_validation_error)
    app.exception_handler(PrelabelError)(_handle_failure)
    _add_operator_routes(app, parts)
    _add_function_routes(app, parts)
    _add_invocation_routes(app, parts)
    _add_security_scheme(app)
    return app


def _add_security_scheme(app: FastAPI) -> None:
    """How keys are sent, in the OpenAPI document."""
    openapi_document = app.openapi()  # made once, kept by the application
    schemes = openapi_document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer", "description": "a key: plk_…"}


def _add_operator_routes(app: FastAPI, parts: EndpointParts) -> None:
    """What operators ask."""

    @app.get("/", include_in_schema=False)
    async def root() -> dict[str, str]:
        """What this is, and where its source is (AGPL-3.0-or-later)."""
        return {"name": "Prelabel", "functions": "/v1/functions", "source": "/source"}

    @app.get("/source", include_in_schema=False)
    async def source() -> Response:
        """The source of what is running here, as its licence promises."""
        from backend.server.source_archive import zip_source

        download_headers = {"content-disposition": 'attachment; filename="prelabel-source.zip"'}
        archive = await asyncio.to_thread(zip_source)
        return Response(archive, media_type="application/zip", headers=download_headers)

    @app.get("/health", response_model=dict[str, Any])
    async def health() -> dict[str, Any]:
        """Alive; answered from memory."""
        return {"status": "UP", "functions": len(parts.functions.live_versions())}

    @app.get(
        "/metrics",
        responses={200: {"content": {"text/plain": {}}}, **_problem_responses(401, 403)},
        response_class=Response,
        openapi_extra={"security": BEARER_SECURITY},
    )
    async def metrics(request: Request) -> Response:
        """Counters of all functions, as Prometheus reads them."""
        parts.access.authorize_all(request)
        for loaded in parts.functions.live_versions():
            await parts.post_response.drift_figures(loaded)
        return Response(
            parts.metrics.render_text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


def _add_function_routes(app: FastAPI, parts: EndpointParts) -> None:
    """What can be invoked."""

    @app.get(
        "/v1/functions",
        response_model=list[schemas.FunctionSummary],
        responses=_problem_responses(401),
        openapi_extra={"security": BEARER_SECURITY},
    )
    async def functions(request: Request) -> Response:
        """The functions that the key may invoke."""
        key = parts.access.authenticate(request)
        allowed_functions = [
            loaded_version
            for loaded_version in parts.functions.live_versions()
            if key.may_invoke(loaded_version.record.id)
        ]
        return JSONResponse([_function_json(loaded) for loaded in allowed_functions])

    @app.get(
        "/v1/functions/{function}",
        response_model=schemas.FunctionDetails,
        responses=_problem_responses(401, 403, 404, 422, 503),
        openapi_extra={"security": BEARER_SECURITY},
    )
    async def card(request: Request, function: FunctionId) -> Response:
        """One function: its versions, what it learned from, how it is doing."""
        parts.access.authorize(request, function)
        loaded = parts.functions.live_version(function)
        versions = await asyncio.to_thread(parts.functions.version_names, loaded)
        examples = {
            name: control_card.examples for name, control_card in loaded.card.controls.items()
        }
        drift = await parts.post_response.drift_figures(loaded)
        details = {"versions": versions, "examples": examples, "drift": drift}
        return JSONResponse({**_function_json(loaded), **details})


def _add_invocation_routes(app: FastAPI, parts: EndpointParts) -> None:
    """What applications ask."""

    @app.post(
        "/v1/functions/{function}/invoke",
        response_model=schemas.InvocationResponse,
        response_model_exclude_none=True,
        responses=_problem_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        openapi_extra={
            "requestBody": _request_body_schema(several=False),
            "security": BEARER_SECURITY,
        },
    )
    async def invoke(request: Request, invocation_request: InvocationParameters) -> Response:
        """Ask about one image: a file in a form, the bytes themselves, base64, or an address."""
        parts.access.authorize(request, invocation_request.function)
        parts.functions.live_version(invocation_request.function)
        parts.access.admit(request, invocation_request.function)
        content = await parts.reader.read_image(request)
        return JSONResponse(
            await parts.invoker.invoke(invocation_request, content, request.state.began)
        )

    @app.post(
        "/v1/functions/{function}/invoke-batch",
        response_model=schemas.BatchResponse,
        response_model_exclude_none=True,
        responses=_problem_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        openapi_extra={
            "requestBody": _request_body_schema(several=True),
            "security": BEARER_SECURITY,
        },
    )
    async def invoke_batch(request: Request, invocation_request: InvocationParameters) -> Response:
        """Ask about up to 64 images; one that cannot be read costs no other."""
        parts.access.authorize(request, invocation_request.function)
        parts.functions.live_version(invocation_request.function)
        parts.access.check_admission(request, invocation_request.function)
        sources = await parts.reader.read_sources(request)
        parts.access.admit(request, invocation_request.function, len(sources))
        contents = await parts.reader.load_images(sources)
        return JSONResponse(
            await parts.invoker.invoke_batch(invocation_request, contents, request.state.began)
        )

    @app.put(
        "/v1/functions/{function}/samples/{externalId:path}/annotation",
        response_model=schemas.CorrectionResponse,
        status_code=202,
        responses=_problem_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _inline_schema(Correction)}},
            },
            "security": BEARER_SECURITY,
        },
    )
    async def correct(request: Request, function: FunctionId, externalId: ExternalId) -> Response:
        """Tell the right answer to a picture; it becomes an annotation in Label Studio."""
        parts.access.authorize(request, function)
        parts.functions.live_version(function)
        parts.access.admit(request, function)
        payload = await parts.reader.read_json(request)
        try:
            correction = Correction.model_validate(payload)
        except ValidationError as error:
            raise ProblemError(422, "no-answer", _validation_message(error.errors()[0])) from error
        data = correction.data
        content = None if data is None else await parts.reader.load_text(data)
        invocation_request = InvocationRequest(
            _request_id(request),
            function,
            "",
            _strip_control_characters(externalId),
            True,
            ResponseOptions(),
        )
        await parts.invoker.correct(invocation_request, correction, content)
        acknowledgement = {
            "function": function,
            "externalId": externalId,
            "requestId": _request_id(request),
        }
        return JSONResponse(acknowledgement, 202)


def _function_json(loaded: LoadedVersion) -> dict[str, Any]:
    controls = [
        {
            "name": answered_control.name,
            "type": control_type(answered_control),
            "labels": list(answered_control.label_names),
        }
        for answered_control in loaded.controls
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


def _request_body_schema(*, several: bool) -> dict[str, Any]:
    """The ways to send images, for the OpenAPI document."""
    data = (
        {"type": "array", "items": IMAGE_TEXT_SCHEMA, "minItems": 1, "maxItems": MAX_BATCH_IMAGES}
        if several
        else IMAGE_TEXT_SCHEMA
    )
    files = {"type": "array", "items": IMAGE_SCHEMA, "minItems": 1, "maxItems": MAX_BATCH_IMAGES}
    form = {
        "type": "object",
        "properties": {"data": files if several else IMAGE_SCHEMA},
        "required": ["data"],
    }
    json = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": json},
    }
    if not several:
        content["image/*"] = {"schema": IMAGE_SCHEMA}
        content["application/octet-stream"] = {"schema": IMAGE_SCHEMA}
    return {"required": True, "content": content}


def _inline_schema(model: type[Correction]) -> dict[str, Any]:
    """A schema without references, which stand elsewhere in an OpenAPI document."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolve(definitions[part["$ref"].rpartition("/")[2]])
            return {key: resolve(value) for key, value in part.items()}
        return [resolve(value) for value in part] if isinstance(part, list) else part

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def _problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"model": schemas.Problem, "content": content} for status in statuses}


def _request_id(request: Request) -> str:
    return str(request.state.request)


def _validation_message(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in ("query", "path", "body"))
    return f"{where or 'The body'}: {error['msg']}."


async def _handle_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)  # noqa: S101 - it is registered for nothing else
    body = error.to_json(_request_id(request))
    return JSONResponse(body, error.status, headers=error.headers, media_type=MEDIA_TYPE)


async def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for nothing else
    kinds = {404: "no-such-address", 405: "no-such-method"}
    kind = kinds.get(error.status_code, "bad-request")
    problem = ProblemError(
        error.status_code, kind, f"{error.detail}: see /openapi.json.", error.headers
    )
    return await _handle_problem(request, problem)


async def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for nothing else
    return await _handle_problem(
        request, ProblemError(422, "bad-parameter", _validation_message(error.errors()[0]))
    )


async def _handle_failure(request: Request, error: Exception) -> Response:
    """A failure of ours: the caller learns its number, the operator the rest."""
    log.error("request %s failed", _request_id(request), exc_info=error)
    message = f"Something failed here; the operator finds it in the log as {_request_id(request)}."
    return await _handle_problem(request, ProblemError(500, "failure", message))
