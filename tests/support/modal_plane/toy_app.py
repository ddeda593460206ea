"""A small app that uses every feature of Modal that the plane imitates.

It has no ``from __future__ import annotations``: FastAPI cannot resolve names that are imported in
the function around a route.
"""

import os
import time
from pathlib import Path
from typing import Any

import modal

MINUTES = 60
app = modal.App("toy")
image = modal.Image.debian_slim(python_version="3.11").uv_pip_install("fastapi==0.116.1")
image = image.env({"FROM_IMAGE": "yes"}).add_local_python_source("toylib")
volume = modal.Volume.from_name("toy-store", create_if_missing=True, version=2)
shared = modal.Dict.from_name("toy-dict", create_if_missing=True)


@app.function(
    image=image,
    gpu=["L4", "T4"],
    timeout=20 * MINUTES,
    startup_timeout=5 * MINUTES,
    volumes={"/vol": volume},
    secrets=[modal.Secret.from_dict({"PASSWORD": "sesame"})],
    retries=modal.Retries(max_retries=2, initial_delay=0.0),
    max_containers=2,
    scaledown_window=30,
)
def work(order: str, value: Any = None) -> Any:
    """Carry out an order."""
    import toylib  # type: ignore[import-not-found]

    if order == "double":
        return 2 * value
    if order == "sleep":
        time.sleep(value)
        return "slept"
    if order == "raise":
        raise toylib.ToyError(value)
    if order == "die":
        os._exit(3)
    if order == "environment":
        return {name: os.environ.get(name) for name in value}
    if order == "count":
        path = Path("/vol") / value
        attempts = len(path.read_bytes()) + 1 if path.exists() else 1
        path.write_bytes(b"x" * attempts)
        volume.commit()
        if attempts < 3:
            raise toylib.ToyError(f"attempt {attempts}")
        return attempts
    raise ValueError(order)


@app.function(image=image, volumes={"/vol": volume})
def write(name: str, content: bytes) -> str:
    """Write a file and commit."""
    print("writing", name)
    Path("/vol", name).write_bytes(content)
    volume.commit()
    shared["last"] = name
    return os.environ["MODAL_TASK_ID"]


@app.function(
    image=image, volumes={"/vol": volume.with_mount_options(read_only=True)}, block_network=True
)
def read(name: str, keep_open: bool = False) -> bytes:
    """Read a file that another container wrote."""
    volume.reload()
    if keep_open:
        with Path("/vol", name).open("rb"):
            volume.reload()
    return Path("/vol", name).read_bytes()


@app.function(image=image, volumes={"/vol": volume.with_mount_options(read_only=True)})
def vandal() -> None:
    """Try to write to a read-only volume."""
    Path("/vol/vandal").write_text("was here")


@app.function(image=image, volumes={"/vol": volume}, max_containers=1)
def careless(leave: str = "", look_for: str = "", reload: bool = False) -> bool:
    """Write without a commit, and read without a reload."""
    if leave:
        Path("/vol", leave).write_text("left")
    if reload:
        volume.reload()
    return Path("/vol", look_for).is_file()


@app.cls(image=image, enable_memory_snapshot=True)
class Greeter:
    """A class with both kinds of enter."""

    @modal.enter(snap=True)
    def load(self) -> None:
        self.steps = ["snap"]

    @modal.enter(snap=False)
    def move(self) -> None:
        self.steps.append("restored")

    @modal.method()
    def greet(self) -> list[str]:
        return self.steps


@app.function(image=image, max_containers=1)
@modal.concurrent(max_inputs=4)
@modal.asgi_app()
def site() -> Any:
    """An app that counts bytes and waits for concurrent requests."""
    import asyncio

    from fastapi import FastAPI, Request

    web = FastAPI()
    together = 0

    @web.post("/size")
    async def size(request: Request) -> dict[str, int]:
        return {"size": len(await request.body())}

    @web.get("/big")
    async def big(count: int) -> Any:
        from fastapi.responses import Response

        return Response(b"x" * count, media_type="image/png")

    @web.get("/company")
    async def company() -> dict[str, int]:
        nonlocal together
        together += 1
        for _ in range(100):
            if together >= 3:
                break
            await asyncio.sleep(0.1)
        return {"together": together}

    @web.get("/broken")
    async def broken() -> None:
        raise ValueError("broken")

    return web


@app.function(image=image, timeout=1)
def slow() -> None:
    """Run longer than the timeout."""
    time.sleep(60)
