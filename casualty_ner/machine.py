"""What this machine has: the cores that the process may use, what its processor is called and can do, and a folder to keep things in."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def cores() -> int:
    """The processor cores that this process may use: its affinity, and a container's quota where there is one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        limit = max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or "max": no quota
        limit = allowed
    return min(allowed, limit)


@cache
def cpu_name() -> str:
    """The processor's name as the system gives it, with family, model and stepping, for names are not always telling."""
    facts = _cpu_facts()
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = "/".join(facts[key] for key in ("cpu family", "model", "stepping") if key in facts)
    return f"{name} ({numbers})" if numbers else name


def cpu_and_cores() -> str:
    """What something that was measured on the CPU holds for."""
    return f"{cpu_name()}, {cores()} cores"


@cache
def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (AMX or AVX-512 BF16), as far as the system says."""
    return bool(cpu_flags() & {"amx_bf16", "avx512_bf16"})


@cache
def cpu_flags() -> frozenset[str]:
    """What the processor can do, as Linux names it; nothing where the system does not say."""
    return frozenset(_cpu_facts().get("flags", "").split())


def cache_folder() -> Path:
    """Where what was made or measured for this machine is kept: ``CASUALTY_NER_CACHE``, else ``~/.cache/casualty_ner``."""
    folder = os.environ.get("CASUALTY_NER_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "casualty_ner"


@cache
def _cpu_facts() -> dict[str, str]:
    """The first processor of ``/proc/cpuinfo``; nothing where there is no such file."""
    try:
        first = _CPUINFO.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
