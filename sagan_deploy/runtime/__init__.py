"""What production imports: NumPy and one inference library, which is loaded when a generator is.

from sagan_deploy.runtime import load

with load("bundle/") as generator:
    images = generator.sample(16, seed=0)

with load("bundle/", backend="tensorrt", cuda_graphs=True) as generator:
    images = torch.from_dlpack(generator.on_device(z, labels))  # CUDA tensors in and out
"""

from sagan_deploy.runtime.generator import Rejection, RuntimeGenerator
from sagan_deploy.runtime.loading import load

__all__ = ["Rejection", "RuntimeGenerator", "load"]
