"""A local control plane: the real Modal client and containers against a service on this machine."""

from __future__ import annotations

from tests.plane.control import ControlPlane, DeployError
from tests.plane.facts import ContainerFacts, FunctionFacts, ImageLayer, VolumeMount, tree
from tests.plane.web import PROXY_TOKEN

__all__ = [
    "PROXY_TOKEN",
    "ContainerFacts",
    "ControlPlane",
    "DeployError",
    "FunctionFacts",
    "ImageLayer",
    "VolumeMount",
    "tree",
]
