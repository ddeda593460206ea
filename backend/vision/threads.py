"""The number of threads for inference, without importing torch, which takes seconds."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType

CPU_TOPOLOGY_FOLDER = Path("/sys/devices/system/cpu")
_thread_limits = threading.local()


def imported_torch() -> ModuleType | None:
    """Return torch if this process has imported it, or is importing it in another thread."""
    if "torch" not in sys.modules:
        return None
    import torch  # waits for another thread's import

    return torch  # type: ignore[no-any-return]


def count_threads() -> int:
    """Return how many threads the calling thread may use: torch's number if it is imported."""
    if (torch := imported_torch()) is not None:
        return int(torch.get_num_threads())
    return 1 if getattr(_thread_limits, "is_single", False) else count_cores()


def count_cores() -> int:
    """Return torch's default number of threads: ``OMP_NUM_THREADS``, or the physical cores that
    this process may run on."""
    setting = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if setting.isdecimal() and int(setting) > 0:
        return int(setting)
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return os.cpu_count() or 1
    return max(1, len({_core_of(cpu) for cpu in os.sched_getaffinity(0)}))


def _core_of(cpu: int) -> str:
    """Return the CPUs that share a core with a CPU; its own number if that is unknown."""
    try:
        siblings = CPU_TOPOLOGY_FOLDER / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        return siblings.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def single_thread_pool(count: int) -> ThreadPoolExecutor:
    """Return a pool of ``count`` threads, each limited to one inference thread.

    ``torch.set_num_threads`` also changes the default of threads that start later. The default is
    restored, otherwise the server would later train on a single CPU.

    Args:
        count: number of threads, and the default to restore (:func:`count_threads`).
    """
    return ThreadPoolExecutor(count, initializer=partial(_use_one_thread, count))


def _use_one_thread(default_threads: int) -> None:
    _thread_limits.is_single = True
    if (torch := imported_torch()) is None:
        return
    torch.get_num_threads()  # initializes torch, which would otherwise reset the number
    torch.set_num_threads(1)
    restoring_thread = threading.Thread(target=torch.set_num_threads, args=(default_threads,))
    restoring_thread.start()
    restoring_thread.join()
