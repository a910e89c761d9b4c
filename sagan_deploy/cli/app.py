"""The `sagan-deploy` program: the commands, and what an error becomes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sagan_deploy.cli import (
    bench,
    build,
    deploy,
    doctor,
    evaluate,
    export,
    generate,
    import_,
    inspect,
    parity,
    prepare,
    quickstart,
    targets,
    train,
    verify,
)
from sagan_deploy.errors import MissingError, SaganDeployError
from sagan_deploy.optional import install_line

app = typer.Typer(
    name="sagan-deploy",
    help="Take a self-attention GAN from PyTorch to ONNX and TensorRT, and prove that it draws the same pictures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    quickstart, prepare, train, evaluate, import_, export, build, parity, deploy, verify, bench, generate, inspect,
    doctor, targets,
):  # fmt: skip
    command.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("sagan-deploy"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the program: expected errors become one line and their exit code, bugs keep their traceback (5)."""
    _share_cores()
    # Rich must not fold error lines in logs; a pipe that closes early (| head) is no error of ours.
    try:
        app()
    except KeyboardInterrupt:
        _stop("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except SaganDeployError as error:
        _stop(str(error), error.exit_code)
    except Exception as error:
        missing = install_line(error) if isinstance(error, ImportError) else None
        if missing is not None:
            _stop(missing, MissingError.exit_code)
        # exporters is independent of this package, so its errors are known by their attribute, not imported here.
        exit_code = getattr(error, "exit_code", None)
        if exit_code is not None:
            _stop(str(error), exit_code)
        import traceback

        traceback.print_exc()
        _stop("this is a bug in sagan-deploy; please report the lines above", 5)


def _share_cores() -> None:
    """Let PyTorch's threads sleep soon when they wait for each other, unless the user has settled that.

    By default they spin for milliseconds. On a machine with other busy programs, a shared CI runner for example, they
    then burn the core that the awaited thread needs: training steps took 1.36 s instead of 0.41 s beside a busy
    neighbour; on two free cores 0.16 s against 0.18 s is the price. It is read when
    PyTorch is loaded, so it is set here.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _stop(message: str, exit_code: int) -> None:
    typer.echo(f"sagan-deploy: {message}", err=True)
    sys.exit(exit_code)
