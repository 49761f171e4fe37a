"""Entry point of ``vlaforget``."""

from __future__ import annotations

import os
import sys

import typer

from vlaforget_ros import __version__
from vlaforget_ros.cli import (
    adapter_care,
    adapter_transfer,
    adapters,
    attack,
    bench,
    bench_bags,
    bench_canary,
    bench_live,
    canary,
    canary_run,
    evaluate,
    graph,
    history,
    models,
    monitor,
    report,
    request,
    retrain,
    train,
    unlearn,
    watch,
)
from vlaforget_ros.cli.output import errors
from vlaforget_ros.errors import VlaForgetError

app = typer.Typer(
    name="vlaforget",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="""Take an unwanted behaviour out of a deployed Vision-Language-Action policy, on the robot, and prove it.

Start with `vlaforget demo`: a simulated arm misbehaves, its bags are unlearned on the spot, the adapter is swapped
in, the violation rate falls.
""",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"vlaforget {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


graph.register(app)
watch.register(app)
unlearn.register(app)
evaluate.register(app)
attack.register(app)
report.register(app)
history.register(app)
models.register(app)
train.register(app)
retrain.register(app)
adapter_care.register(adapters.app)
adapter_transfer.register(adapters.app)
app.add_typer(adapters.app, name="adapters")
bench_bags.register(bench.app)
bench_canary.register(bench.app)
bench_live.register(bench.app)
canary_run.register(canary.app)
app.add_typer(bench.app, name="bench")
app.add_typer(monitor.app, name="monitor")
app.add_typer(canary.app, name="canary")
app.add_typer(request.app, name="request")


def main() -> None:
    """Run the command; an error of ours is one line with code, value, limit and remedy, and exit status 1."""
    # The simulator renders without a display.
    os.environ.setdefault("MUJOCO_GL", "osmesa")
    try:
        app()
    except VlaForgetError as error:
        errors.print(f"[bold red]error[/] {error}", highlight=False, markup=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
