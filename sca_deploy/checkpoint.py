"""Networks in files: plain values and tensors only, so that nothing is ever unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sca_deploy.errors import ScaDeployError
from sca_deploy.files import atomic_path
from sca_deploy.nn.graph_document import graph_document, network_of
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec
from sca_deploy.pruning.group import Network

FORMAT = "sca-deploy network 1"


def save_network(path: str | Path, network: Network, **extra: Any) -> None:
    """Write a network, and whatever plain values and tensors go with it, atomically."""
    described: dict[str, Any] = {}
    if isinstance(network, GraphNetwork):
        described["graph"] = graph_document(network)
    else:
        described["spec"] = network.spec.to_plain()
    document = {"format": FORMAT, **described, "state": network.state_dict(), **extra}
    with atomic_path(path) as temporary:
        torch.save(document, temporary)


def load_trained(path: str | Path) -> SpikingNetwork:
    """The network of a file that was made of layers, not brought as a graph.

    Raises:
        ScaDeployError: if it was brought, or as `load_network`.
    """
    network = load_network(path)[0]
    if not isinstance(network, SpikingNetwork):
        raise ScaDeployError(f"{path} holds a network that was brought as a graph", "give one that was trained here")
    return network


def load_network(path: str | Path) -> tuple[Network, dict[str, Any]]:
    """The network of a file in evaluation mode, and the document it came in.

    Raises:
        ScaDeployError: if the file is missing, truncated, of another format or holds NaN.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ScaDeployError(f"{path} is not a sca-deploy network", "give a .pt file that train or compact wrote")
        network = (
            network_of(document["graph"])
            if "graph" in document
            else SpikingNetwork(NetworkSpec.from_plain(document["spec"]))
        )
        network.load_state_dict(document["state"])
    except ScaDeployError:
        raise
    except FileNotFoundError as error:
        raise ScaDeployError(f"no such file: {path}") from error
    except Exception as error:
        # torch reports damage in many ways: RuntimeError, UnpicklingError, EOFError, KeyError, ...
        reason = (str(error).splitlines() or [""])[0]
        raise ScaDeployError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}: {reason[:120]})",
            "train again, or restore the file from a copy",
        ) from error
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ScaDeployError(f"{path}: '{name}' holds NaN or infinite values", "train again with a lower train.lr")
    return network.eval(), document
