"""Several processes that train one network together, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist


def active() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number; the one with 0 writes files."""
    return dist.get_rank() if active() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if active() else 1


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """Join the processes that `torchrun` started, if it started any: NCCL for tensors on GPUs, gloo for the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait() -> None:
    """Until every process is here."""
    if active():
        dist.barrier()


def summed(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each tensor summed over the processes; one message for all of them."""
    if not active() or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def averaged(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each tensor's mean over the processes."""
    return [tensor / size() for tensor in summed(tensors)]
