"""What production imports: NumPy and one inference library, which is loaded when a generator is.

from sagan_deploy.runtime import load

with load("bundle/") as generator:
    images = generator.sample(16, seed=0)
"""

from sagan_deploy.runtime.generator import Rejection, RuntimeGenerator
from sagan_deploy.runtime.loading import load

__all__ = ["Rejection", "RuntimeGenerator", "load"]
