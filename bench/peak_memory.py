"""Run a command and print the peak memory of it and everything it starts, together.

    python bench/peak_memory.py -- degrpo demo

Proportional set size (PSS) is summed over the processes, so that shared pages count once; the
processes are found as descendants of the command, and by their session where they detach.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import psutil


def family(root: psutil.Process, known: set[psutil.Process]) -> set[psutil.Process]:
    """Live descendants of ``root``, and of everything seen before (re-parented processes stay)."""
    alive = {process for process in known if process.is_running()}
    for process in (root, *alive):
        try:
            alive.update(process.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    return alive


def pss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between samples")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = [word for word in options.command if word != "--"]
    start, peak, breakdown = time.monotonic(), 0, []
    child = subprocess.Popen(command)
    root, processes = psutil.Process(child.pid), set()
    while child.poll() is None:
        processes = family(root, processes | {root})
        sizes = {process: pss(process) for process in processes}
        if sum(sizes.values()) > peak:
            peak = sum(sizes.values())
            largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
            breakdown = [
                (process.name(), size) for process, size in largest if process.is_running()
            ]
        try:
            time.sleep(options.interval)
        except KeyboardInterrupt:
            child.wait()  # Ctrl-C reached the command, too; it ends in order
    print(
        f"\n{' '.join(command)}: exit {child.returncode}, "
        f"{(time.monotonic() - start) / 60:.1f} min, peak {peak / 2**30:.2f} GiB"
    )
    for name, size in breakdown:
        print(f"  {size / 2**30:6.2f} GiB  {name}")
    return child.returncode


if __name__ == "__main__":
    sys.exit(main())
