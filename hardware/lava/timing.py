"""How samples follow one another in one Lava run, and what the host has to do for it."""

from __future__ import annotations

from sca_deploy.hardware.program import Layer, Program


def period(program: Program, steps: int) -> int:
    """Run steps from the start of one sample to the start of the next.

    Samples of `steps` steps go back to back where a reset of the neurons gives each one a fresh start. Where
    spikes outlive a sample, each one runs to its end, and one more step brings every state to rest.
    """
    return steps + max(program.stages.values()) + 1 if program.carries else steps


def hosted(program: Program, layer: Layer) -> bool:
    """Whether the host writes the layer's bias while the network runs.

    It does so to inject an input, and where a layer has to rest until its stage has come: a bias would make it
    fire before, and in a network that carries spikes from step to step those would still arrive.
    """
    late = program.carries and program.stages[layer.name] > 0 and bool(layer.bias.any())
    return layer.injected or late
