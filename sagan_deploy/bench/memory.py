"""Peak memory of a contender: a process that opens it, draws a few batches and says how large it became."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

from sagan_deploy.bench.contenders import Contender, batch_of
from sagan_deploy.config import GeneratorConfig, from_dict, to_dict

_LIMIT = 600  # seconds; torch.compile alone takes minutes


def peak_bytes(contender: Contender, config: GeneratorConfig, batch: int, threads: int | None) -> int | None:
    """The largest resident memory of a process that runs this contender alone; None where it cannot be told."""
    order = {
        "kind": contender.kind,
        "file": str(contender.file),
        "config": to_dict(config),
        "batch": batch,
        "threads": threads,
    }
    command = [sys.executable, "-m", "sagan_deploy.bench.memory"]
    try:
        done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, timeout=_LIMIT)
        return int(done.stdout.split()[-1]) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return None


def main() -> None:
    """Read an order on stdin, carry it out, print the bytes."""
    order = json.loads(sys.stdin.read())
    config = from_dict(GeneratorConfig, order["config"])
    with contextlib.ExitStack() as stack:
        _, run = Contender("", order["kind"], Path(order["file"])).open(order["threads"], stack)
        for _ in range(3):
            run(*batch_of(config, order["batch"], 0))
    sys.stdout.write(f"{_peak()}\n")


def _peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    # What getrusage tells on Linux begins with the size of the process that started this one.
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
