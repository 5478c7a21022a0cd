"""A seal on what is written: the SHA-256 of the file, kept in its own metadata.

onnxruntime trusts the files it loads: a flipped bit can change a weight unseen, ask for any amount of memory or end the
process. So only a file whose bytes are those written is given to it. The seal is taken over the bytes with 64 zeros
in its own place; it says nothing about who wrote the file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from sca_deploy.errors import ScaDeployError

if TYPE_CHECKING:
    import onnx

KEY = "sha256"
SIZE_MAX = (1 << 31) - 1
"""Bytes that a file of protocol buffers can have."""
_OPEN = b"0" * 64
_PREFIX = b"\n" + bytes([len(KEY)]) + KEY.encode() + b"\x12\x40"
"""How a protocol buffer begins a metadata entry of that key with a value of 64 bytes."""
EXPORT_AGAIN = "export it again; an ONNX file of other origin runs with onnxruntime itself"


def sealed(model: onnx.ModelProto) -> bytes:
    """The bytes of a model with its seal added to the metadata.

    Raises:
        ScaDeployError: if it is larger than a file of this format can be.
    """
    if model.ByteSize() + 128 > SIZE_MAX:
        raise ScaDeployError(f"the ONNX model has {model.ByteSize():,} bytes, the format holds {SIZE_MAX:,}")
    model.metadata_props.add(key=KEY, value=_OPEN.decode())
    content: bytes = model.SerializeToString(deterministic=True)
    place = content.rfind(_PREFIX + _OPEN) + len(_PREFIX)
    return content[:place] + hashlib.sha256(content).hexdigest().encode() + content[place + len(_OPEN) :]


def unsealed(path: Path) -> bytes:
    """The bytes of a file whose seal holds.

    Raises:
        ScaDeployError: if it is missing, too large, without a seal or not what was written.
    """
    try:
        if path.stat().st_size > SIZE_MAX:
            raise ScaDeployError(f"{path} has {path.stat().st_size:,} bytes, an ONNX file holds {SIZE_MAX:,}")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ScaDeployError(f"no such file: {path}") from error
    except OSError as error:
        raise ScaDeployError(f"cannot read {path}: {error.strerror or error}") from error
    place = content.rfind(_PREFIX) + len(_PREFIX)
    seal = content[place : place + len(_OPEN)]
    if place < len(_PREFIX) or len(seal) < len(_OPEN):
        raise ScaDeployError(f"{path} was not written by sca-deploy, or is incomplete", EXPORT_AGAIN)
    if hashlib.sha256(content[:place] + _OPEN + content[place + len(_OPEN) :]).hexdigest().encode() != seal:
        raise ScaDeployError(f"{path} is damaged, or was changed after it was written", EXPORT_AGAIN)
    return content
