"""Settings for all tests."""

import os

# Every worker would start as many threads as there are cores, and they would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tables must not fold differently in a narrow terminal.
os.environ["COLUMNS"] = "160"
