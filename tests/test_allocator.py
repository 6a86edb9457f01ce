"""Freed memory is kept, so that its pages are not faulted in anew."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from lisa_backbone.allocator import keep_freed_memory
if sys.argv[1] == 'keep':
    assert keep_freed_memory()
for turn in range(11):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(64 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='for glibc')
def test_kept_memory_is_not_faulted_in_again():
    faults = {
        how: int(subprocess.run([sys.executable, '-c', FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ('keep', 'default')
    }
    assert faults['default'] > 10_000  # 10 blocks of 16,384 pages
    assert faults['keep'] < 1_000
