"""The peak memory of a process, as benchmarks count it."""

from pathlib import Path


def peak_memory_mb() -> float:
    """Peak resident set of this program in MiB, from Linux's own account.

    `getrusage` will not do: there a child begins with the peak of the process that started it.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) / 1024
