"""Networks in files: plain values and tensors only, so that nothing is ever unpickled."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.slayer import refuse_state
from sca_deploy.files import atomic_path
from sca_deploy.nn.graph_document import graph_document, network_of
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec
from sca_deploy.pruning.group import Network

FORMAT = "sca-deploy network 1"
_GIVE = "give a .pt file that train or compact wrote"


def save_network(path: str | Path, network: Network, **extra: Any) -> None:
    """Write a network, and whatever plain values and tensors go with it, atomically."""
    described: dict[str, Any] = {}
    if isinstance(network, GraphNetwork):
        described["graph"] = graph_document(network)
    else:
        described["spec"] = network.spec.to_plain()
    document = {"format": FORMAT, **described, "state": network.state_dict(), **extra}
    packed = io.BytesIO()  # torch's own way to a file tells of a full disk in its own words
    torch.save(document, packed)
    with atomic_path(path) as temporary:
        temporary.write_bytes(packed.getbuffer())


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
        _check_archive(Path(path))
        document = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(document, dict):
            refuse_state(document, path)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ScaDeployError(f"{path} is not a sca-deploy network", _GIVE)
        _check_tensors(document, str(path))
        network = network_of(document["graph"]) if "graph" in document else _of_layers(document, path)
        _check_state(network.state_dict(), document["state"], path)
        network.load_state_dict(document["state"])
    except ScaDeployError:
        raise
    except FileNotFoundError as error:
        raise ScaDeployError(f"no such file: {path}") from error
    except pickle.UnpicklingError as error:
        raise ScaDeployError(
            f"{path} is damaged, or holds objects other than numbers and text, which are never loaded",
            "restore the file from a copy",
        ) from error
    except Exception as error:
        # torch reports damage in many ways: RuntimeError, UnpicklingError, EOFError, KeyError, ...
        reason = (str(error).splitlines() or [""])[0]
        raise ScaDeployError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}: {reason[:120]})",
            "restore it from a copy, or delete it and repeat the command that wrote it",
        ) from error
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ScaDeployError(f"{path}: '{name}' holds NaN or infinite values", "train again with a lower train.lr")
    return network.eval(), document


def _check_archive(path: Path) -> None:
    """Refuse what torch would read in older ways, and archives that grow when they are unpacked.

    torch itself does not compare checksums, so a flipped bit of a weight would pass.

    Raises:
        ScaDeployError: if the file is no zip archive of plainly stored members, or a checksum is wrong.
        zipfile.BadZipFile: if its list of members is damaged.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            raise ScaDeployError(f"{path} is damaged or not a checkpoint (it is no zip archive)", _GIVE)
        stream.seek(0)
        with zipfile.ZipFile(stream) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ScaDeployError(f"{path} is a compressed archive, which no network is")
            damaged = archive.testzip()
    if damaged is not None:
        raise ScaDeployError(f"{path}: '{damaged}' is damaged, its checksum is wrong", "restore the file from a copy")


def _check_tensors(value: Any, path: str) -> None:
    """Refuse tensors that are larger than what the file holds of them: views that repeat, sparse ones."""
    if isinstance(value, dict):
        for inner in value.values():
            _check_tensors(inner, path)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_tensors(inner, path)
    elif isinstance(value, torch.Tensor) and (
        value.layout is not torch.strided or value.numel() > value.untyped_storage().nbytes() // value.element_size()
    ):
        raise ScaDeployError(f"{path} claims a tensor of {value.numel()} values, more than it holds")


def _of_layers(document: dict[str, Any], path: str | Path) -> SpikingNetwork:
    """The network of a spec, built once it is known that it is no larger than its state."""
    spec, state = NetworkSpec.from_plain(document["spec"]), document["state"]
    with torch.device("meta"):
        expected = SpikingNetwork(spec).state_dict()
    _check_state(expected, state, path)
    return SpikingNetwork(spec)


def _check_state(expected: dict[str, torch.Tensor], state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Refuse values of other shapes or types, which torch would report at length or convert."""
    for name, value in expected.items():
        found = state[name]
        if (found.shape, found.dtype) != (value.shape, value.dtype):
            given, wanted = (f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for t in (found, value))
            raise ScaDeployError(f"{path}: '{name}' is {given}, the network has {wanted}", "train again")
