"""What can go wrong on purpose between a module, an ONNX model and a plan, with the exit code a command gives it.

    ExportersError
        MissingBackend            3    tensorrt or tensorrt_rtx cannot be imported
        SpecError                 2    a description of a job contradicts itself
            UnknownTarget              no such GPU
            UnsupportedTarget          the flavour does not serve that GPU, or the GPU lacks the data type
            BadProfile                 shapes that no call could have
        NotExportable             4    the module cannot become ONNX
        InvalidOnnx               4    the bytes are no valid ONNX model
        OnnxRejected              4    TensorRT's parser refuses the model
        BuildFailed               4    TensorRT's builder refuses the model; kinds with a code of their own:
            NoGpu                 3
            HardwareDatatype      2
            WorkspaceTooSmall     2
            BuildCancelled      130
            AttentionUnsupported  4
        RecipeMismatch            1    the plan is not what was asked for
            PrecisionMismatch
            FusionMismatch

Each class has the code as `exit_code`.
"""

from __future__ import annotations


class ExportersError(Exception):
    """Root of all errors that this package raises on purpose."""

    exit_code = 5


class MissingBackend(ExportersError):
    """A TensorRT package, or the libraries it loads, are not installed."""

    exit_code = 3


class SpecError(ExportersError):
    """A description of an export or a build contradicts itself."""

    exit_code = 2


class UnknownTarget(SpecError):
    """A target is neither a known GPU nor a compute capability."""


class UnsupportedTarget(SpecError):
    """The flavour of TensorRT does not build for the target, or the target lacks the model's data type."""


class BadProfile(SpecError):
    """An optimization profile forgets an input or gives shapes that no call could have."""


class NotExportable(ExportersError):
    """The module cannot become ONNX: it is in training mode, too large, or does something that ONNX has not."""

    exit_code = 4


class InvalidOnnx(ExportersError):
    """The bytes are no ONNX model, or one that breaks its rules."""

    exit_code = 4


class OnnxRejected(ExportersError):
    """TensorRT's parser does not take the model.

    Args:
        message: the whole line for the user.
        node: name of the node that it stopped at, empty when it is none.
        operator: type of that node.
        reason: the parser's own first line.
    """

    exit_code = 4

    def __init__(self, message: str, *, node: str = "", operator: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.node, self.operator, self.reason = node, operator, reason


class BuildFailed(ExportersError):
    """TensorRT's builder gave no plan.

    Args:
        message: the whole line for the user.
        records: the errors that the builder logged, first one first.
    """

    exit_code = 4

    def __init__(self, message: str, *, records: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.records = records


class NoGpu(BuildFailed):
    """The build needs the GPU that it is for, and there is none."""

    exit_code = 3


class HardwareDatatype(BuildFailed):
    """A target has no instructions for a data type of the model."""

    exit_code = 2


class WorkspaceTooSmall(BuildFailed):
    """The workspace limit is below what the kernels need."""

    exit_code = 2


class BuildCancelled(BuildFailed):
    """Somebody stopped the build; 130 is what a shell gives an interrupted program."""

    exit_code = 130


class AttentionUnsupported(BuildFailed):
    """An ONNX Attention node has no fused kernel on a target, and TensorRT does not take it apart."""


class RecipeMismatch(ExportersError):
    """The plan was built, but the builder's own report says that it is not what was asked for."""

    exit_code = 1


class PrecisionMismatch(RecipeMismatch):
    """Convolutions or matrix products read another type than the recipe's."""


class FusionMismatch(RecipeMismatch):
    """More or fewer fused attention kernels than expected."""
