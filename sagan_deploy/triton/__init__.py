"""A Triton model repository from a bundle."""

from sagan_deploy.triton.repository import check_out as check_out
from sagan_deploy.triton.repository import write_triton as write_triton
