"""The reference: Lava's own fixed-point network, run in a worker process and compared with the simulator.

Lava is archived and ends, hangs or leaks in-process, so nothing here imports it: `standalone/` holds the
scripts that do, run by path with whatever interpreter has Lava (see `client`).
"""
