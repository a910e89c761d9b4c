"""Everything that can go wrong on purpose, with the exit code that the command line gives it.

    SaganDeployError
    ├── CheckFailed      1  a check ran and said no (parity, verify, regression)
    ├── ConfigError      2  options that contradict each other or make no sense
    ├── MissingError     3  something is missing on this machine: a package, a GPU, a driver
    └── InputError       4  a file or value is wrong, corrupt or does not belong here

A message says what came, what was expected and what to do. Anything that is not a `SaganDeployError`
(or an `exporters.errors.ExportersError`) is a bug and keeps its traceback (exit code 5).
"""

from __future__ import annotations


class SaganDeployError(Exception):
    """Root of all errors that this package raises on purpose."""

    exit_code = 5


class CheckFailed(SaganDeployError):
    """A comparison ran to its end and its answer is no."""

    exit_code = 1


class ConfigError(SaganDeployError):
    """A setting is out of range or contradicts another one."""

    exit_code = 2


class MissingError(SaganDeployError):
    """This machine lacks a package, a device or a driver that the request needs."""

    exit_code = 3


class InputError(SaganDeployError):
    """A file or an array is corrupt, of another kind than expected, or does not fit the rest."""

    exit_code = 4
