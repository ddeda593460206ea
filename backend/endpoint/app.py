"""The endpoint's routes; :class:`Invoker` decodes images, predicts and builds the responses."""

from __future__ import annotations

import asyncio
import contextlib
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from backend.endpoint import schemas
from backend.endpoint.access import AccessControl
from backend.endpoint.functions import FunctionRegistry, LoadedVersion
from backend.endpoint.invoker import InvocationRequest, Invoker
from backend.endpoint.middleware import RequestMiddleware
from backend.endpoint.openapi import (
    BEARER_SECURITY,
    BODY_ERROR_STATUSES,
    add_security_scheme,
    image_body,
    json_body_docs,
    problem_response_docs,
)
from backend.endpoint.post_response import PostResponseTasks
from backend.endpoint.problems import add_error_handlers, handle_error, invalid_value
from backend.endpoint.prometheus_metrics import EndpointMetrics
from backend.endpoint.request_reader import RequestReader
from backend.endpoint.responses import DEFAULT_LABEL_COUNT, ResponseOptions, control_type
from backend.endpoint.root_page import add_root_page
from backend.endpoint.schemas import Correction, HttpJsonObject

DESCRIPTION = """
Predict images with the live version of a Label Studio project. Send an API key as
`Authorization: Bearer plk_…` (create one with `prelabel keys create NAME`). Images are JPEG, PNG,
WebP, GIF (the first frame), BMP, AVIF, TIFF or HEIC. Coordinates are 0 to 1 from the top left
corner of the upright image. Errors are problem JSON (RFC 9457).
"""


@dataclass(frozen=True)
class EndpointParts:
    """The objects behind the endpoint's routes."""

    functions: FunctionRegistry
    access: AccessControl
    reader: RequestReader
    post_response: PostResponseTasks
    metrics: EndpointMetrics
    invoker: Invoker


FunctionId = Annotated[str, Path(min_length=1, max_length=200, examples=["3"])]
ExternalId = Annotated[str, Path(min_length=1, max_length=200, examples=["bed-7"])]
LabelCount = Annotated[int, Query(ge=1, le=1000, description="labels in labelConfidences")]
Threshold = Annotated[float | None, Query(ge=0, le=1, description="minimum confidence")]
VersionName = Annotated[
    str, Query(max_length=100, description="a version; by default the live one")
]
ExternalName = Annotated[str, Query(max_length=200, description="your own id for the image")]
CaptureFlag = Annotated[bool, Query(description="whether the image may be stored for labeling")]
ControlName = Annotated[str, Query(max_length=200, description="a control; by default all")]


async def _invocation_request(  # async, because FastAPI runs other functions in a thread pool
    request: Request,
    function: FunctionId,
    labelCount: LabelCount = DEFAULT_LABEL_COUNT,
    threshold: Threshold = None,
    version: VersionName = "",
    externalId: ExternalName = "",
    capture: CaptureFlag = True,
    control: ControlName = "",
) -> InvocationRequest:
    """Return the parameters of a request."""
    options = ResponseOptions(labelCount, threshold, control)
    external_id = _strip_control_characters(externalId)
    return InvocationRequest(
        request.state.request_id, function, external_id, version, capture, options
    )


def _strip_control_characters(name: str) -> str:
    """Return a name without control characters, which databases reject."""
    return "".join(character for character in name if unicodedata.category(character) != "Cc")


InvocationParameters = Annotated[InvocationRequest, Depends(_invocation_request)]


def create_endpoint_app(parts: EndpointParts) -> FastAPI:
    """Return the application; its lifespan starts and stops the parts."""

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
    known_ids: set[str] = set()

    def is_known(function: str) -> bool:
        if function not in known_ids:
            known_ids.update(loaded.record.id for loaded in parts.functions.live_versions())
        return function in known_ids

    app.add_middleware(
        RequestMiddleware, metrics=parts.metrics, is_known=is_known, handle_error=handle_error
    )
    add_error_handlers(app)
    add_root_page(app, parts.access)
    _add_operator_routes(app, parts)
    _add_function_routes(app, parts)
    _add_invocation_routes(app, parts)
    _add_correction_route(app, parts)
    add_security_scheme(app)
    return app


