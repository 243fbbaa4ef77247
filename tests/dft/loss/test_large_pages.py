"""Whether Linux does what it is asked."""

from pathlib import Path

import pytest
import torch

from verl.dft.loss.large_pages import SMALLEST, prefer_large_pages

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_bytes() -> int:
    line = next(x for x in Path("/proc/self/smaps_rollup").read_text().splitlines() if x.startswith("AnonHugePages"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not SWITCH.exists() or "[madvise]" not in SWITCH.read_text(), reason="large pages not on request")
def test_a_large_tensor_gets_large_pages_and_a_small_one_is_left_alone():
    small, large = torch.empty(SMALLEST // 8), torch.empty(4 * SMALLEST // 4)
    before = large_bytes()
    for tensor in (small, large):
        prefer_large_pages(tensor)
        tensor.fill_(1.0)
    assert large_bytes() - before >= 3.5 * SMALLEST
    assert (large == 1).all()
