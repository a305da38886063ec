"""Guidance tokens beside a stock network: born they change nothing; then each sample is told its own scales."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contract import REGISTERED, case
from toys import shapes_source, tiny_family

from vdistill.core.cond import Cond
from vdistill.core.denoiser import Net
from vdistill.core.errors import UserError
from vdistill.core.inputs import Noised
from vdistill.core.plan import AsTold, plan, tell
from vdistill.core.rng import Rng
from vdistill.core.scope import Lora, full_roles, lora_roles, merged, recomputed
from vdistill.core.times import Uniform
from vdistill.families.guidance_tokens import NAME, SIZES, GuidanceTokens, Mode, ScaleTokens, tokens_for
from vdistill.families.memory import checkpoint_gradients
from vdistill.families.stock import StockFamily
from vdistill.families.tiny import TinyFamily
from vdistill.methods.guidance_scales import ScaleLaw, ToldScales
from vdistill.methods.mixed import MixedConfig, MixedDistillation

MODES: list[Mode] = ["token", "adaln", "both", "fixed"]
NAMES, MOST = ("ref", "audio"), {"ref": 4.0, "audio": 5.0}


def told_family(mode: Mode = "both", grown: bool = False) -> tuple[StockFamily, torch.Tensor, torch.Tensor, Cond]:
    """The tiny family with tokens, and what to ask it. grown: with weights that are no longer zero."""
    family = tiny_family()
    torch.manual_seed(0)
    made = tokens_for(family.network_of(), NAMES, MOST, mode, width=64)
    if grown:
        torch.manual_seed(1)
        for p in made.parameters():
            p.data.add_(0.2 * torch.randn_like(p))
    family.network_of().beside[NAME] = made
    x, t = torch.randn(3, *family.codec.shape(5, 16, 16)), torch.tensor([0.3, 0.6, 0.9])
    return family, x, t, family.text(["a red square moves left", "a blue circle", "a green cross rotates"])


def scales(ref: list[float], audio: list[float]) -> dict[str, torch.Tensor]:
    return {"ref": torch.tensor(ref), "audio": torch.tensor(audio)}


SOME = scales([1.0, 2.0, 3.5], [1.0, 3.0, 1.5])


@pytest.mark.parametrize("mode", MODES)
def test_newborn_tokens_change_nothing_bit_for_bit(mode: Mode) -> None:
    family, x, t, cond = told_family(mode)
    with torch.no_grad():
        wanted = tiny_family().net.x0(x, t, cond)
        assert (family.net.x0(x, t, tell(cond, SOME)) - wanted).abs().max() == 0.0
        assert torch.equal(family.net.x0(x, t, cond), wanted)


@pytest.mark.parametrize("mode", MODES)
def test_grown_tokens_act_on_told_samples_only(mode: Mode) -> None:
    family, x, t, cond = told_family(mode, grown=True)
    with torch.no_grad():
        plain = tiny_family().net.x0(x, t, cond)
        told = family.net.x0(x, t, tell(cond, SOME))
        half = family.net.x0(x, t, tell(cond, SOME, on=torch.tensor([1.0, 0.0, 1.0])))
        assert torch.equal(family.net.x0(x, t, cond), plain) and torch.equal(half[1], plain[1])
        torch.testing.assert_close(half[[0, 2]], told[[0, 2]])
        assert ((told - plain).flatten(1).abs().max(1).values > 1e-4).all()


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_depends_on_each_scale_unless_they_are_fixed(mode: Mode) -> None:
    family, x, t, cond = told_family(mode, grown=True)
    with torch.no_grad():
        before = family.net.x0(x, t, tell(cond, SOME))
        for other in (scales([1.5, 2.0, 3.5], [1.0, 3.0, 1.5]), scales([1.0, 2.0, 3.5], [2.0, 3.0, 1.5])):
            moved = (family.net.x0(x, t, tell(cond, other)) - before).flatten(1).abs().max(1).values
            assert moved[1:].max() < 1e-6 and (moved[0] > 1e-6) == (mode != "fixed")


def test_one_step_of_training_tells_scales_apart() -> None:
    family, x, t, cond = told_family("token")
    made = family.network_of().beside[NAME]
    optim = torch.optim.SGD(made.parameters(), lr=1.0)
    family.net.x0(x, t, tell(cond, SOME)).square().mean().backward()
    optim.step()
    with torch.no_grad():
        before = family.net.x0(x, t, tell(cond, SOME))
        moved = family.net.x0(x, t, tell(cond, scales([3.5, 2.0, 3.5], [1.0, 3.0, 1.5]))) - before
    assert moved[0].abs().max() > 1e-4 > moved[1:].abs().max()


def test_the_tokens_are_their_formula() -> None:
    tokens = ScaleTokens(("a",), 2, 4)
    assert tokens.change is not None
    tokens.change[0].outer.weight.data.zero_()
    tokens.change[0].outer.bias.data = torch.tensor([0.5] * 8 + [2.0] * 8)  # gamma, beta
    torch.testing.assert_close(tokens({"a": torch.tensor([3.0])})[0], 1.5 * tokens.tau[0] + 2.0)


def test_what_is_told_in_part_is_one_line() -> None:
    family, x, t, cond = told_family()
    with pytest.raises(UserError, match="tell all scales or none"):
        family.net.x0(x, t, tell(cond, {"ref": torch.ones(3)}))


def test_the_network_is_as_it_was_after_an_error() -> None:
    family, x, t, cond = told_family(grown=True)
    block = family.network_of().blocks()[0]
    with pytest.raises(RuntimeError):
        family.net.x0(x, t, tell(cond.with_field("text", torch.zeros(3, 4, 5)), SOME))
    assert "forward" not in vars(block) or getattr(block.forward, "__self__", None) is block
    with torch.no_grad():
        assert torch.equal(family.net.x0(x, t, cond), tiny_family().net.x0(x, t, cond))


def test_saved_with_the_model_and_opened_with_it(tmp_path: Path) -> None:
    family, x, t, cond = told_family(grown=True)
    family.save(family.net, tmp_path)
    again = TinyFamily.load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again.net.x0(x, t, tell(cond, SOME)), family.net.x0(x, t, tell(cond, SOME)))
    opened = again.network_of().beside[NAME]
    assert isinstance(opened, GuidanceTokens) and opened.beyond({"ref": 4.5, "audio": 2.0}) == ["ref"]
    (tmp_path / SIZES).write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        TinyFamily.load(tmp_path)


def test_whole_roles_have_tokens_of_their_own() -> None:
    family, *_ = told_family()
    roles = full_roles(family.net, ("student", "critic"))
    names = {n for n, _ in roles.modules["student"].named_parameters()}
    assert any(f"beside.{NAME}" in n for n in names)
    own = [dict(m.named_parameters())["net.beside.scales.tokens.tau"] for m in roles.modules.values()]
    assert own[0] is not own[1]


def test_adapters_leave_the_readers_alone_and_merge_beside_them() -> None:
    family, x, t, cond = told_family(grown=True)
    assert isinstance(family.net, Net)
    roles = lora_roles(family.net, ["student"], Lora(2, None, family.lora_targets))
    for p in roles.modules["student"].parameters():
        p.data.normal_(0, 0.1)
    assert not any("beside" in n for n, _ in roles.modules["student"].named_parameters())
    told = tell(cond, SOME)
    with torch.no_grad():
        whole = merged(family.net, "student").x0(x, t, told)
        torch.testing.assert_close(whole, roles.denoisers["student"].x0(x, t, told), rtol=1e-4, atol=1e-4)


def test_activations_computed_twice_give_the_same_gradients() -> None:
    grads = []
    for twice in (False, True):
        family, x, t, cond = told_family(grown=True)
        if twice:
            checkpoint_gradients(family.network_of().parts, recomputed)
        family.net.x0(x, t, tell(cond, SOME)).square().mean().backward()
        grads.append([p.grad for p in family.network_of().beside[NAME].parameters()])
    assert all(g is not None and g.abs().max() > 0 for g in grads[0])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


FAST = ("wan", "flux", "sd15")


@pytest.mark.parametrize("variant", [v if v in FAST else pytest.param(v, marks=pytest.mark.slow) for v in REGISTERED])
def test_every_family_is_told_by_a_shift_of_its_time_and_most_by_tokens(variant: str) -> None:
    """Bit for bit as it was when newborn, another answer when grown."""
    c = case(variant)
    if len(c.family.network_of().parts) > 1:
        with pytest.raises(UserError, match="this model has two"):
            tokens_for(c.family.network_of(), ["text"], {}, "adaln")
        return
    net, x, t, told = c.family.network_of(), c.noise(), torch.tensor([0.7]), tell(c.cond, {"text": torch.tensor([3.0])})
    before = c.family.net.x0(x, t, c.cond)
    acted = []
    for mode in ("adaln", "token"):
        torch.manual_seed(0)
        try:
            made = tokens_for(net, ["text"], {"text": 4.0}, mode, width=64)  # type: ignore[arg-type]
            net.beside[NAME] = made
            newborn = c.family.net.x0(x, t, told)
        except UserError as error:
            assert "take mode adaln" in str(error) or "embeds its time" in str(error)
            continue
        finally:
            net.beside.pop(NAME) if NAME in net.beside else None
        assert torch.equal(newborn, before)
        for p in made.parameters():
            p.data.add_(0.3 * torch.randn_like(p))
        net.beside[NAME] = made
        assert (c.family.net.x0(x, t, told) - before).abs().max() > 1e-5
        net.beside.pop(NAME)
        acted.append(mode)
    assert acted


def test_a_chain_of_one_name_trains_the_tokens_of_the_shapes_teacher() -> None:
    """Thirty steps of the tokens alone, toward guidance 3, bring the told student nearer to it than it was born."""
    family = tiny_family()
    family.network_of().beside[NAME] = tokens_for(family.network_of(), ["text"], {"text": 3.0}, "both", width=64)
    roles = full_roles(family.net, ("student",))
    one, law = plan("chain", ["text"]), ScaleLaw({"text": 3.0}, {"text": 3.0}, 1.0, 0.0)
    student, module = roles.denoisers["student"], roles.modules["student"]
    base = MixedDistillation(MixedConfig(), AsTold(roles.teacher, one), student, module, Noised(Uniform(0.2, 1.0)))
    method, batch, losses = ToldScales(base, one, law), shapes_source(family, 4)(0, 0), []
    optim = torch.optim.AdamW([p for n, p in module.named_parameters() if "beside" in n], 3e-3)
    for _ in range(30):
        loss = method.loss("student", batch, Rng(0)).total
        optim.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optim.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
