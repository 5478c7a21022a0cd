"""The command line. Results go to stdout, progress to stderr; heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sca_deploy import __version__
from sca_deploy.data_commands import data
from sca_deploy.errors import ScaDeployError, UsageError, unknown_name
from sca_deploy.evaluate_command import evaluate
from sca_deploy.options import PATH, Options, common, config_options, lava_option, reading
from sca_deploy.prune_command import prune
from sca_deploy.study_commands import study
from sca_deploy.sweep_command import sweep

if TYPE_CHECKING:
    from sca_deploy.artifact import Artifact
    from sca_deploy.config import Config
    from sca_deploy.hardware.chip import Chip
    from sca_deploy.pipeline import Job

INTERRUPTED = 130


class _Group(click.Group):
    """Answers an unknown command with the nearest one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown_name("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sca-deploy")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train a spiking network that prunes itself, and know what a Loihi 2 chip will make of it.

    \b
    sca-deploy run digits                            the whole pipe, dense and pruned
    sca-deploy export runs/digits --target loihi2    also: nir, onnx
    sca-deploy compare runs/digits/dense runs/digits/pruned
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command()
@config_options
@lava_option
@common
def run(options: Options, config: str, output: Path | None, lava_python: str | None, **flags: Any) -> None:
    """The whole pipe: train dense and pruned, compact, lower, simulate, export, verify, compare.

    CONFIG is a .toml file or the name of a recipe (digits, fashion). Repeat the command to continue
    after an interruption.
    """
    from sca_deploy import pipeline
    from sca_deploy.console import columns
    from sca_deploy.report.tables import comparison_table

    job = _job(options, config, output, flags, lava_python)
    document, failure = pipeline.run(job)
    files = f"{job.folder}/compare.json, {job.folder}/compare.png and {job.folder}/report.html"
    text = f"{comparison_table(document, columns())}\n\nwritten: {files}"
    options.result(document, text, "" if failure else f"sca-deploy map {job.folder}")
    if failure is not None:
        raise failure


@cli.command()
@config_options
@click.option("--arm", type=click.Choice(["pruned", "dense"]), default="pruned", help="With pruning, or without.")
@click.option("--resume", is_flag=True, help="Fail if there is nothing to continue.")
@common
def train(options: Options, config: str, output: Path | None, arm: str, resume: bool, **flags: Any) -> None:
    """Train one network, pruned by the config's method by default. Repeat the command to continue."""
    from sca_deploy import pipeline
    from sca_deploy.console import columns
    from sca_deploy.files import read_json
    from sca_deploy.report.budgets import fit_table
    from sca_deploy.train import read_log

    if arm == "dense" and flags["prune__budget"]:
        raise UsageError("--budget is kept by the pruned arm, --arm dense has none", "leave one of the two out")
    job = _job(options, config, output, flags, None)
    checkpoint = job.folder / arm / "train" / "checkpoint.pt"
    if resume and not checkpoint.exists():
        raise ScaDeployError(f"there is no {checkpoint} to continue", "leave --resume out to begin")
    pipeline.start(job, [arm])
    pipeline.trained(job, arm)
    last = read_log(job.folder / arm / "train")[-1]
    text = f"{job.folder}/{arm}: {last['epoch']} epochs, test accuracy {100 * last['test_accuracy']:.2f} % (measured)"
    if pipeline.arm_config(job.config, arm).prune.budget:
        last |= {"budget": read_json(job.folder / arm / "budget.json")}
        text = f"{text}\n\n{fit_table(last['budget'], columns())}"
    options.result(last, text, f"sca-deploy compact {job.folder}/{arm}")


@cli.command()
@click.argument("run", type=PATH)
@common
def compact(options: Options, run: Path) -> None:
    """Cut masked channels out of a trained network, and prove that it computes the same.

    RUN is a run folder, or one of its arms.
    """
    from sca_deploy import pipeline
    from sca_deploy.artifact import arm_folder
    from sca_deploy.files import read_json

    folder = arm_folder(run)
    job = _job_of(options, folder)
    pipeline.compact_arm(job, folder.name)
    proof = read_json(folder / "compaction.json")
    before, after = (sum(proof[side].values()) for side in ("before", "after"))
    text = f"{folder}/network.pt: {after} channels; {proof['spikes_compared']:,} spikes equal to the masked network's"
    options.result({"channels": after, "masked_network_on": before, **proof}, text, f"sca-deploy export {folder}")


