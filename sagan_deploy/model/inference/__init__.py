"""The inference form: the same function as the training form, cheaper. Every step is exact in real numbers.

Arithmetic that changes weights happens once, in float64, before anything is rounded to the precision that is exported.
"""

from sagan_deploy.model.inference.generator import InferenceGenerator, to_inference
from sagan_deploy.model.inference.options import InferenceOptions

__all__ = ["InferenceGenerator", "InferenceOptions", "to_inference"]