def _add_operator_routes(app: FastAPI, parts: EndpointParts) -> None:
    @app.get("/source", include_in_schema=False)
    async def source() -> Response:
        """Return the source code of this program, as its license requires."""
        from backend.server.source_archive import zip_source

        download_headers = {"content-disposition": 'attachment; filename="prelabel-source.zip"'}
        archive = await asyncio.to_thread(zip_source)
        return Response(archive, media_type="application/zip", headers=download_headers)

    @app.get("/health", response_model=HttpJsonObject)
    async def health() -> HttpJsonObject:
        """Return the status of the endpoint and its number of functions."""
        return {"status": "UP", "functions": len(parts.functions.live_versions())}

    @app.get(
        "/metrics",
        responses={200: {"content": {"text/plain": {}}}, **problem_response_docs(401, 403)},
        response_class=Response,
        openapi_extra=BEARER_SECURITY,
    )
    async def metrics(request: Request) -> Response:
        """Return the metrics of all functions in Prometheus' text format."""
        parts.access.authorize_all(request)
        for loaded in parts.functions.live_versions():
            await parts.post_response.drift_figures(loaded)
        return Response(
            parts.metrics.render_text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


def _add_function_routes(app: FastAPI, parts: EndpointParts) -> None:
    @app.get(
        "/v1/functions",
        response_model=list[schemas.FunctionSummary],
        responses=problem_response_docs(401),
        openapi_extra=BEARER_SECURITY,
    )
    async def functions(request: Request) -> Response:
        """List the functions that the API key may invoke."""
        key = parts.access.authenticate(request)
        live_versions = parts.functions.live_versions()
        return JSONResponse(
            [_function_json(loaded) for loaded in live_versions if key.may_invoke(loaded.record.id)]
        )

    @app.get(
        "/v1/functions/{function}",
        response_model=schemas.FunctionDetails,
        responses=problem_response_docs(401, 403, 404, 422, 503),
        openapi_extra=BEARER_SECURITY,
    )
    async def function_details(request: Request, function: FunctionId) -> Response:
        """Return a function with its versions, training examples and drift."""
        parts.access.authorize(request, function)
        loaded = parts.functions.live_version(function)
        versions = await asyncio.to_thread(parts.functions.version_names, loaded)
        examples = {
            name: control_card.examples for name, control_card in loaded.card.controls.items()
        }
        drift = asdict(await parts.post_response.drift_figures(loaded))
        details = {"versions": versions, "examples": examples, "drift": drift}
        return JSONResponse({**_function_json(loaded), **details})


def _add_invocation_routes(app: FastAPI, parts: EndpointParts) -> None:
    @app.post(
        "/v1/functions/{function}/invoke",
        response_model=schemas.InvocationResponse,
        response_model_exclude_none=True,
        responses=problem_response_docs(*BODY_ERROR_STATUSES),
        openapi_extra=image_body(several=False),
    )
    async def invoke(request: Request, parameters: InvocationParameters) -> Response:
        """Predict one image: a file in a form, raw bytes, base64, a data URI or an https URL."""
        parts.access.authorize(request, parameters.function)
        parts.functions.live_version(parameters.function)
        parts.access.admit(request, parameters.function)
        content = await parts.reader.read_image(request)
        started_at = request.state.started_at
        return JSONResponse(await parts.invoker.invoke(parameters, content, started_at))

    @app.post(
        "/v1/functions/{function}/invoke-batch",
        response_model=schemas.BatchResponse,
        response_model_exclude_none=True,
        responses=problem_response_docs(*BODY_ERROR_STATUSES),
        openapi_extra=image_body(several=True),
    )
    async def invoke_batch(request: Request, parameters: InvocationParameters) -> Response:
        """Predict up to 64 images; an unreadable image gets an error and does not affect others."""
        parts.access.authorize(request, parameters.function)
        parts.functions.live_version(parameters.function)
        parts.access.check_admission(request, parameters.function)
        sources = await parts.reader.read_sources(request)
        parts.access.admit(request, parameters.function, len(sources))
        contents = await parts.reader.load_images(sources)
        started_at = request.state.started_at
        return JSONResponse(await parts.invoker.invoke_batch(parameters, contents, started_at))


def _add_correction_route(app: FastAPI, parts: EndpointParts) -> None:
    @app.put(
        "/v1/functions/{function}/samples/{externalId:path}/annotation",
        response_model=schemas.CorrectionResponse,
        status_code=202,
        responses=problem_response_docs(*BODY_ERROR_STATUSES),
        openapi_extra=json_body_docs(Correction),
    )
    async def correct(request: Request, function: FunctionId, externalId: ExternalId) -> Response:
        """Correct the prediction for an image; the correction becomes an annotation."""
        parts.access.authorize(request, function)
        parts.functions.live_version(function)
        parts.access.admit(request, function)
        payload = await parts.reader.read_json(request)
        try:
            correction = Correction.model_validate(payload)
        except ValidationError as error:
            raise invalid_value(error.errors()[0], "no-answer") from error
        data = correction.data
        content = None if data is None else await parts.reader.load_text(data)
        request_id, external_id = request.state.request_id, _strip_control_characters(externalId)
        parameters = InvocationRequest(request_id, function, external_id)
        await parts.invoker.correct(parameters, correction, content)
        response = schemas.CorrectionResponse(
            function=function, externalId=externalId, requestId=request_id
        )
        return JSONResponse(response.model_dump(), 202)


def _function_json(loaded: LoadedVersion) -> HttpJsonObject:
    controls = [
        {"name": control.name, "type": control_type(control), "labels": list(control.label_names)}
        for control in loaded.controls
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
