"""The estimated cost of Modal, by month, and its limit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.card_records import ComputeCost
from backend.errors import OverBudgetError
from backend.store.usage import UsageCounters, month_key
from serverless.monthly_budget import (
    UNKNOWN_DEVICE_DOLLARS_PER_HOUR,
    MonthlyBudget,
    estimate_dollars,
)


def test_prices_are_found_by_the_device_names_of_torch_and_modal() -> None:
    assert estimate_dollars("NVIDIA L4", 3600) == estimate_dollars("L4", 3600) == pytest.approx(1.0)
    assert estimate_dollars("Tesla T4", 1800) == pytest.approx(0.395)
    assert estimate_dollars("NVIDIA A100-SXM4-80GB", 3600) == pytest.approx(2.7)
    assert (
        estimate_dollars("NVIDIA A10G", 3600) == estimate_dollars("A10", 3600) == pytest.approx(1.3)
    )
    assert (
        estimate_dollars("H100!", 3600)
        == estimate_dollars("NVIDIA H100 80GB HBM3", 3600)
        == pytest.approx(4.15)
    )
    assert estimate_dollars("CPU", 3600) == pytest.approx(0.2)
    assert estimate_dollars("a future GPU", 3600) > UNKNOWN_DEVICE_DOLLARS_PER_HOUR


def test_several_devices_cost_several_times_as_much() -> None:
    assert estimate_dollars("H100:2", 3600) == pytest.approx(2 * 3.95 + 0.2)
    assert estimate_dollars("a100-80gb:8", 3600) == pytest.approx(8 * 2.5 + 0.2)
    assert estimate_dollars("H100:", 3600) == estimate_dollars("H100", 3600)


def test_the_budget_is_per_month_and_0_means_no_limit(tmp_path: Path) -> None:
    budget = MonthlyBudget(tmp_path / "spending.json", 2.0)
    budget.check_remaining()
    budget.record_usage("L4", 3600)
    budget.check_remaining()
    budget.record_usage("L4", 3600)
    with pytest.raises(OverBudgetError, match=r"about 2\.00 \$"):
        MonthlyBudget(tmp_path / "spending.json", 2.0).check_remaining()
    MonthlyBudget(tmp_path / "spending.json", 0.0).check_remaining()
    usage = UsageCounters(tmp_path / "spending.json")
    assert usage.current("seconds L4") == 7200
    other = (tmp_path / "spending.json").read_text().replace(month_key(), "2020-01")
    (tmp_path / "spending.json").write_text(other)
    MonthlyBudget(tmp_path / "spending.json", 2.0).check_remaining()


def test_costs_add_up_under_the_name_of_the_remote_device() -> None:
    total = (
        ComputeCost() + ComputeCost(seconds=2.0) + ComputeCost("modal", "NVIDIA L4", 60.0, 0.0167)
    )
    assert total == ComputeCost("modal", "NVIDIA L4", 62.0, 0.0167)


def test_costs_recorded_at_the_same_time_are_all_counted(tmp_path: Path) -> None:
    file = tmp_path / "new" / "spending.json"

    def record(_: int) -> None:
        for _ in range(10):
            MonthlyBudget(file, 2.0).record_usage("L4", 36.0)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(record, range(4)))
    assert UsageCounters(file).current("seconds L4") == pytest.approx(40 * 36.0)
    assert MonthlyBudget(file, 2.0).spent_this_month() == pytest.approx(0.4)
