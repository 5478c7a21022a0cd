"""What a channel is worth: taken out alone, and on average over all coalitions of the others.

The players are the channels that can be pruned and are on, as `pruning.groups` has them: channels that share a
mask are one player. v(S) is how well the network does with only the
channels S on. A channel's Shapley value is its marginal v(S + c) - v(S) averaged over the orders in which
channels can leave; it is estimated by walking random orders from the full network down, as in
Ghorbani and Zou, "Neuron Shapley" (NeurIPS 2020), with each order also walked backwards (antithetic pairs;
Mitchell et al., "Sampling Permutations for Shapley Value Estimation", JMLR 2022).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from sca_deploy.errors import UsageError, unknown_name
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
from sca_deploy.pruning.groups import channel_groups

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Player = tuple[str, int]
State = dict[str, Any]

VALUES: dict[str, Callable[[float, float], float]] = {
    "accuracy": lambda accuracy, loss: accuracy,
    "loss": lambda accuracy, loss: -loss,
}
"""v(S) from accuracy and loss; a wrong answer given with confidence can make the loss of a coalition huge."""


def ablation(network: SpikingNetwork, x: Pixels, y: Labels) -> list[dict[str, Any]]:
    """What the loss of each single channel costs.

    Args:
        network: masks and weights are the same afterwards.
        x: (N, *input_shape) or (N, T, *input_shape); all samples run as one batch, whose activations stay in memory.
        y: (N,).

    Returns:
        {"layer": the group's name, "channel", "accuracy_drop", "loss_increase"} for every channel that is on, in
        the order of the groups; both are negative where the network does better without it.
    """
    rows = []
    with MaskedRuns(network, x, y) as runs:
        whole_accuracy, whole_loss = runs.outcome()
        for layer, channel in runs.players:
            runs.switch((layer, channel), False)
            accuracy, loss = runs.outcome()
            runs.switch((layer, channel), True)
            drop = {"accuracy_drop": whole_accuracy - accuracy, "loss_increase": loss - whole_loss}
            rows.append({"layer": layer, "channel": channel, **drop})
    return rows


def sampled_shapley(
    network: SpikingNetwork,
    x: Pixels,
    y: Labels,
    permutations: int,
    seed: int,
    truncation: float = 0.0,
    *,
    value: str = "accuracy",
    state: State | None = None,
    progress: Callable[[State], None] | None = None,
) -> list[dict[str, Any]]:
    """Shapley values of all channels that are on, estimated from random orders.

    Without truncation the values sum to v(all) - v(none). With it, a walk ends once v of what is left is at most
    v(none) + truncation; the channels that are left get the marginal 0 in this walk.

    Args:
        network: masks and weights are the same afterwards.
        x: (N, *input_shape) or (N, T, *input_shape); all samples run as one batch, whose activations stay in memory.
        y: (N,).
        permutations: how many orders are walked in all, an even number.
        seed: fixes the orders.
        truncation: 0 walks every order to its end.
        value: a key of VALUES.
        state: what `progress` was last given, to continue from there; the result is the same as without the
            interruption. More permutations than before may be asked for.
        progress: called after each order with a state of plain values.

    Returns:
        {"layer": the group's name, "channel", "shapley", "standard_error"} for every channel that is on, in the
        order of the groups; the error, over the independent pairs of orders, is None where there is one pair only.

    Raises:
        UsageError: if permutations is odd or below 2, truncation negative, `value` unknown, or the state is of
            another network, samples, seed, truncation or value.
    """
    if permutations < 2 or permutations % 2:
        raise UsageError(f"permutations is {permutations}", "give an even number: orders are walked in pairs")
    if not truncation >= 0.0:
        raise UsageError(f"truncation is {truncation:g}, it must be 0 or more")
    if value not in VALUES:
        raise unknown_name("value of a coalition", value, VALUES)
    identity = _identity(network, x, y, seed, truncation, value)
    walked = _continued(state, identity)
    with MaskedRuns(network, x, y) as runs:
        runs.switch_all(False)
        stop = VALUES[value](*runs.outcome()) + truncation if truncation else -math.inf
        while len(walked) < permutations:
            order = np.random.default_rng([seed, len(walked) // 2]).permutation(len(runs.players))
            walked.append(_walk(runs, order[:: -1 if len(walked) % 2 else 1], stop, VALUES[value]))
            if progress is not None:
                progress({"identity": identity, "marginals": [list(marginals) for marginals in walked]})
        return _rows(runs.players, np.array(walked[:permutations]))


def _walk(
    runs: MaskedRuns, order: npt.NDArray[np.int64], stop: float, value: Callable[[float, float], float]
) -> list[float]:
    """Each player's marginal when they leave in this order, until no more than `stop` is left."""
    runs.switch_all(True)
    before = value(*runs.outcome())
    marginals = [0.0] * len(runs.players)
    for player in order.tolist():
        runs.switch(runs.players[player], False)
        after = value(*runs.outcome())
        marginals[player] = before - after
        before = after
        if after <= stop:
            break
    return marginals


def _rows(players: list[Player], walked: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
    pairs = walked.reshape(-1, 2, len(players)).mean(1)
    mean = pairs.mean(0).tolist()
    error = [None] * len(players) if len(pairs) == 1 else (pairs.std(0, ddof=1) / math.sqrt(len(pairs))).tolist()
    return [
        {"layer": layer, "channel": channel, "shapley": mean[i], "standard_error": error[i]}
        for i, (layer, channel) in enumerate(players)
    ]


def _identity(network: SpikingNetwork, x: Pixels, y: Labels, seed: int, truncation: float, value: str) -> str:
    digest = hashlib.sha256(repr((seed, truncation, value, x.shape)).encode())
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    for array in (x, y):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _continued(state: State | None, identity: str) -> list[list[float]]:
    if state is None:
        return []
    if state.get("identity") != identity:
        raise UsageError(
            "the interrupted Shapley estimate is of another network, samples, seed, truncation or value",
            "delete its state and start again",
        )
    return [list(marginals) for marginals in state["marginals"]]


class MaskedRuns:
    """Runs of a network on the same samples under changing masks; a context manager.

    A layer whose input and mask are those of the run before hands out its previous output, so that a change in
    a late layer costs only the layers from there on. Observers of a skipped layer are not called.

    Args:
        network: in evaluation mode inside the block; mode and masks come back after it.
        x, y: the samples, run as one batch.
    """

    def __init__(self, network: SpikingNetwork, x: Pixels, y: Labels) -> None:
        self._network = network
        device = next(network.parameters()).device
        self._x, self._y = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        timed = x.ndim > len(network.spec.input_shape) + 1
        self._steps = x.shape[1] if timed else network.spec.steps
        self._groups = {group.name: group for group in channel_groups(network)}
        self._masks = {name: group.mask.clone() for name, group in self._groups.items()}
        self.players: list[Player] = [
            (name, channel) for name, mask in self._masks.items() for channel in mask.nonzero().flatten().tolist()
        ]

    def __enter__(self) -> MaskedRuns:
        self._training = self._network.training
        self._network.eval()
        self._stack = ExitStack()
        for module in self._network.layers.values():
            # An attribute of the instance hides the method of the class until it is deleted.
            module.forward = _Reusing(module)
            self._stack.callback(delattr, module, "forward")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self.switch_all(True)
        self._network.train(self._training)

    def switch(self, player: Player, on: bool) -> None:
        """Set one channel's mask."""
        layer, channel = player
        for norm in self._groups[layer].norms:
            norm.mask[channel] = float(on)

    def switch_all(self, on: bool) -> None:
        """All players on, which is the network as it came, or all off."""
        for name, group in self._groups.items():
            group.set_mask(self._masks[name] * float(on))

    def outcome(self) -> tuple[float, float]:
        """Accuracy, and the cross-entropy of the logits' mean over time, as in training."""
        with torch.no_grad():
            logits = self._network(self._x)
            correct = (logits.argmax(1) == self._y).double().mean()
            return float(correct), float(F.cross_entropy(logits / self._steps, self._y))


class _Reusing:
    """The forward of a module that answers an unchanged input under an unchanged mask from memory."""

    def __init__(self, module: nn.Module) -> None:
        self._forward = module.forward
        self._norm = module if isinstance(module, MaskedBatchNorm) else None
        self._seen: tuple[torch.Tensor | int, ...] = ()
        self._output: torch.Tensor | None = None

    def __call__(self, *inputs: torch.Tensor | int) -> torch.Tensor:
        mask = () if self._norm is None else (self._norm.mask.clone(),)
        now = (*inputs, *mask)
        if self._output is None or len(now) != len(self._seen) or not all(map(_same, now, self._seen)):
            self._output = self._forward(*inputs)
        self._seen = now
        return self._output


def _same(a: torch.Tensor | int, b: torch.Tensor | int) -> bool:
    """Equal values; the same memory need not be read, as no layer writes into its input."""
    if isinstance(a, int) or isinstance(b, int):
        return bool(a == b)
    if a.shape != b.shape:
        return False
    return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)
