"""Features of this machine's processor."""

import pathlib
import platform
from typing import Optional

_CPU_INFO = pathlib.Path("/proc/cpuinfo")


def _cpu_info(key: str) -> Optional[str]:
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


def processor_name() -> str:
    """What the processor is called, as far as the system tells."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def has_amx() -> bool:
    """Whether the processor multiplies bfloat16 matrices by itself (AMX)."""
    return "amx_bf16" in (_cpu_info("flags") or "").split()
