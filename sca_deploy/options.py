"""What commands share: the options every one takes, and where results and progress go."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sca_deploy.console import Console

PATH = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Options:
    """What every command takes."""

    as_json: bool
    quiet: bool
    verbose: bool
    silent: bool = False
    """Whether another process of the same `torchrun` speaks for this one."""

    def console(self) -> Console:
        """Where progress goes."""
        from sca_deploy.console import Console

        return Console(self.quiet, self.verbose)

    def result(self, document: Any, text: str, hint: str = "") -> None:
        """The result on stdout: the document with --json, else the text and the next command."""
        from sca_deploy.console import write_result

        if self.silent:
            return
        if self.as_json:
            write_result(json.dumps(document, indent=2, allow_nan=False))
            return
        write_result(text)
        if hint and not self.quiet:
            self.console().say(f"next: {hint}")


def common(function: Callable[..., None]) -> Callable[..., None]:
    """--json, -q, -v and --debug, given to the command as `options`."""

    @click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress.")
    @click.option("-v", "--verbose", is_flag=True, help="More progress.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def command(*, as_json: bool, quiet: bool, verbose: bool, debug: bool, **rest: Any) -> None:
        # `main` reads --debug itself, so that it also holds for errors outside the command.
        silent = os.environ.get("RANK", "0") != "0"
        function(Options(as_json, quiet or silent, verbose, silent), **rest)

    return command


def reading(function: Callable[..., None]) -> Callable[..., None]:
    """What foreign files do not say."""
    function = click.option(
        "--calibrate", type=PATH, help=".npy of (samples, steps, *input shape): real input to search scales on."
    )(function)
    function = click.option("--num-layers", type=click.IntRange(1), help="Entries of a .net file to read.")(function)
    function = click.option(
        "--input-bits", type=click.IntRange(0, 16), help="Payload bits of input spikes; 0: binary."
    )(function)
    function = click.option("--steps", type=click.IntRange(1), help="Time steps a sample lasts.")(function)
    return neurons(function)


def neurons(function: Callable[..., None]) -> Callable[..., None]:
    """How the neurons of a .nir file step, where it does not say it."""
    options = [
        click.option("--dt", type=float, help="Time step in seconds of a .nir file."),
        click.option("--preset", help="Read a .nir file as nir, norse, snntorch, spikingjelly or sinabs does."),
        click.option("--reset", help="What a spike leaves: hard (v_reset) or subtract (v - threshold)."),
        click.option("--multi-spike/--single-spike", default=None, help="Whether a neuron may spike more than once."),
        click.option("--clamp", callback=_clamp, help="Lowest potential: a number, threshold (-v_threshold), none."),
        click.option("--tie", help="Whether v = threshold fires: gt (no) or ge (yes)."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _clamp(context: click.Context, parameter: click.Parameter, value: str | None) -> float | str | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def lava_option(function: Callable[..., None]) -> Callable[..., None]:
    """--lava-python."""
    return click.option(
        "--lava-python",
        type=str,
        help="Interpreter that has Lava; default $SCA_DEPLOY_LAVA_PYTHON, else this one.",
    )(function)


def budget_option(function: Callable[..., None]) -> Callable[..., None]:
    """--budget, given to the command as a table of limits; None without it."""
    return _budget_option("budget")(function)


def _budget_option(name: str) -> Callable[[Command], Command]:
    return click.option(
        "--budget",
        name,
        multiple=True,
        callback=_budget,
        help="Prune until it is inside: cores=32, words=, synops=, energy-nj= or step-us=; repeatable.",
    )


def _budget(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float] | None:
    from sca_deploy.budget import read_budget

    return read_budget(values) if values else None


def config_options(function: Callable[..., None]) -> Callable[..., None]:
    """A config and the flags that override it."""
    options = [
        click.argument("config", default="digits"),
        click.option("-o", "--output", type=PATH, help="Run folder; default runs/NAME."),
        click.option("--seed", type=int, help="Overrides seed."),
        click.option("--epochs", "train__epochs", type=int, help="Overrides train.epochs."),
        click.option("--keep", "prune__keep", type=float, help="Overrides prune.keep."),
        _budget_option("prune__budget"),
        click.option("--method", "prune__method", type=str, help="Overrides prune.method."),
        click.option("--score", "prune__score", type=str, help="Overrides prune.score."),
        click.option("--device", "train__device", type=str, help="Overrides train.device: cpu, cuda, auto."),
        click.option("--data-folder", "data__folder", type=str, help="Overrides data.folder."),
        click.option("--train-samples", "data__train_samples", type=int, help="Overrides data.train_samples."),
        click.option("--test-samples", "data__test_samples", type=int, help="Overrides data.test_samples."),
        click.option("--finetune", "lower__finetune", type=int, help="Overrides lower.finetune, epochs in integers."),
        click.option("--max-drop", "lower__max_drop", type=float, help="Overrides lower.max_drop, in points."),
        click.option("--chip", type=str, help="Overrides chip: a name or a .toml file."),
        click.option("--timeout", "verify__timeout", type=float, help="Overrides verify.timeout, in seconds."),
    ]
    for option in reversed(options):
        function = option(function)
    return function
