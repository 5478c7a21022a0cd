"""A package by name, so that `tests` means these and not the package of that name in Lava's wheels."""
