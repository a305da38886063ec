"""Every published family on tiny random weights of its stock classes: exact against the stock pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contract import CLOSE, REGISTERED, Case, apart, case, family_name
from torch import Tensor

from vdistill.app.build import make_method, make_roles, optim_of
from vdistill.app.catalog import FAMILIES
from vdistill.app.generate import Plan, guided, latents
from vdistill.app.schema import Config
from vdistill.core.attention import full
from vdistill.core.engine import Cadence, Engine, Report
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.scope import Lora, lora_roles, merged, recomputed
from vdistill.core.step import Batch
from vdistill.families import memory

every = pytest.mark.parametrize("variant", REGISTERED)


def test_every_family_of_the_catalog_is_under_contract() -> None:
    assert {family_name(v) for v in REGISTERED} == set(FAMILIES) - {"tiny", "analytic"}


@every
def test_the_noise_path_is_the_schedulers_at_every_timestep(variant: str) -> None:
    family = case(variant).family
    scheduler, path = family.pipe.scheduler, family.clock.schedule
    if path.kind == "rf":
        steps = torch.arange(1, family.clock.steps + 1, dtype=torch.float64)
        alpha, sigma = path.alpha_sigma(family.clock.time(steps))
        assert apart(sigma, steps / family.clock.steps) == 0 and apart(alpha, 1 - steps / family.clock.steps) < 1e-12
        return
    steps = torch.arange(family.clock.steps)
    alpha, _ = path.alpha_sigma(family.clock.time(steps))
    assert apart(alpha, scheduler.alphas_cumprod.clamp_min(0).sqrt()) < 1e-3  # float32 tables, some with a floor
    assert apart(alpha[:-1], scheduler.alphas_cumprod[:-1].sqrt()) < 1e-5
    assert torch.equal(family.clock.told(family.clock.time(steps)), steps.float())


@every
def test_guided_sampling_is_the_stock_pipelines(variant: str) -> None:
    c = case(variant)
    ours = c.ours(5)
    assert ours.isfinite().all()
    if c.call["output_type"] == "latent":
        assert apart(c.family.pack(ours), c.stock(5)) <= CLOSE
    else:
        pixels = (c.family.codec.decode(ours)[:, :, 0] + 1) / 2
        assert apart(pixels, c.stock(5).reshape(pixels.shape)) <= CLOSE


@every
def test_the_seam_sees_every_layer_and_changes_nothing(variant: str) -> None:
    c, seen = case(variant), []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, **more: Any) -> Tensor:
        seen.append(layer)
        return full(layer, q, k, v, rope, **more)

    t = torch.tensor([0.95])
    want = c.family.net.x0(c.noise(), t, c.cond)
    assert apart(c.family.net.x0(c.noise(), t, c.cond, attend=attend), want) <= CLOSE
    assert seen and sorted(set(seen)) == list(range(max(seen) + 1))


@every
def test_taps_are_tokens_of_the_width_they_say(variant: str) -> None:
    c = case(variant)
    network = c.family.network_of()
    layers = list(range(len(network.blocks())))
    found = c.family.net.taps(c.noise(), torch.tensor([0.5]), c.cond, layers)
    for layer, features in zip(layers, found, strict=True):
        assert features.ndim == 3 and len(features) == 1 and features.shape[2] == network.width(layer)
        assert features.isfinite().all()


@every
def test_a_student_opens_in_its_stock_pipeline_and_samples_the_same(variant: str, tmp_path: Path) -> None:
    c, times = case(variant), (1.0, 0.75, 0.4)
    if c.family.guided_by == "label":
        times = (0.999, 0.75, 0.4)
    c.family.save(c.family.net, tmp_path / "student", times)
    back = type(c.family).load(tmp_path / "student")
    assert back.times == times
    x, t = c.noise(), torch.tensor([0.6])
    assert apart(back.net.x0(x, t, c.cond), c.family.net.x0(x, t, c.cond)) <= CLOSE
    scale = c.scale if c.family.guided_by == "guidance" else 1.0
    ours = latents(back, guided(back, back.net, scale), c.noise(), c.cond, Plan(), times)
    opened = Case(variant, back, c.call, c.shape, c.text, c.image)
    plain = {"guidance_scale": scale} if "guidance_scale" in c.call else {}
    if hasattr(back.pipe, "guider"):
        back.pipe.guider.guidance_scale = 1.0
    stock = opened.stock(7, **plain)  # the number asked for does not matter
    if c.call["output_type"] == "latent":
        assert apart(back.pack(ours), stock) <= CLOSE
    else:
        pixels = (back.codec.decode(ours)[:, :, 0] + 1) / 2
        assert apart(pixels, stock.reshape(pixels.shape)) <= CLOSE


@every
def test_adapters_go_out_and_in_through_the_stock_loader(variant: str, tmp_path: Path) -> None:
    c = case(variant)
    base = sum(p.numel() for p in c.family.network_of().parameters())
    roles = lora_roles(c.family.net, ["student", "critic"], Lora(2, None, c.family.lora_targets))
    adapters = sum(p.numel() for m in roles.modules.values() for p in m.parameters())
    held = {p.data_ptr(): p.numel() for p in c.family.network_of().parameters()}
    assert sum(held.values()) == base + adapters  # one base for teacher, student and critic
    for n, p in enumerate(roles.modules["student"].parameters()):
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(n))
    tensors = {k.removeprefix("net."): v.contiguous() for k, v in roles.modules["student"].tensors().items()}  # type: ignore[operator]
    x, t = c.noise(), torch.tensor([0.9])
    teacher, student = roles.teacher.x0(x, t, c.cond), roles.denoisers["student"].x0(x, t, c.cond)
    assert apart(merged(c.family.net, "student").x0(x, t, c.cond), student) <= CLOSE
    assert (student - teacher).abs().max() > 1e-4
    fresh = case(variant)
    assert apart(fresh.family.net.x0(x, t, c.cond), teacher) <= CLOSE
    fresh.family.load_adapter(tensors, tmp_path)
    assert apart(fresh.family.net.x0(x, t, c.cond), student) <= CLOSE


METHODS = {
    "flow": {"name": "flow"},
    "guidance": {"name": "guidance", "scale_low": 2.0, "scale_high": 6.0},
    "lcm": {"name": "lcm", "teacher_steps": 8},
    "dmd2": {"name": "dmd2", "steps": 2, "critic_per_student": 1},
}


@every
@pytest.mark.parametrize("name", METHODS)
def test_a_method_moves_the_student_and_nothing_else(variant: str, name: str, tmp_path: Path) -> None:
    c = case(variant)
    asked = dict(METHODS[name])
    if name == "guidance" and not c.family.network_of().can_take_scale:
        asked["scale_low"] = asked["scale_high"]
    config = config_of(c, asked)
    before = {k: v.clone() for k, v in c.family.network_of().state_dict().items()}
    roles, embedded = make_roles(config, c.family)
    method, _ = make_method(config, c.family, roles, embedded)
    started = {k: [p.detach().clone() for p in m.parameters()] for k, m in method.learners.items()}

    def source(step: int, micro: int) -> Batch:
        return Batch(Rng(0, step).normal("x", (1, *c.shape)), c.cond)

    specs = {n: optim_of(config, n) for n in method.learners}
    engine = Engine(method, source, specs, tmp_path, steps=3, cadence=Cadence(0, 0, 1, 1, 1))
    reports: list[Report] = []
    engine.run(reports.append)
    losses = [v for r in reports for k, v in r.values.items() if k.endswith("/loss")]
    assert engine.step == 3 and engine.skipped == 0 and losses and all(torch.tensor(losses).isfinite())
    for learner, module in method.learners.items():
        moved = [not torch.equal(a, b) for a, b in zip(started[learner], module.parameters(), strict=True)]
        assert any(moved), learner
    after = c.family.network_of().state_dict()
    assert all(torch.equal(v, after[base_name(k, after)]) for k, v in before.items())


def base_name(name: str, known: Any) -> str:
    """Where an adapter left a weight of the base."""
    if name in known:
        return name
    layer, _, kind = name.rpartition(".")
    return f"{layer}.base_layer.{kind}"


def config_of(c: Case, method: dict[str, Any]) -> Config:
    frames = c.call.get("num_frames", 1)
    return Config.model_validate(
        {
            "name": "contract",
            "family": {
                "name": c.family.name, "random_tiny": c.variant, "frames": frames,
                "height": c.call.get("height", 64), "width": c.call.get("width", 64),
            },
            "data": {"name": "latents", "path": "nowhere"},
            "method": method,
            "scope": {"name": "lora", "rank": 2},
            "optim": {"lr": 1e-3},
            "train": {"steps": 3, "batch": 1},
        }
    )  # fmt: skip


@every
def test_a_scale_that_became_an_input_changes_nothing_at_first_and_can_be_fixed(variant: str) -> None:
    c = case(variant)
    network = c.family.network_of()
    if not network.can_take_scale:
        with pytest.raises(UserError, match="no place for a guidance scale"):
            network.with_scale_input()
        return
    x, t, told = c.noise(), torch.tensor([0.7]), c.cond.with_field("guidance", torch.tensor([4.0]))
    before = c.family.net.x0(x, t, told)
    taking = network.with_scale_input()
    assert taking.takes_scale and apart(c.family.as_net(taking).x0(x, t, told), before) <= CLOSE
    module = taking.scale_module()
    if module is None:  # the network's own input
        return
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(0))
    want = c.family.as_net(taking).x0(x, t, told)
    assert apart(want, before) > 1e-4
    fixed = taking.with_fixed_scale(4.0)
    if taking.scale_is_ours or fixed is not taking:
        assert apart(c.family.as_net(fixed).x0(x, t, c.cond), want) <= CLOSE


@every
def test_activations_computed_twice_give_the_same_gradients(variant: str) -> None:
    grads = []
    for twice in (False, True):
        c = case(variant)
        roles = lora_roles(c.family.net, ["student"], Lora(2, None, c.family.lora_targets))
        if twice:
            memory.checkpoint_gradients(c.family.network_of().parts, recomputed)
        for n, p in enumerate(roles.modules["student"].requires_grad_(True).parameters()):
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(n))
        roles.denoisers["student"].x0(c.noise(), torch.tensor([0.9]), c.cond).square().mean().backward()
        grads.append([p.grad for p in roles.modules["student"].parameters()])
    assert all((a is None and b is None) or apart(b, a) <= CLOSE for a, b in zip(*grads, strict=True))
    assert any(g is not None and g.abs().max() > 0 for g in grads[0])


@every
def test_another_attention_backend_answers_the_same_and_a_missing_one_is_one_line(variant: str) -> None:
    c, t = case(variant), torch.tensor([0.9])
    want = c.family.net.x0(c.noise(), t, c.cond)
    memory.set_backend(c.family.network_of().parts, "_native_math")
    assert apart(c.family.net.x0(c.noise(), t, c.cond), want) <= CLOSE
    with pytest.raises(UserError, match="does not run here"):
        memory.set_backend(c.family.network_of().parts, "flash")


@every
def test_weights_in_8_bits_take_less_and_answer_nearly_the_same(variant: str) -> None:
    c, t = case(variant), torch.tensor([0.9])
    want, full_size = c.family.net.x0(c.noise(), t, c.cond), size_of(c)
    memory.store_in_8_bits(c.family.network_of().parts, torch.float32)
    assert size_of(c) < 0.999 * full_size  # some tiny networks are mostly layers that diffusers keeps whole
    assert 0 < (c.family.net.x0(c.noise(), t, c.cond) - want).std() < 0.3 * want.std()


def size_of(c: Case) -> int:
    return sum(p.numel() * p.element_size() for p in c.family.network_of().parameters())
