"""What an artefact was made from: versions, seed, config, hashes."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from sca_deploy import __version__
from sca_deploy.config import Config
from sca_deploy.files import sha256
from sca_deploy.hardware.chip import Chip

PACKAGES = ("torch", "numpy", "nir", "norse", "onnx", "onnxruntime", "h5py", "lava-nc", "lava-dl")


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what the numbers depend on; absent packages are left out."""
    found = {"sca-deploy": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def manifest(config: Config | None, chip: Chip, sources: dict[str, Path]) -> dict[str, Any]:
    """The document that goes with an artefact.

    Args:
        config: the resolved config, where there is one.
        chip: the chip it was made for.
        sources: files it was made from, by a name for each.
    """
    document: dict[str, Any] = {
        "versions": versions(),
        "chip": {"name": chip.name, "sha256": chip.sha256},
        "sources": {name: sha256(path) for name, path in sources.items()},
    }
    if config is not None:
        plain = config.to_plain()
        document |= {"seed": config.seed, "config": plain, "config_sha256": digest(plain)}
    return document


def digest(document: Any) -> str:
    """SHA-256 of a plain document, the same for equal documents."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
