"""What took long to decode, kept in a file for the next time."""

from __future__ import annotations

import logging
import zipfile
import zlib
from pathlib import Path

import numpy as np

from sca_deploy.data.dataset import Pixels
from sca_deploy.errors import ScaDeployError
from sca_deploy.files import atomic_path

log = logging.getLogger(__name__)


def recall(path: Path, key: str) -> tuple[Pixels, Pixels] | None:
    """The arrays (train, test) that were kept, if they are of this key and whole."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return (archive["train"], archive["test"]) if str(archive["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None


def keep(path: Path, key: str, arrays: tuple[Pixels, Pixels], what: str, compress: bool) -> None:
    """Keep `what`; a file that cannot be written is only logged."""
    write = np.savez_compressed if compress else np.savez
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            write(stream, key=np.array(key), train=arrays[0], test=arrays[1])
    except ScaDeployError as error:
        log.warning("%s are not kept for the next time: %s", what, error.problem)
