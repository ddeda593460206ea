"""Composition root: choose local or remote compute and build the resources of a process."""

from __future__ import annotations

from backend.runtime.compute import Compute, LocalCompute
from backend.runtime.resources import Resources
from backend.settings import COMPUTE_MODAL, Settings


def choose_compute(settings: Settings) -> Compute:
    """Return local or Modal compute, as configured.

    Raises:
        UsageError: Modal is configured, but its token is missing.
    """
    if settings.compute == COMPUTE_MODAL:
        from serverless.modal_compute import ModalCompute

        return ModalCompute(settings)
    return LocalCompute()


def make_resources(settings: Settings, lock_seconds: float = 0.0) -> Resources:
    """Build the resources of a process.

    Args:
        settings: the settings.
        lock_seconds: seconds to wait while another process runs a round of the same project.
    """
    return Resources(settings, choose_compute(settings), lock_seconds)


def sync_endpoints(settings: Settings) -> list[str]:
    """Upload live versions and API keys to all endpoints deployed from this home folder.

    Returns:
        the names of the Modal apps; empty if nothing is deployed.

    Raises:
        PrelabelError: an app cannot be reached.
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
    """Check that Modal accepts the token and that the app is deployed.

    Raises:
        UsageError: the token is missing or rejected.
        RoundError: the app is not deployed, or Modal cannot be reached.
    """
    from serverless.modal_client import ModalClient

    ModalClient(settings.modal_app).check_connection()