@cli.command()
@click.argument("source", type=PATH)
@click.option("-t", "--target", default="loihi2", help="What to write; see `sca-deploy targets`.")
@click.option("-o", "--output", type=PATH, help="File or folder to write.")
@click.option("--chip", help="Chip the loihi2 target must fit; a name or a .toml file, default is the run's.")
@click.option("--profile", help="nir: whose readers it is for: portable (default), sinabs, spikingjelly, spyx, lava.")
@click.option("--allow-lossy", is_flag=True, default=None, help="nir: write the nearest, and say what differs.")
@click.option("--integers", is_flag=True, default=None, help="nir: the chip's integers, from which they come back.")
@click.option("--form", help="onnx: step (default), scan, unroll, or the chip's integers.")
@reading
@common
def export(
    options: Options,
    source: Path,
    target: str,
    output: Path | None,
    chip: str | None,
    profile: str | None,
    allow_lossy: bool | None,
    integers: bool | None,
    form: str | None,
    **flags: Any,
) -> None:
    """Write a network for a chip or another tool, and check what was written.

    SOURCE is a run, an arm, a .pt checkpoint or a .nir graph.
    """
    from sca_deploy.exporters.base import exporter
    from sca_deploy.pipeline import deployable

    asked = {"profile": profile, "allow_lossy": allow_lossy, "integers": integers, "form": form}
    chosen = {key: value for key, value in asked.items() if value is not None}
    writer = exporter(target, chosen)
    artifact = _open(source, flags)
    place = output or _default_output(artifact, target, writer.suffix, "-".join(_words(chosen)))
    exported = writer.export(deployable(artifact, _chip(artifact, chip), writer), place)
    document = {
        "target": target,
        "path": str(exported.path),
        "checks": [{"name": c.name, "max_difference": c.max_difference, "detail": c.detail} for c in exported.checks],
    }
    text = "\n".join([f"written: {exported.path}", *(f"  {check}" for check in exported.checks)])
    hint = ""
    if target in ("loihi2", "lava"):
        # The test set is found from a folder inside the run.
        input_ = "" if output is None and artifact.config else " --input x.npy"
        hint = f"sca-deploy verify {exported.path}{input_}"
    options.result(document, text, hint)


@cli.command()
@click.argument("source", type=PATH)
@click.option("--input", "input_path", type=PATH, required=True, help=".npy, (samples, steps, *input shape).")
@click.option(
    "--engine",
    type=click.Choice(["chip", "float"]),
    help="chip: the integers of a Loihi 2, the default; float: the graph as it is. A .onnx file runs in onnxruntime.",
)
@click.option("--record", default="spikes", help="Comma-separated: spikes, u, v; in floats spikes, v, values.")
@click.option("-o", "--output", type=PATH, default=Path("out.npz"), help=".npz to write.")
@reading
@common
def simulate(
    options: Options, source: Path, input_path: Path, engine: str | None, record: str, output: Path, **flags: Any
) -> None:
    """Run a network on the simulated chip, or in floats, and record every layer."""
    from sca_deploy import simulation

    wanted = _comma_separated(record)
    if source.suffix == ".onnx":
        document = simulation.in_onnxruntime(source, input_path, engine, wanted, output, flags)
    elif engine == "float":
        document = simulation.in_floats(_open(source, flags), input_path, wanted, output, options.console())
    else:
        document = simulation.on_chip(_open(source, flags), input_path, wanted, output, options.console())
    counted = (
        f"  {layer['name']}: {layer['spikes']:,} spikes"
        + (f", {layer['synops']:,} synaptic operations" if "synops" in layer else "")
        + f" ({document['label']})"
        for layer in document["layers"]
    )
    options.result(document, "\n".join((f"written: {output}", *counted)))


