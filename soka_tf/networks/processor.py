"""Features of this machine's processor."""

import pathlib
from typing import Optional

_CPU_INFO = pathlib.Path("/proc/cpuinfo")


def cpu_info(key: str) -> Optional[str]:
    """Returns a line of Linux' /proc/cpuinfo, such as "model name"; elsewhere None."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def has_amx() -> bool:
    """Whether the processor multiplies bfloat16 matrices by itself (AMX)."""
    return "amx_bf16" in (cpu_info("flags") or "").split()
