"""The parts of the OpenAPI document that FastAPI cannot derive from the routes."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from backend.endpoint.problems import MEDIA_TYPE
from backend.endpoint.request_reader import MAX_BATCH_IMAGES
from backend.endpoint.schemas import HttpJsonObject, Problem

IMAGE_SCHEMA: HttpJsonObject = {
    "type": "string",
    "format": "binary",
    "description": "an image file",
}
IMAGE_TEXT_SCHEMA: HttpJsonObject = {
    "type": "string",
    "minLength": 1,
    "description": "an image as base64 or data URI, or its https URL",
    "examples": ["data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4"
                 "2mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="],
}  # fmt: skip
BEARER_SECURITY: HttpJsonObject = {"security": [{"bearer": []}]}
BODY_ERROR_STATUSES = (400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
"""Error statuses of a route that reads a body."""


def add_security_scheme(app: FastAPI) -> None:
    """Document how API keys are sent."""
    document = app.openapi()  # built once and cached by the application
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer", "description": "an API key: plk_…"}


def problem_response_docs(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Return the documentation of error responses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
    return {status: {"model": Problem, "content": content} for status in statuses}


def image_body(*, several: bool) -> HttpJsonObject:
    """Return the documentation of a route whose body is one image, or several."""

    def one_or_several(schema: HttpJsonObject) -> HttpJsonObject:
        several_schema = {"type": "array", "items": schema, "minItems": 1}
        return {**several_schema, "maxItems": MAX_BATCH_IMAGES} if several else schema

    def form(schema: HttpJsonObject) -> HttpJsonObject:
        properties = {"data": one_or_several(schema)}
        return {"schema": {"type": "object", "properties": properties, "required": ["data"]}}

    content = {
        "multipart/form-data": form(IMAGE_SCHEMA),
        "application/json": form(IMAGE_TEXT_SCHEMA),
    }
    if not several:
        raw_types = ("image/*", "application/octet-stream")
        content |= {media_type: {"schema": IMAGE_SCHEMA} for media_type in raw_types}
    return {"requestBody": {"required": True, "content": content}, **BEARER_SECURITY}


def json_body_docs(model: type[BaseModel]) -> HttpJsonObject:
    """Return the documentation of a route whose JSON body is parsed by hand."""
    schema = model.model_json_schema()
    resolved = _inline(schema, schema.pop("$defs", {}))
    content = {"application/json": {"schema": resolved}}
    return {"requestBody": {"required": True, "content": content}, **BEARER_SECURITY}


def _inline(part: object, definitions: dict[str, object]) -> object:
    """Return a schema with each ``$ref`` replaced by its definition."""
    if isinstance(part, list):
        return [_inline(value, definitions) for value in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inline(definitions[part["$ref"].rpartition("/")[2]], definitions)
    return {key: _inline(value, definitions) for key, value in part.items()}
