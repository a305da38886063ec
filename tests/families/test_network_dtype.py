"""The type a network computes in, found without walking all of its layers."""

from __future__ import annotations

import pytest
import torch
from contract import REGISTERED

from vdistill.families import memory
from vdistill.families.random_tiny import NETWORKS, random_tiny
from vdistill.families.stock_net import dtype_of


@pytest.mark.parametrize("variant", REGISTERED)
def test_a_network_computes_in_what_the_library_says(variant: str) -> None:
    pipe = random_tiny(variant)
    for network in (getattr(pipe, name, None) for name in NETWORKS):
        if network is None:
            continue
        assert dtype_of(network) == network.dtype == torch.float32
        narrow = network.to(torch.bfloat16)
        assert dtype_of(narrow) == narrow.dtype == torch.bfloat16
        memory.store_in_8_bits({"network": narrow}, torch.bfloat16)
        assert any(weight.element_size() == 1 for weight in narrow.parameters())
        assert dtype_of(narrow) == narrow.dtype == torch.bfloat16


def test_what_is_kept_wide_does_not_count() -> None:
    network = random_tiny("wan").transformer
    network.to(torch.bfloat16)
    network.scale_shift_table.data = network.scale_shift_table.data.float()
    assert dtype_of(network) == network.dtype == torch.bfloat16
