"""Spiking networks in torch: the neuron, its surrogate gradients, the layer spec and the module built from it."""
