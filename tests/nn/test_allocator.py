import platform
import subprocess
import sys
from unittest import mock

import pytest

from sca_deploy.nn.allocator import keep_freed_memory

STEPS = """
import resource
import torch
from sca_deploy.nn.allocator import keep_freed_memory
assert keep_freed_memory()
def step():
    return [torch.ones(2_000_000) for _ in range(10)]
for _ in range(5):
    step()  # until the heap has its size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_nothing_happens_without_glibc():
    for known in (("musl", "1.2"), ("", "")):
        with mock.patch.object(platform, "libc_ver", return_value=known):
            assert not keep_freed_memory()
    with mock.patch.object(platform, "system", return_value="Darwin"):
        assert not keep_freed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_was_freed_is_not_fetched_from_the_system_again():
    # Without the setting it is mostly tens of thousands; the kernel's huge pages can hide it, so that is not asserted.
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 * 8_000_000 // 4096 / 10
