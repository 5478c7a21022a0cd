"""Sweeps: a grid of trainings, run in this process or on a cluster, as one table and one picture."""
