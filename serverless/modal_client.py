"""Call the deployed app."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from backend.errors import UsageError
from serverless.jobs_volume import JobsVolume
from serverless.modal_errors import JobFailedError, translate_modal_errors
from serverless.serialization import EncoderProperties, TimedResult, TrainingResult

if TYPE_CHECKING:
    import modal

RUNNING_ON_MODAL = bool(os.environ.get("MODAL_TASK_ID"))
"""Whether this process runs in a container on Modal, where ``PRELABEL_HOME`` is the volume."""


class ModalClient:
    """Client for the deployed app, in the Modal environment that Modal's configuration selects.

    Args:
        app: name of the app.

    Attributes:
        volume: the jobs volume of the app.
        record_usage: called with (device, seconds) after each batch inference call; the device is
            empty if it is unknown.

    Raises:
        UsageError: Modal has no token on this machine.
    """

    def __init__(self, app: str) -> None:
        from modal.config import config

        token = config.get("token_id") and config.get("token_secret")
        if not token and not RUNNING_ON_MODAL:
            raise UsageError(
                "PRELABEL_COMPUTE=modal needs a token: get one with `modal token new`, or set "
                "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET."
            )
        import modal

        self._app = app
        self._progress = modal.Dict.from_name(f"{app}-progress", create_if_missing=True)
        self.volume = JobsVolume(app)
        self.record_usage: Callable[[str, float], object] = lambda device, seconds: None

    def check_connection(self) -> None:
        """Check that the app is deployed.

        Raises:
            UsageError: Modal rejects the token.
            RoundError: the app is not deployed, or Modal cannot be reached.
        """
        with translate_modal_errors(self._app):
            self._train_function().hydrate()

    # -- training ---------------------------------------------------------------------------

    def spawn_training(self, order_id: str) -> str:
        """Start the training job whose inputs were uploaded; return the id of the Modal call."""
        with translate_modal_errors(self._app):
            self._progress.pop(order_id, None)
            return str(self._train_function().spawn(order_id).object_id)

    def training_result(self, call_id: str) -> TrainingResult | None:
        """Return the result of a training call; None while it is running.

        Raises:
            JobFailedError: the call failed or was cancelled, or Modal no longer has its result.
            ModalUnreachableError: Modal cannot be reached; the training continues.
        """
        import modal
        from modal.exception import NotFoundError

        with translate_modal_errors(self._app):
            try:
                result = modal.FunctionCall.from_id(call_id).get(timeout=0)
            except TimeoutError:
                return None
            except NotFoundError as error:
                raise JobFailedError("Modal has no record of the training: train again.") from error
            return TrainingResult.model_validate(result)

    def training_progress(self, order_id: str) -> tuple[int, int]:
        """Return (done, total) training steps; (0, 0) if they are unknown."""
        with translate_modal_errors(self._app):
            done, total = self._progress.get(order_id, (0, 0))
        return int(done), int(total)

    def cancel_call(self, call_id: str) -> None:
        """Cancel a call and end its container."""
        import modal

        with translate_modal_errors(self._app):
            modal.FunctionCall.from_id(call_id).cancel(terminate_containers=True)

    # -- batch inference --------------------------------------------------------------------

    def encoder_properties(self, setting: str) -> EncoderProperties:
        """See :func:`serverless.modal_jobs.encoder_properties`."""
        (properties,) = self._call_inference("encoder_properties", [(setting,)])
        return EncoderProperties(**properties)  # type: ignore[arg-type]

    def encode(self, setting: str, image_batches: Sequence[list[bytes]]) -> list[bytes]:
        """Embed batches of encoded images, each batch in its own container."""
        return self._call_inference("encode_images", [(setting, batch) for batch in image_batches])  # type: ignore[return-value]

    def encode_texts(self, setting: str, texts: Sequence[str]) -> bytes:
        """Embed texts."""
        return self._call_inference("encode_texts", [(setting, list(texts))])[0]  # type: ignore[return-value]

    def detect(
        self,
        network_key: str,
        size: int,
        image_batches: Iterable[list[bytes]],
        min_confidence: float,
    ) -> list[bytes | None]:
        """Run an uploaded network on batches of encoded images, each batch in its own container."""
        arguments = [(network_key, size, batch, min_confidence) for batch in image_batches]
        return self._call_inference("detect", arguments)  # type: ignore[return-value]

    def _call_inference(self, method: str, arguments: Sequence[tuple[object, ...]]) -> list[object]:
        """Call a method of ``BatchInference`` once per row of arguments, and record the usage."""
        import modal

        start = time.monotonic()
        try:
            with translate_modal_errors(self._app):
                worker = modal.Cls.from_name(self._app, "BatchInference")()
                rows = list(getattr(worker, method).starmap(arguments))
        except JobFailedError:
            self.record_usage("", time.monotonic() - start)
            raise
        results = [TimedResult[object](**row) for row in rows]
        for device in {result.device for result in results}:
            seconds = sum(result.seconds for result in results if result.device == device)
            self.record_usage(device, seconds)
        return [result.value for result in results]

    def _train_function(self) -> modal.Function[..., object, object]:
        import modal

        return modal.Function.from_name(self._app, "train")
