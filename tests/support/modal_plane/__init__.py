"""A local control plane: the real Modal client and containers against a service on this machine.

    with ControlPlane() as plane:
        plane.deploy("-m", "serverless.app", cwd=checkout)      # the real ``modal deploy``
        assert plane.function("train").gpus == ("L4", "T4")     # facts of what it sent
        with plane.here():                                      # or plane.environment(), elsewhere
            call = modal.Function.from_name("prelabel", "train").spawn(order)
            ...
        httpx.get(plane.http("endpoint") + "/v1/functions")     # a web function, for real
        print(plane.log("train"), plane.volume_calls)

Each container is a process that runs Modal's own entrypoint in a room (see ``room``) in which the
operating system, this Python environment, the mounted files and the volumes can be seen, and not
the checkout. What it cannot show: image builds, GPUs, real snapshots, autoscaling, prices, the
150 s limit of web requests, a blocked network. The wire format is private: modal is pinned to 1.6.
"""

from __future__ import annotations

from tests.support.modal_plane.control_plane import ControlPlane, DeployError
from tests.support.modal_plane.deployment_facts import (
    ContainerFacts,
    FunctionFacts,
    ImageLayer,
    VolumeMount,
    read_tree,
)

__all__ = [
    "ContainerFacts",
    "ControlPlane",
    "DeployError",
    "FunctionFacts",
    "ImageLayer",
    "VolumeMount",
    "read_tree",
]
