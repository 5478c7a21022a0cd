"""Where data sets are looked for, and the answer when one is not there.

The folder the user names is the only one searched; without one it is the set's own place, $SCA_DEPLOY_DATA/<name>
or else <user cache>/sca-deploy/<name>, and then the operating system's, if its packages hold the set.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sca_deploy.errors import ScaDeployError

AGAIN = "get the set again, or name the folder that holds it"
"""How to mend a damaged file."""


def cache_folder(name: str) -> Path:
    """Where a set is kept: $SCA_DEPLOY_DATA/<name>, else the user's cache (XDG)."""
    if root := os.environ.get("SCA_DEPLOY_DATA"):
        return Path(root).expanduser() / name
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "sca-deploy" / name


def find(
    name: str, folder: Path | None, inside: Callable[[Path], Path | None], system: Path | None = None
) -> Path | None:
    """The folder to read.

    Args:
        name: of the set.
        folder: the one the user named, if any.
        inside: given a folder, where the set lies in it; None if it does not.
        system: where the operating system's package puts it, if there is one.
    """
    places = (inside(candidate) for candidate in _searched(name, folder, system))
    return next((place for place in places if place is not None), None)


def missing(name: str, folder: Path | None, get: str, system: Path | None = None) -> ScaDeployError:
    """The error for a set that `find` did not find, saying how to get it."""
    places = " or ".join(str(place) for place in _searched(name, folder, system))
    return ScaDeployError(f"data set '{name}' is not in {places}", how_to_get(name, folder, get))


def how_to_get(name: str, folder: Path | None, get: str) -> str:
    """The two ways to a set.

    Args:
        name: of the set.
        folder: the one the user named, if any.
        get: the way without `data fetch`, up to the folder that holds the files then.
    """
    option = f" --folder {folder}" if folder else ""
    return f"run `sca-deploy data fetch {name}{option}`; without internet {get} to {folder or cache_folder(name)}"


def _searched(name: str, folder: Path | None, system: Path | None) -> list[Path]:
    return [folder] if folder else [cache_folder(name), *([system] if system else [])]
