"""Every error has an exit code of the house, and the ones that callers tell apart have their own."""

import inspect

import pytest

from exporters import errors

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value)]


@pytest.mark.parametrize("kind", CLASSES)
def test_one_root_and_a_known_code(kind):
    assert issubclass(kind, errors.ExportersError)
    assert kind.exit_code in ({5} if kind is errors.ExportersError else {1, 2, 3, 4, 130})
    assert kind.__name__ in errors.__doc__


def test_codes_that_scripts_rely_on():
    assert errors.MissingBackend.exit_code == errors.NoGpu.exit_code == 3
    assert errors.PrecisionMismatch.exit_code == errors.FusionMismatch.exit_code == 1
    assert errors.UnknownTarget.exit_code == errors.BadProfile.exit_code == errors.WorkspaceTooSmall.exit_code == 2
    assert errors.OnnxRejected.exit_code == errors.InvalidOnnx.exit_code == 4
