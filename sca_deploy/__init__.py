"""sca-deploy: train a spiking network that prunes itself, and know what a Loihi 2 chip will make of it.

    import sca_deploy as sd

    net = sd.load("x.nir", dt=1e-4, reset="hard", steps=4)
    digits = sd.dataset("digits")
    small = sd.prune(net, digits, keep=0.3)
    art = sd.export(small, "loihi2")
    sd.verify(art)

Importing this package imports neither torch nor Lava; the names of `sca_deploy.api` do when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sca_deploy.errors import ScaDeployError

if TYPE_CHECKING:
    from sca_deploy.api import (
        Data,
        accuracy,
        comparison,
        dataset,
        export,
        load,
        lower,
        map,
        prune,
        save,
        simulate,
        to_nir,
        verify,
    )

__version__ = "0.1.0"

__all__ = [
    "Data",
    "ScaDeployError",
    "__version__",
    "accuracy",
    "comparison",
    "dataset",
    "export",
    "load",
    "lower",
    "map",
    "prune",
    "save",
    "simulate",
    "to_nir",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from sca_deploy import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
