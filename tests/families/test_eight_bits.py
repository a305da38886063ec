"""Frozen weights kept in 8 bits: what is trained beside them gets the gradient of the rounded weights, exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vdistill.core.scope import Lora, lora_roles, merged, recomputed
from vdistill.families import memory
from vdistill.families.random_tiny import random_tiny
from vdistill.families.sd import SdFamily
from vdistill.families.stock import StockFamily
from vdistill.families.wan import WanFamily

FAMILIES: dict[str, tuple[type[StockFamily], int]] = {"wan": (WanFamily, 5), "sd15": (SdFamily, 1)}
each = pytest.mark.parametrize("variant", FAMILIES)


def family(variant: str, in_8_bits: bool) -> StockFamily:
    """With its weights rounded to 8 bits, and kept so or not."""
    kind, rounded = FAMILIES[variant][0], [kind_of(variant), kind_of(variant)]
    memory.store_in_8_bits(rounded[0].network_of().parts, torch.float32)
    assert kind is type(rounded[0])
    for small, whole in zip(*(f.network_of().parameters() for f in rounded), strict=True):
        whole.data = small.data.float()
    return rounded[0] if in_8_bits else rounded[1]


def kind_of(variant: str) -> StockFamily:
    return FAMILIES[variant][0](random_tiny(variant))


def trained(variant: str, in_8_bits: bool, twice: bool) -> tuple[StockFamily, dict[str, Tensor], Tensor]:
    """(family, gradient of a random adapter, what the student says)."""
    f = family(variant, in_8_bits)
    if twice:
        memory.checkpoint_gradients(f.network_of().parts, recomputed)
    roles = lora_roles(f.net, ["student"], Lora(4, targets=f.lora_targets))
    adapter, generator = roles.modules["student"].requires_grad_(True), torch.Generator().manual_seed(0)
    for p in adapter.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=generator)
    x = torch.randn(1, *f.codec.shape(FAMILIES[variant][1], 32, 32), generator=generator)
    says = roles.denoisers["student"].x0(x, torch.tensor([0.6]), f.text(["a red cat"]))
    says.square().mean().backward()
    return f, {name: p.grad for name, p in adapter.named_parameters() if p.grad is not None}, says.detach()


@each
@pytest.mark.parametrize("twice", [False, True], ids=["once", "recomputed"])
def test_an_adapter_gets_the_gradient_of_the_rounded_weights(variant: str, twice: bool) -> None:
    _, want, says = trained(variant, False, twice)
    f, found, said = trained(variant, True, twice)
    assert any(p.element_size() == 1 for p in f.network_of().parameters())
    assert torch.equal(said, says) and want.keys() == found.keys() and len(want) > 4
    assert all(torch.equal(found[name], gradient) for name, gradient in want.items())
    assert max(gradient.abs().max() for gradient in want.values()) > 0


@each
def test_the_merged_student_is_whole_again_and_stands_alone(variant: str) -> None:
    f, _, _ = trained(variant, True, False)
    plain = merged(f.net, "student")
    assert all(p.element_size() > 1 and p.device.type == "cpu" for p in plain.parameters())
    assert not any("forward" in module.__dict__ or "lora" in name for name, module in plain.named_modules())
    assert not {id(p) for p in plain.parameters()} & {id(p) for p in f.net.parameters()}
    small = {name for name, p in f.net.named_parameters() if p.element_size() == 1 and "base_layer" not in name}
    own, now = dict(f.net.named_parameters()), dict(plain.named_parameters())
    assert small and all(torch.equal(now[name].float(), own[name].float()) for name in small)
