"""Run notebooks from top to bottom and keep what they print: `python notebooks/refresh.py [FILE.ipynb ...]`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

TIMEOUT = 240
"""Seconds that one cell may take."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""All that a kept notebook says about where it ran."""
APART = ("SCA_DEPLOY_SHARED_DATA", "SCA_DEPLOY_DATA")
"""Variables that name data of one machine: what is kept is what everybody gets."""


def executed(path: Path, **variables: str) -> NotebookNode:
    """The notebook as a fresh kernel of this interpreter leaves it, run in a folder of its own.

    Args:
        path: the notebook, which is not changed.
        variables: of the environment, for this run.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        # Only ipykernel's own "python3", which is this interpreter; an installed one may be another.
        # Sockets that are files: no port is opened, so nobody else can listen.
        specs = KernelSpecManager(kernel_dirs=[])
        kernel = AsyncKernelManager(kernel_spec_manager=specs, transport="ipc", ip=f"{folder}/kernel")
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, km=kernel, timeout=TIMEOUT, coalesce_streams=True, resources=resources)
        asyncio.run(client.async_execute(env=_environment(folder) | variables, cleanup_kc=True))
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})  # when each cell ran
    return notebook


def _environment(folder: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in APART}
    return kept | {"OMP_NUM_THREADS": "1", "SCA_DEPLOY_DATA": folder, "IPYTHONDIR": folder}


if __name__ == "__main__":
    for file in [Path(name) for name in sys.argv[1:]] or sorted(Path(__file__).parent.glob("*.ipynb")):
        nbformat.write(executed(file), file)
        print(f"kept: {file.name}")