@cli.command()
@click.argument("source", type=PATH)
@click.option("--samples", type=click.IntRange(1), help="Test samples to compare; default 32, or all if fewer.")
@click.option("--input", "input_path", type=PATH, help="Use this .npy instead of the run's test set.")
@click.option("--states", is_flag=True, help="Compare u and v of every neuron and step as well.")
@click.option("--timeout", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Seconds.")
@lava_option
@common
def verify(
    options: Options,
    source: Path,
    samples: int | None,
    input_path: Path | None,
    states: bool,
    timeout: float,
    lava_python: str | None,
) -> None:
    """Compare the simulated chip with Lava's own simulator, spike for spike.

    SOURCE is a run, an arm or an exported loihi2 or lava folder.
    """
    from sca_deploy import verification
    from sca_deploy.console import columns
    from sca_deploy.report.tables import verification_table

    result = verification.verify_source(source, samples, input_path, states, timeout, lava_python)
    document = result.as_dict()
    text = f"{verification_table(document, columns())}\n\n{document['mismatches']} mismatches"
    hint = f"sca-deploy map {source}"
    if (run := verification.outdated_report(source)) is not None:
        hint = f"sca-deploy compare {run}/dense {run}/pruned --html {run}/report.html"
    options.result(document, text, "" if document["mismatches"] else hint)
    result.raise_on_mismatch()


@cli.command("map")
@click.argument("source", type=PATH)
@click.option("--chip", help="A chip's name or .toml file; default is the run's.")
@click.option("--chips", type=click.IntRange(1), help="Chips there are; default is the chip's largest system.")
@click.option("--system", help="System the network must fit, such as oheo-gulch, kapoho-point or hala-point.")
@click.option("--keep", help="Fractions of channels, comma-separated: what the network would take with so many.")
@click.option("--plot", type=PATH, help=".png of cores against the fraction of channels kept.")
@reading
@common
def map_(
    options: Options,
    source: Path,
    chip: str | None,
    chips: int | None,
    system: str | None,
    keep: str | None,
    plot: Path | None,
    **flags: Any,
) -> None:
    """How many neurocores each layer takes, what fills them, and what would save some."""
    from sca_deploy.console import Surface, columns
    from sca_deploy.hardware.floor_plan import floor_plan
    from sca_deploy.hardware.mapping import available, check_fits, map_program
    from sca_deploy.hardware.what_if import what_if
    from sca_deploy.report.floor import floor_text
    from sca_deploy.report.tables import mapping_table, what_if_table

    artifact = _open(source, flags)
    target = _chip(artifact, chip)
    if plot is not None and plot.suffix != ".png":
        raise UsageError(f"--plot {plot} does not end in .png", "only PNG pictures are made")
    available(target, chips, system)  # an unknown system is said before anything is worked out
    mapping = map_program(artifact.program, target)
    floor = floor_plan(artifact.program, mapping, target).as_dict()
    document = {"title": artifact.title, **mapping.as_dict(), "floor": floor}
    text = f"{mapping_table(document, columns())}\n\n{floor_text(floor, Surface.of_stdout())}"
    if keep is not None or plot is not None:
        narrower = what_if(artifact.program, target, _fractions(keep))
        document["what_if"] = narrower.as_dict()
        text = f"{text}\n\n{what_if_table(document['what_if'], columns())}"
        if plot is not None:
            from sca_deploy.report.narrowing import plot_what_if

            plot_what_if(plot, document["what_if"])
            text = f"{text}\n\nwritten: {plot}"
    options.result(document, text)
    check_fits(mapping, target, chips, system)


@cli.command()
@click.argument("dense", type=PATH)
@click.argument("pruned", type=PATH)
@click.option("--html", type=PATH, help="Also write a report to this .html file: one page, to open in a browser.")
@common
def compare(options: Options, dense: Path, pruned: Path, html: Path | None) -> None:
    """Two networks side by side: accuracy, spikes, synaptic operations, cores, energy.

    DENSE and PRUNED are arms of runs, such as runs/digits/dense and runs/digits/pruned.
    """
    from sca_deploy import pipeline
    from sca_deploy.console import columns
    from sca_deploy.report.tables import comparison_table

    if html is not None and html.suffix != ".html":
        raise UsageError(f"--html {html} does not end in .html", "only HTML pages are made")
    console = options.console()
    document, evaluations = pipeline.comparison(console, dense, pruned)
    text = comparison_table(document, columns(), pipeline.arms_compared(dense, pruned))
    if html is not None:
        pipeline.write_report(console, dense, pruned, document, html, evaluations)
        text = f"{text}\n\nwritten: {html}"
    options.result(document, text)


@cli.command()
@common
def targets(options: Options) -> None:
    """What `export` can write."""
    from sca_deploy.exporters.base import exporter, exporters

    found = {name: exporter(name).summary for name in exporters()}
    options.result(found, "\n".join(f"{name:8s} {summary}" for name, summary in found.items()))


@cli.command()
@click.argument("source", type=PATH)
@reading
@common
def inspect(options: Options, source: Path, **flags: Any) -> None:
    """The layers of a network, as floats know them and as the chip runs them."""
    from sca_deploy.console import columns
    from sca_deploy.report.inspection import described, described_text

    document = described(_open(source, flags))
    text = described_text(document, columns())
    options.result(document, text, f"sca-deploy map {source}" if document["layers"] else "")


@cli.command()
@lava_option
@common
def env(options: Options, lava_python: str | None) -> None:
    """Versions, and whether Lava can be used."""
    from sca_deploy.hardware.lava.client import lava_versions
    from sca_deploy.manifest import versions

    found: dict[str, str] = versions()
    try:
        lava = {"lava": "usable", **lava_versions(lava_python)}
    except ScaDeployError as error:
        lava = {"lava": f"not usable: {error.problem}", "install": error.fix}
    document = {**found, **lava}
    options.result(document, "\n".join(f"{name:14s} {value}" for name, value in document.items()))


cli.add_command(data)
cli.add_command(prune)
cli.add_command(evaluate)
cli.add_command(study)
cli.add_command(sweep)


def main() -> None:
    """Run the command line; errors become one line, a fix and an exit code."""
    debug = "--debug" in sys.argv
    try:
        cli.main(standalone_mode=False)
    except ScaDeployError as error:
        _fail(error.problem, error.fix, error.exit_code, debug)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context else "sca-deploy"
        _fail(error.format_message(), f"see {command} --help", error.exit_code, debug)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", "repeat the command to continue", INTERRUPTED, debug)
    except BrokenPipeError:
        # The reader of a pipe left; Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        _fail("out of memory", "use fewer samples", 1, debug)
    except OSError as error:
        _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", "", 1, debug)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        _fail(f"unexpected {type(error).__name__}: {reason}", "this is a defect; --debug shows where", 1, debug)


def _fail(problem: str, fix: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"error: {problem}\n" + (f"fix: {fix}\n" if fix else ""))
    sys.exit(code)


def _job(options: Options, source: str, output: Path | None, flags: dict[str, Any], lava_python: str | None) -> Job:
    from sca_deploy.config import anchored, load_config, override
    from sca_deploy.pipeline import Job

    flags = {key.replace("__", "."): value for key, value in flags.items()}
    if flags.get("prune.keep") is not None and flags.get("prune.budget"):
        raise UsageError("both --keep and --budget are given", "a budget says how much is to be left: leave --keep out")
    config = anchored(override(load_config(source), flags))
    return Job(config, output or Path("runs") / config.name, options.console(), lava_python)


def _job_of(options: Options, folder: Path) -> Job:
    from sca_deploy.config import Config
    from sca_deploy.files import read_json
    from sca_deploy.pipeline import Job

    path = folder.parent / "config.json"
    if not path.is_file():
        raise ScaDeployError(f"{folder} is not in a run", "give a run that `sca-deploy train` wrote, or its arm")
    config: Config = Config.from_plain(read_json(path))
    return Job(config, folder.parent, options.console())


def _open(source: Path, flags: dict[str, Any]) -> Artifact:
    from sca_deploy.artifact import Reading, open_artifact

    return open_artifact(source, Reading(**flags))


def _chip(artifact: Artifact, name: str | None) -> Chip:
    """The chip asked for, else the run's, else Loihi 2."""
    from sca_deploy.hardware.chip import load_chip

    return load_chip(name or (artifact.config.chip if artifact.config else "loihi2"))


def _words(chosen: dict[str, Any]) -> list[str]:
    return [value if isinstance(value, str) else key for key, value in chosen.items() if key != "allow_lossy"]


def _default_output(artifact: Artifact, target: str, suffix: str, options: str) -> Path:
    """Beside the source, and never over it: a run keeps its own graph in network.nir."""
    source = artifact.path
    if source.is_dir():
        stem = options or ("portable" if target == "nir" else "network")
        return source / (f"{stem}{suffix}" if suffix else target)
    if options and suffix:
        return source.with_name(f"{source.stem}-{options}{suffix}")
    place = source.with_suffix(suffix) if suffix else source.parent / target
    if place == source:
        raise UsageError(f"{place} would be written over itself", "give --output")
    return place


def _fractions(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        raise UsageError(f"--keep {text} does not hold fractions", "give --keep 0.8,0.5 or the like") from None


def _comma_separated(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise UsageError("--record names nothing", "give --record spikes,u,v or some of them")
    return parts


if __name__ == "__main__":
    main()
