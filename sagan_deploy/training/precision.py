"""Which precisions training may use here: half precision only where the hardware gains by it."""

from __future__ import annotations

from sagan_deploy.errors import ConfigError, MissingError

PRECISIONS = ("fp32", "bf16")


def check_precision(precision: str, device: str) -> None:
    """Refuse a precision that would make the training slower, or that is not written.

    Raises:
        ConfigError: no such precision, or one that is slower on this device.
        MissingError: training in bf16 has not been proven on any GPU yet.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"--precision (={precision}) must be one of {', '.join(PRECISIONS)}; fp16 would need scaled losses for its "
            "short range, and exported files can be fp16 whatever the training used"
        )
    if precision == "fp32":
        return
    if device == "cpu":
        raise ConfigError(
            "--precision bf16 is slower than fp32 on the CPU: 11 times in a step measured without bfloat16 units. "
            "Train in fp32 and export in the precision that you want"
        )
    raise MissingError(
        "training in bf16 on a GPU is not offered yet: there was none to prove it on. Train in fp32, and export in the "
        "precision that you want"
    )
