"""`sca-deploy` in processes that begin with what is slow to import.

Most of what a short command costs is the import of torch, scikit-learn and matplotlib, and the tests run hundreds of
commands. A server imports these, and nothing of ours, and forks for each command. The fork imports our package and runs
the installed script, with arguments, folder, environment, input and outputs of its own, so a command is a process as
ever. Where its environment has Python or a library start otherwise, it gets a new interpreter. That a command imports
what it needs, and early nothing that is heavy, tests/test_house.py and tests/test_cli.py ask of the installed wheel,
which is never run here.

The file is three things. Imported, it starts the server and writes the command that asks it. Run with `serve SOCKET`,
it is the server, until its standard input ends. Run by that command, with `-I -S` so as to start at once, it asks.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from typing import NoReturn

STARTUP = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "LC_", "LANG", "LD_", "MPL")
"""How variables begin that are read when an interpreter starts or loads a library."""
SIZE = 8


def command() -> str:
    """The path of a `sca-deploy` that runs the installed one in a fork of the server, which is started once."""
    global _command
    if _command is None:
        _command = _start()
    return _command


_command: str | None = None


def _start() -> str:
    import atexit
    import subprocess
    import sysconfig
    import tempfile
    from pathlib import Path

    here = tempfile.TemporaryDirectory(prefix="sca-deploy-")
    asking, place = Path(here.name) / "sca-deploy", Path(here.name) / "socket"
    installed = Path(sysconfig.get_path("scripts")) / "sca-deploy"
    # Quoted for the shell, which also reads a path that is longer than a first line may be.
    words = (sys.executable, "-IS", os.path.abspath(__file__), "ask", str(place), str(installed))
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    asking.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n', encoding="utf-8")
    asking.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), "serve", str(place)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    select.select([server.stdout], [], [])  # until it listens, or has ended

    def stop() -> None:
        server.communicate()
        here.cleanup()

    atexit.register(stop)
    return str(asking)


def fixed(environment: dict[str, str]) -> dict[str, str]:
    """The part of an environment that an interpreter reads as it starts; where it differs, no fork will do."""
    return {name: value for name, value in environment.items() if name.startswith(STARTUP) and name != "PYTHONPATH"}


def serve(place: str) -> None:
    """Answer every caller at a socket in a fork, until standard input ends."""
    import gc

    import matplotlib.figure  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch

    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first optimiser imports half of torch
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all the memory that it shares
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(place)
        door.listen()
        print(flush=True)
        while door in select.select([door, sys.stdin], [], [])[0]:
            caller, _ = door.accept()
            if os.fork() == 0:
                door.close()
                answer(caller)
            caller.close()
            forget_those_that_ended()


def forget_those_that_ended() -> None:
    """Wait for every fork that has ended, and for no other."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def answer(caller: socket.socket) -> NoReturn:
    """Run what a caller asks for in a fork, and tell how it ended; it is killed when the caller is."""
    size, streams, _, _ = socket.recv_fds(caller, SIZE, 3)
    with caller.makefile("rb") as sent:
        arguments, folder, environment = json.loads(sent.read(int.from_bytes(size, "big")))
    if fixed(environment) != fixed(dict(os.environ)):
        caller.sendall(b"fresh")
        os._exit(0)
    child = os.fork()
    if child == 0:
        caller.close()
        become(arguments, folder, environment, streams)
        end(run(arguments[0]))
    ended = os.pidfd_open(child)
    if ended not in select.select([caller, ended], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    caller.sendall(b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def become(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """Be the process that was asked for."""
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0:1] = environment["PYTHONPATH"].split(os.pathsep) if "PYTHONPATH" in environment else []
    sys.argv = arguments


def run(script: str) -> int:
    """Run a script as Python does: its exit code."""
    import runpy
    import traceback

    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as asked:
        if asked.code is None or isinstance(asked.code, int):
            return asked.code or 0
        print(asked.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end(code: int) -> NoReturn:
    """End as Python does, but leave the memory to the system: to tidy up torch would take longer than a command."""
    import atexit
    import threading

    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def ask(place: str, arguments: list[str]) -> int:
    """Have a command run, and end as it ends."""
    request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(place)
        socket.send_fds(caller, [len(request).to_bytes(SIZE, "big")], [0, 1, 2])
        caller.sendall(request)
        said = caller.recv(SIZE)
    if said == b"fresh":
        os.execv(arguments[0], arguments)
    code = int(said)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__" and sys.argv[1] == "serve":
    serve(sys.argv[2])
elif __name__ == "__main__":
    sys.exit(ask(sys.argv[2], sys.argv[3:]))
