"""What a generator costs to start and between calls, on a CPU: python samples/start_and_rest.py BUNDLE

It draws with 0.1 s of rest after every call. A runtime cache pays from the second run on.
"""

import argparse
import importlib
import resource
import statistics
import time

from sagan_deploy.runtime import load

options = argparse.ArgumentParser()
options.add_argument("path")
options.add_argument("--batch", type=int, default=1)
options.add_argument("--threads", type=int, default=1)
options.add_argument("--no-spin", action="store_true")
options.add_argument("--runtime-cache")
given = options.parse_args()

importlib.import_module("onnxruntime")  # its own start is not measured
before = time.process_time()
with load(
    given.path, device="cpu", threads=given.threads, spin=not given.no_spin, runtime_cache=given.runtime_cache
) as generator:
    print(f"load: {time.process_time() - before:.2f} s of CPU time")
    z, labels = generator.sample_inputs(given.batch)
    generator(z, labels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # as Linux counts
    print(f"peak of the process: {peak / 1e6:.0f} MB")
    before, seconds = time.process_time(), []
    for _ in range(20):
        start = time.perf_counter()
        generator(z, labels)
        seconds.append(time.perf_counter() - start)
        time.sleep(0.1)
    print(f"a call and its rest: {(time.process_time() - before) / 20 * 1e3:.1f} ms of CPU time")
    print(f"a call: {statistics.median(seconds) * 1e3:.2f} ms")
