"""The composition root: choose where compute runs, and build what a process needs."""

from __future__ import annotations

from backend.runtime.compute import Compute, LocalCompute
from backend.runtime.resources import Resources
from backend.settings import COMPUTE_MODAL, Settings


def choose_compute(settings: Settings) -> Compute:
    """Where the settings want it.

    Raises:
        UsageError: Modal is wanted, and its token is missing.
    """
    if settings.compute == COMPUTE_MODAL:
        from serverless.modal_compute import ModalCompute

        return ModalCompute(settings)
    return LocalCompute()


def make_resources(settings: Settings, lock_seconds: float = 0.0) -> Resources:
    """Build the resources of a process, with the compute that the settings name.

    Args:
        settings: of this backend.
        lock_seconds: how long to wait for another process's round of a project.
    """
    return Resources(settings, choose_compute(settings), lock_seconds)


def publish_to_endpoints(settings: Settings) -> list[str]:
    """Let the endpoints on Modal know what is live here and who may ask: all that there may be.

    Those are the ones that were deployed from this home folder, wherever trainings are done.

    Returns:
        the apps that know it now; none where nothing was ever deployed.

    Raises:
        PrelabelError: one cannot be reached.
    """
    from serverless.volume_sync import VolumeSync, read_deployments

    apps = {
        *read_deployments(settings.home),
        *([settings.modal_app] if settings.compute == COMPUTE_MODAL else []),
    }
    for app in sorted(apps):
        VolumeSync(settings.home, app).upload_if_changed()
    return sorted(apps)


def check_modal_access(settings: Settings) -> None:
    """Ask Modal whether it lets us in and has the app.

    Raises:
        UsageError: there is no token, or Modal does not take it.
        RoundError: the app is not there, or Modal cannot be reached.
    """
    from serverless.modal_client import ModalClient

    ModalClient(settings.modal_app).check_connection()
