"""`sca-deploy data`: which data sets there are, getting them, and whether their files are sound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sca_deploy.errors import ScaDeployError, unknown_name
from sca_deploy.options import PATH, Options, common

if TYPE_CHECKING:
    from sca_deploy.console import Advance, Console
    from sca_deploy.data.catalogue import Entry
    from sca_deploy.data.dataset import Dataset
    from sca_deploy.data.fetch import Progress


@click.group()
def data() -> None:
    """List data sets, get them, check their files."""


@data.command("list")
@common
def list_(options: Options) -> None:
    """Every data set, and where it is found."""
    from sca_deploy.data.catalogue import CATALOGUE

    document = [_described(entry) for entry in CATALOGUE.values()]
    options.result(document, _table(document), "sca-deploy data fetch NAME")


@data.command()
@click.argument("name")
@click.option("--folder", type=PATH, help="Where to put it; default is the user's cache.")
@common
def fetch(options: Options, name: str, folder: Path | None) -> None:
    """Get a data set from where it is published.

    Repeat the command after an interruption, and the download continues where it stopped.
    """
    from sca_deploy.data.fetch import SOURCES
    from sca_deploy.data.fetch import fetch as fetch_archive
    from sca_deploy.data.places import cache_folder

    entry = _entry(name)
    files = _entry(entry.made_from or name)
    place = folder or cache_folder(files.name)
    problem = _problem(options.console(), entry, folder)
    fetched = False
    if problem is not None:
        for archive in SOURCES.get(files.name, ()):
            with _bytes_shown(options.console(), archive.file) as progress:
                fetched |= fetch_archive(archive, place, f"get it another way: {files.get} to {place}", progress)
        if not fetched:
            _raise(problem, entry.find(folder))
    where = _where(entry, folder)
    text = f"{name}: {where}" if fetched else f"{name}: {where}; nothing had to be fetched"
    hint = f"sca-deploy data check {name}" + (f" --folder {folder}" if folder else "")
    options.result({"name": name, "found": where, "fetched": fetched}, text, hint if fetched else "")


@data.command()
@click.argument("name")
@click.option("--folder", type=PATH, help="Where its files are; default is the user's cache.")
@click.option("--size", type=click.IntRange(0), default=0, help="As data.size; for images of several sizes.")
@common
def check(options: Options, name: str, folder: Path | None, size: int) -> None:
    """Read every file of a data set, and say what is wrong with the first bad one."""
    entry = _entry(name)
    dataset = _checked(options.console(), entry, folder, size)
    document = {
        "name": name,
        "found": _where(entry, folder),
        "frame": entry.frame if entry.timed else dataset.shape,
        "classes": dataset.classes,
        "train": len(dataset.train_y),
        "test": len(dataset.test_y),
        "checked": entry.checked,
    }
    samples = f"{document['train']:,} train and {document['test']:,} test samples"
    text = f"{name}: {samples} of {_frame(document['frame'])}, {dataset.classes} classes\nchecked: {entry.checked}"
    options.result(document, text)


def _entry(name: str) -> Entry:
    from sca_deploy.data.catalogue import CATALOGUE

    if name not in CATALOGUE:
        raise unknown_name("data set", name, CATALOGUE)
    return CATALOGUE[name]


def _checked(console: Console, entry: Entry, folder: Path | None, size: int) -> Dataset:
    """The set, read from its files even if a cache holds what was decoded from them."""
    from sca_deploy.data.image_files import load_listing

    if entry.made_from:
        return _checked(console, _entry(entry.made_from), folder, 0)
    if entry.timed:
        # One bin of one pixel: every event is read, and next to nothing is kept.
        return entry.load(folder, 1, 1)
    if entry.listing is None:
        return entry.load(folder, None, size)
    listing = entry.listing(folder)
    with console.progress(entry.name, len(listing.files)) as advance:
        return load_listing(listing, size, fresh=True, progress=lambda count: advance(count, "images"))


def _problem(console: Console, entry: Entry, folder: Path | None) -> ScaDeployError | None:
    """What keeps the set from being used, if anything does."""
    try:
        _checked(console, entry, folder, 0)
    except ScaDeployError as error:
        return error
    return None


def _raise(problem: ScaDeployError, place: Path | None) -> None:
    """Tell a problem that fetching did not mend: everything is in place."""
    if place is None or type(problem) is not ScaDeployError:
        raise problem
    raise ScaDeployError(problem.problem, f"delete {place} and repeat the command")


@contextmanager
def _bytes_shown(console: Console, title: str) -> Iterator[Progress]:
    """Progress of a download in MiB, as soon as its length is known."""
    with ExitStack() as stack:
        advance: Advance | None = None
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal advance, shown
            if advance is None and total:
                advance = stack.enter_context(console.progress(title, max(1, total >> 20)))
            if advance is not None:
                advance((done >> 20) - shown, "MiB")
                shown = done >> 20

        yield progress


def _where(entry: Entry, folder: Path | None) -> str | None:
    """Where a set is; None if it is not there."""
    found = entry.find(folder)
    return str(found) if found else entry.origin or None


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "frame": list(entry.frame) or None,
        "classes": entry.classes or None,
        "train": entry.train or None,
        "test": entry.test or None,
        "found": _where(entry, None),
    }


def _table(document: list[dict[str, Any]]) -> str:
    """The list of sets for a terminal; paths are not cut off."""
    rows = [("set", "frame", "classes", "train", "test", "where")]
    for entry in document:
        counts = tuple(f"{entry[key]:,}" if entry[key] else "-" for key in ("classes", "train", "test"))
        rows.append((entry["name"], _frame(entry["frame"]), *counts, entry["found"] or "missing"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  "
        f"{row[4]:>{widths[4]}}  {row[5]}"
        for row in rows
    )


def _frame(shape: Any) -> str:
    return " x ".join(map(str, shape)) if shape else "-"
