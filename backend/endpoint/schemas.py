"""Pydantic models of the API: responses (for the OpenAPI document) and corrections."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

HttpJsonObject = dict[str, object]
"""A JSON object of a request or a response; its values are checked before use."""
UnitFloat = Annotated[float, Field(ge=0, le=1)]
LabelName = Annotated[str, Field(min_length=1, max_length=500)]
INVOCATION_EXAMPLES: list[JsonValue] = [
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

# -- responses ------------------------------------------------------------------------------


class LabelConfidence(BaseModel):
    """A label and its confidence."""

    labelName: str
    confidence: float = Field(ge=0, le=1)


class ImagePoint(BaseModel):
    """A point; coordinates are 0 to 1 from the top left corner of the upright image."""

    x: float
    y: float


class BoundingBox(ImagePoint):
    """A bounding box: its top left corner and its size, 0 to 1."""

    width: float
    height: float


class DetectedObject(LabelConfidence):
    """An object with its bounding box, or with its center if the function predicts points."""

    boundingBox: BoundingBox | None = None
    center: ImagePoint | None = None


class ControlResponse(BaseModel):
    """The prediction for one control."""

    labelName: str | None = Field(default=None, description="one-of-many: the best label")
    confidence: float | None = Field(default=None, description="of the best label, 0 to 1")
    labels: list[LabelConfidence] | None = Field(default=None, description="several-of-many")
    labelConfidences: list[LabelConfidence] | None = Field(default=None, description="best first")
    predictions: list[DetectedObject] | None = Field(default=None, description="boxes or points")
    counts: dict[str, int] | None = Field(default=None, description="objects by label")


class ImageResponse(ControlResponse):
    """The prediction for an image."""

    controls: dict[str, ControlResponse] | None = Field(
        default=None, description="the prediction for every control, when there are several"
    )


class ResponseTimings(BaseModel):
    """Duration of each step in milliseconds."""

    read: float
    decode: float
    predict: float
    total: float


class ResponseMetadata(BaseModel):
    """The fields that every prediction response has."""

    function: str
    version: str
    requestId: str
    externalId: str | None
    milliseconds: ResponseTimings


class InvocationResponse(ImageResponse, ResponseMetadata):
    """The response to one image."""

    model_config = ConfigDict(json_schema_extra={"examples": INVOCATION_EXAMPLES})


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["urn:prelabel:unreadable-image"])
    title: str
    status: int
    detail: str = Field(description="what is wrong and how to fix it")
    requestId: str


class BatchResult(ImageResponse):
    """The prediction for one image of a batch, or its error."""

    error: Problem | None = None


class BatchResponse(ResponseMetadata):
    """The predictions for a batch of images, in their order."""

    results: list[BatchResult]


class FunctionControl(BaseModel):
    """A control that a function predicts."""

    name: str
    type: str = Field(description="one-of-many, several-of-many, boxes or points")
    labels: list[str]


class FunctionSummary(BaseModel):
    """A function: a Label Studio project with a live version."""

    id: str
    name: str
    type: str = Field(description="type of the first control")
    labels: list[str]
    controls: list[FunctionControl]
    version: str
    created: str
    audit: HttpJsonObject = Field(description="accuracy or F1 on the audit set, with its interval")


class DriftStatus(BaseModel):
    """Drift of recent requests from the audit set."""

    n: int = Field(description="number of predictions compared")
    labels: float | None = Field(description="population stability index of the labels")
    images: float | None = Field(description="share of images unlike the audit set")
    warnings: list[str]


class FunctionDetails(FunctionSummary):
    """A function with its versions, training examples and drift."""

    versions: list[str] = Field(description="names for the parameter version, newest first")
    examples: HttpJsonObject = Field(description="number of training examples by control and label")
    drift: DriftStatus = Field(description="recent requests compared with the audit set")


# -- corrections ----------------------------------------------------------------------------


class CorrectionPoint(ImagePoint):
    """A point; coordinates are 0 to 1 from the top left corner of the upright image."""

    model_config = ConfigDict(extra="forbid")

    x: UnitFloat
    y: UnitFloat


class CorrectionBox(BoundingBox):
    """A bounding box: its top left corner and its size, 0 to 1."""

    model_config = ConfigDict(extra="forbid")

    x: UnitFloat
    y: UnitFloat
    width: UnitFloat
    height: UnitFloat


class CorrectedObject(BaseModel):
    """An object with its bounding box or its center."""

    model_config = ConfigDict(extra="forbid")

    labelName: LabelName
    boundingBox: CorrectionBox | None = None
    center: CorrectionPoint | None = None


class Correction(BaseModel):
    """A correction: one label, several labels, or all objects, depending on the function."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"labelName": "wilting"}]}
    )

    labelName: LabelName | None = None
    labelNames: list[LabelName] | None = None
    predictions: Annotated[list[CorrectedObject], Field(max_length=10_000)] | None = None
    control: str = ""
    data: str | None = Field(
        default=None,
        description="The image (base64 or data URI), if the endpoint has not captured it.",
    )


class CorrectionResponse(BaseModel):
    """The response to a correction."""

    function: str
    externalId: str
    requestId: str
