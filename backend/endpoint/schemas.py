"""The forms of the API, for its OpenAPI document; with examples."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class LabelConfidence(BaseModel):
    """A label and how sure the model is of it."""

    labelName: str
    confidence: float = Field(ge=0, le=1)


class ImagePoint(BaseModel):
    """0 to 1 from the top left corner of the upright image."""

    x: float
    y: float


class BoundingBox(ImagePoint):
    """The upper left corner and the extent, 0 to 1."""

    width: float
    height: float


class DetectedObject(LabelConfidence):
    """An object: its box, or its centre where the function counts points."""

    boundingBox: BoundingBox | None = None
    center: ImagePoint | None = None


class ResponseTimings(BaseModel):
    """Where the time went."""

    read: float
    decode: float
    predict: float
    total: float


class ControlResponse(BaseModel):
    """The answer to one control."""

    labelName: str | None = Field(default=None, description="one of many: the best label")
    confidence: float | None = Field(default=None, description="of it, 0 to 1")
    labels: list[LabelConfidence] | None = Field(default=None, description="several of many")
    labelConfidences: list[LabelConfidence] | None = Field(default=None, description="best first")
    predictions: list[DetectedObject] | None = Field(default=None, description="boxes or points")
    counts: dict[str, int] | None = Field(default=None, description="objects by label")


class ResponseMetadata(BaseModel):
    """What is told with every answer."""

    function: str
    version: str
    requestId: str
    externalId: str | None
    milliseconds: ResponseTimings


class InvocationResponse(ControlResponse, ResponseMetadata):
    """The answer to an image."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "labelName": "wilting",
                    "confidence": 0.9312,
                    "labelConfidences": [
                        {"labelName": "wilting", "confidence": 0.9312},
                        {"labelName": "healthy", "confidence": 0.0688},
                    ],
                    "function": "3",
                    "version": "v4-1f0c77a2",
                    "requestId": "5b7f0c2e9a41d3c8",
                    "externalId": "bed-7/2026-11-23T08:00",
                    "milliseconds": {"read": 0.2, "decode": 3.1, "predict": 14.9, "total": 18.4},
                },
                {
                    "predictions": [
                        {
                            "labelName": "ripe",
                            "confidence": 0.8821,
                            "boundingBox": {"x": 0.41, "y": 0.22, "width": 0.06, "height": 0.08},
                        }
                    ],
                    "counts": {"ripe": 1, "unripe": 0},
                    "function": "5",
                    "version": "v2-77ab01c9",
                    "requestId": "0f3cd1a2b4e5f607",
                    "externalId": None,
                    "milliseconds": {"read": 0.2, "decode": 4.0, "predict": 21.3, "total": 25.7},
                },
            ]
        }
    )

    controls: dict[str, ControlResponse] | None = Field(
        default=None, description="every control's answer, where the function has several"
    )


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["urn:prelabel:unreadable-image"])
    title: str
    status: int
    detail: str = Field(description="one sentence that says what to do")
    requestId: str


class BatchResult(ControlResponse):
    """The answer to one of several images, or why there is none."""

    controls: dict[str, ControlResponse] | None = None
    error: Problem | None = None


class BatchResponse(ResponseMetadata):
    """The answers to several images, in their order."""

    results: list[BatchResult]


class FunctionControl(BaseModel):
    """What a function answers."""

    name: str
    type: str = Field(description="one-of-many, several-of-many, boxes or points")
    labels: list[str]


class FunctionSummary(BaseModel):
    """A function: a project of Label Studio with a live version."""

    id: str
    name: str
    type: str = Field(description="of its first control")
    labels: list[str]
    controls: list[FunctionControl]
    version: str
    created: str
    audit: dict[str, Any] = Field(description="accuracy or F1 on the audit slice, with interval")


class FunctionDetails(FunctionSummary):
    """Everything that is told of a function."""

    versions: list[str] = Field(description="that can be asked for by name, newest first")
    examples: dict[str, Any] = Field(description="labels learned from, by control and label")
    drift: dict[str, Any] = Field(description="of what was asked lately against the audit slice")


class CorrectionResponse(BaseModel):
    """A correction was taken."""

    function: str
    externalId: str
    requestId: str
