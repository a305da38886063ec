"""DMD2 on one frozen base: two adapters learn, base and teacher stay as they were, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import same_tensors, shapes_source, tiny_family

from vdistill.core.engine import Engine
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.inputs import Generated, Simulated
from vdistill.core.optim import OptimSpec
from vdistill.core.scope import Lora, Roles, lora_roles
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.heads import TokenHeads
from vdistill.discriminators.look import Taps
from vdistill.families.tiny import TinyFamily
from vdistill.methods.dmd2 import Dmd2, Dmd2Config


def shared_base(out: Path, gan: bool) -> tuple[Engine, TinyFamily, Roles]:
    family = tiny_family()
    roles = lora_roles(family.net, ("student", "critic"), Lora(rank=4))
    student, critic = roles.denoisers["student"], roles.denoisers["critic"]
    heads = TokenHeads([16])
    terms = [Adversarial(Taps(critic, (1,)), family.net.schedule, heads, 1.0, 1.0)] if gan else []  # type: ignore[arg-type]
    method = Dmd2(
        Dmd2Config(2), Guided(roles.teacher, cfg(2.0)), student, critic, roles.modules,
        Generated(Simulated((1.0, 0.5))), terms,
    )  # fmt: skip
    spec = {n: OptimSpec(lr=1e-2) for n in method.learners}
    return Engine(method, shapes_source(family), spec, out, steps=4), family, roles


def weights(module: nn.Module, adapters: bool = True) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items() if adapters or "lora_" not in k}


@pytest.mark.parametrize("gan", [False, True], ids=["plain", "gan"])
def test_a_turn_moves_one_adapter_and_nothing_else(tmp_path: Path, gan: bool) -> None:
    engine, family, roles = shared_base(tmp_path, gan)
    batch = engine.source(0, 0)
    for learner, other in (("student", "critic"), ("critic", "student"), ("student", "critic")):
        base, mine, theirs = weights(family.net, False), weights(roles.modules[learner]), weights(roles.modules[other])
        engine._update(learner, [0], [batch])
        assert same_tensors(base, weights(family.net, False)) and same_tensors(theirs, weights(roles.modules[other]))
        assert not same_tensors(mine, weights(roles.modules[learner]))


def test_without_adapters_the_trained_network_is_the_teacher(tmp_path: Path) -> None:
    engine, _, roles = shared_base(tmp_path, gan=False)
    engine.run()
    untouched, batch = tiny_family(), engine.source(9, 0)
    t = torch.tensor([0.4, 0.9])
    with torch.no_grad():
        said, right = (net.x0(batch.x, t, batch.cond) for net in (roles.teacher, untouched.net))
        student, critic = (roles.denoisers[n].x0(batch.x, t, batch.cond) for n in ("student", "critic"))
    assert torch.equal(said, right)
    assert not torch.equal(student, right) and not torch.equal(critic, right) and not torch.equal(student, critic)


def test_checkpointed_adapters_get_the_gradients_of_plain_ones() -> None:
    from vdistill.core.scope import recomputed
    from vdistill.families.memory import checkpoint_gradients

    grads = []
    for twice in (False, True):
        torch.manual_seed(0)
        family = tiny_family()
        if twice:
            checkpoint_gradients(family.network_of().parts, recomputed)
            family.network_of().train()
        roles = lora_roles(family.net, ["student", "critic"], Lora(4))
        for number, module in enumerate(roles.modules.values()):
            for n, p in enumerate(module.parameters()):
                torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(1000 * number + n))
        roles.modules["student"].requires_grad_(True)
        if twice:
            family.network_of().model.train()
        x, t = torch.randn(1, 768, 2, 2, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0.5])
        cond = family.text(["a red square"])
        own = roles.denoisers["student"].x0(x, t, cond)
        roles.denoisers["critic"].x0(x, t, cond)  # another role answers before the backward pass
        own.square().mean().backward()
        grads.append([p.grad.clone() for p in roles.modules["student"].parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*grads, strict=True))
    assert max(g.abs().max() for g in grads[0]) > 1e-6


def test_a_checkpointed_block_meets_the_seam_it_met_forward() -> None:
    from vdistill.core.attention import full
    from vdistill.core.scope import recomputed
    from vdistill.families.memory import checkpoint_gradients

    def blind(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: object, **more: object) -> Tensor:
        return full(layer, q, k * 0, v, None)

    grads = []
    for twice in (False, True):
        family = tiny_family()
        if twice:
            checkpoint_gradients(family.network_of().parts, recomputed)
        x, t = torch.randn(1, 768, 2, 2, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0.5])
        family.net.x0(x, t, family.text(["a red square"]), attend=blind).square().mean().backward()
        grads.append([p.grad.clone() for p in family.net.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*grads, strict=True))
