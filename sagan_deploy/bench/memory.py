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
    import resource

    order = json.loads(sys.stdin.read())
    config = from_dict(GeneratorConfig, order["config"])
    with contextlib.ExitStack() as stack:
        _, run = Contender("", order["kind"], Path(order["file"])).open(order["threads"], stack)
        for _ in range(3):
            run(*batch_of(config, order["batch"], 0))
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}\n")


if __name__ == "__main__":
    main()
