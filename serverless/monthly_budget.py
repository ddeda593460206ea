"""Estimate the cost of Modal from list prices, and enforce the monthly budget."""

from __future__ import annotations

from pathlib import Path

from backend.errors import OverBudgetError, StoreError
from backend.store.files import exclusive_lock
from backend.store.usage import UsageCounters

SECONDS_PER_HOUR = 3600.0
DOLLARS_PER_HOUR = {
    **{"T4": 0.59, "L4": 0.80, "A10": 1.10, "A10G": 1.10, "L40S": 1.95, "A100": 2.50},
    **{"H100": 3.95, "H200": 4.54, "B200": 6.25, "CPU": 0.20},
}
"""List prices of 2026, from a third party. ``CPU`` is the price of a container's cores and memory.
Modal's A10 reports itself as A10G."""
UNKNOWN_DEVICE_DOLLARS_PER_HOUR = 4.0
"""A conservative price for devices that are not listed."""
BUDGET_LOCK_TIMEOUT_SECONDS = 60.0


def estimate_dollars(device: str, seconds: float) -> float:
    """Return the estimated cost of using a device, in dollars.

    Args:
        device: name in torch or Modal, such as ``NVIDIA L4``, ``A100-80GB`` or ``H100:2``.
        seconds: duration of the use.
    """
    kind, _, count = device.partition(":")
    words = kind.upper().rstrip("!").replace("-", " ").split()
    known_device = next((word for word in words if word in DOLLARS_PER_HOUR), "")
    device_count = int(count) if count.isdecimal() else 1
    price = DOLLARS_PER_HOUR.get(known_device, UNKNOWN_DEVICE_DOLLARS_PER_HOUR) * device_count
    container_price = 0.0 if known_device == "CPU" else DOLLARS_PER_HOUR["CPU"]
    return round(seconds / SECONDS_PER_HOUR * (price + container_price), 6)


class MonthlyBudget:
    """The monthly budget, and the estimated cost of the current month in a file.

    Args:
        file: the file of counters.
        budget: dollars a month; 0 for no limit.
    """

    def __init__(self, file: Path, budget: float) -> None:
        self._file = file
        self._budget = budget

    def spent_this_month(self) -> float:
        """Return the estimated cost of this month in dollars."""
        return UsageCounters(self._file).current("dollars")

    def check_remaining(self) -> None:
        """Check that the budget of this month is not used up.

        Raises:
            OverBudgetError: it is.
        """
        spent = self.spent_this_month()
        if self._budget and spent >= self._budget:
            raise OverBudgetError(
                f"Training is paused: Modal has cost about {spent:.2f} $ this month, and "
                f"PRELABEL_MONTHLY_BUDGET is {self._budget:g} $. Predictions continue; training "
                "resumes next month, or with a higher budget."
            )

    def record_usage(self, device: str, seconds: float) -> None:
        """Add the cost of using a device; safe to call from several processes.

        Raises:
            StoreError: the file cannot be written.
        """
        lock_file = self._file.with_name(f"{self._file.name}.lock")
        busy_error = StoreError(f"Another process holds {lock_file}: the cost is not recorded.")
        with exclusive_lock(lock_file, busy_error, BUDGET_LOCK_TIMEOUT_SECONDS):
            usage = UsageCounters(self._file)
            usage.increment(f"seconds {device}", seconds)
            usage.increment("dollars", estimate_dollars(device, seconds))
            usage.flush()
