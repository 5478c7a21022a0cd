"""sca-deploy: train a spiking network that prunes itself, and know what a Loihi 2 chip will make of it.

Importing this package imports neither torch nor Lava; the sub-packages do when they are used.
"""

__version__ = "0.1.0"
