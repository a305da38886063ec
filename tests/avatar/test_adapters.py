"""Adapters beside a stock network: born silent, each latent frame with its own sound, speakers by masks."""

from __future__ import annotations

import pytest
import torch
from avatar.talk_bed import CHANNELS, FEATURES, FRAMES, SIDE, SLOTS, adapters, draw, family, heard, told
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vdistill.avatar.adapter_tokens import LISTENS, NULL, SPEAKS
from vdistill.avatar.adapters import Adapters, AdapterSize
from vdistill.avatar.reading import BlockReaders, Told, hear
from vdistill.causal.attend import Masked, View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.causal.student import AfterClean, Remembering
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.plan import GAIN
from vdistill.core.scope import Lora, lora_roles, merged, recomputed
from vdistill.families.memory import checkpoint_gradients

T = torch.tensor([0.3, 0.8])
X = draw(2, CHANNELS, FRAMES, SIDE, SIDE, seed=9)
ALONE = Masked(torch.eye(FRAMES, dtype=torch.bool))  # each latent frame sees itself


def test_a_newborn_network_says_exactly_what_the_stock_one_says() -> None:
    f = family()
    cond = told(f)
    before = f.net.x0(X, T, cond)
    adapters(f)
    assert torch.equal(f.net.x0(X, T, cond), before)
    assert torch.equal(f.net.x0(X, T, f.text(["a person speaks", ""])), f.net.x0(X, T, f.text(["a person speaks", ""])))


def test_attention_adds_what_it_reads_before_its_own_output_layer() -> None:
    f = family()
    made = adapters(f, seed=1, near=False)
    attn, seen = f.network_of().readers()[0], {}
    attn.to_q.register_forward_hook(lambda m, a, out: seen.update(h=a[0], q=out))
    attn.to_k.register_forward_hook(lambda m, a, out: seen.update(text=a[0], k=out))
    attn.to_v.register_forward_hook(lambda m, a, out: seen.update(v=out))
    attn.to_out[0].register_forward_hook(lambda m, a, out: seen.update(before=a[0]))
    cond = told(f)
    with torch.no_grad():
        f.net.x0(X, T, cond)
    q = attn.norm_q(seen["q"])
    audio = made.audio(cond.along["audio"][:, :, None], cond.along["audio.on"][:, :, None])[:, :, 0]
    ref = made.ref(cond.fields["ref"], cond.fields["ref.on"])
    readers = made.blocks[0]

    def read(reader: nn.Module, rows: Tensor, tokens: Tensor) -> Tensor:
        return by_hand(rows, reader.norm_k(reader.to_k(tokens)), reader.to_v(tokens))

    n = SIDE * SIDE
    own = [read(readers.audio, q[:, n * t : n * (t + 1)], audio[:, t]) for t in range(FRAMES)]
    expected = by_hand(q, attn.norm_k(seen["k"]), seen["v"]) + torch.cat(own, 1) + read(readers.ref, q, ref)
    assert torch.allclose(seen["before"], expected, atol=1e-5)


def test_what_is_read_is_pushed_from_what_is_read_of_its_null() -> None:
    """r -> n + gain (r - n), each sample by its own gain."""
    f = family()
    made, cond = adapters(f, seed=1), told(f)
    gains = {"ref": torch.tensor([1.7, 0.2]), "audio": torch.tensor([0.4, 2.5])}
    patch, q = f.network_of().patch, draw(2, FRAMES * SIDE * SIDE, 16, seed=3)
    with torch.no_grad():
        readers, said, null = made.blocks[0], made.told(X, cond, patch), made.told(X, Cond(), patch)
        r = {"ref": readers.ref(q, said.ref, 2), "audio": hear(readers.audio, q, said.audio, None, 2)}
        n = {"ref": readers.ref(q, null.ref, 2), "audio": hear(readers.audio, q, null.audio, None, 2)}
        got = readers(q, made.told(X, pushed(cond, gains), patch), 2)
    expected = sum(n[k] + gain[:, None, None] * (r[k] - n[k]) for k, gain in gains.items())
    assert torch.allclose(got, expected, atol=1e-5)
    assert float((got - r["ref"] - r["audio"]).abs().max()) > 1e-2


@pytest.mark.parametrize("name", ["ref", "audio"])
def test_pushed_by_nothing_a_condition_is_as_dropped_and_by_one_as_it_was(name: str) -> None:
    f = family()
    adapters(f, seed=1)
    cond = told(f)
    plain, gone = f.net.x0(X, T, cond), f.net.x0(X, T, cond.drop([name]))
    none, same, more = (f.net.x0(X, T, pushed(cond, {name: torch.full((2,), g)})) for g in (0.0, 1.0, 2.0))
    assert torch.allclose(none, gone, atol=1e-5) and torch.allclose(same, plain, atol=1e-5)
    assert float((gone - plain).abs().max()) > 1e-3 and float((more - plain).abs().max()) > 1e-3
    each = f.net.x0(X, T, pushed(cond, {name: torch.tensor([0.0, 2.0])}))
    assert torch.allclose(each, torch.stack([none[0], more[1]]), atol=1e-5)


def pushed(cond: Cond, gains: dict[str, Tensor]) -> Cond:
    for name, gain in gains.items():
        cond = cond.with_field(f"{GAIN}.{name}", gain)
    return cond


def by_hand(q: Tensor, k: Tensor, v: Tensor, heads: int = 2) -> Tensor:
    q, k, v = (y.unflatten(2, (heads, -1)).transpose(1, 2) for y in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def test_a_latent_frame_hears_its_own_sound_and_no_other() -> None:
    f = family()
    adapters(f, seed=1)
    cond = told(f)
    other = cond.along["audio"].clone()
    other[:, 2] += 1
    a, b = (f.net.x0(X, T[:, None], c, attend=ALONE) for c in (cond, heard(cond, audio=other)))
    changed = (a - b).abs().amax((0, 1, 3, 4))
    assert changed[2] > 1e-3 and changed[[0, 1, 3]].max() == 0


def test_what_is_dropped_is_what_was_never_there() -> None:
    f = family()
    adapters(f, seed=1)
    cond, text = told(f), f.text(["a person speaks", "a calm person speaks"])
    silent = f.net.x0(X, T, cond.drop(["audio", "ref"]))
    assert torch.allclose(silent, f.net.x0(X, T, text), atol=1e-5)
    assert (silent - f.net.x0(X, T, cond.drop(["audio"]))).abs().max() > 1e-3
    assert (silent - f.net.x0(X, T, cond.drop(["ref"]))).abs().max() > 1e-3


def test_the_null_says_the_same_whatever_the_sound_was() -> None:
    f = family()
    adapters(f, seed=1)
    cond = told(f)
    off = heard(cond, on=torch.zeros(2, FRAMES))
    assert torch.equal(f.net.x0(X, T, off), f.net.x0(X, T, heard(off, audio=cond.along["audio"] * 7)))


# -- speakers -------------------------------------------------------------------------------------------------------


def two(f: object, masks: Tensor, on: tuple[int, int] = (SPEAKS, SPEAKS)) -> Cond:
    """Two speakers; masks: [2, h, w]."""
    cond = told(f)  # type: ignore[arg-type]
    sound = draw(2, FRAMES, 2, SLOTS, FEATURES, seed=5)
    state = torch.tensor(on).expand(2, FRAMES, 2).float()
    return heard(cond, audio=sound, on=state, speakers=masks.expand(2, FRAMES, 2, SIDE, SIDE))


LEFT = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


def residual(made: Adapters, cond: Cond, q: Tensor) -> Tensor:
    """What the first block adds for the sound, [B, T, n, D]."""
    said = made.told(X, cond, (1, 1, 1))
    assert said.audio is not None
    return hear(made.blocks[0].audio, q, said.audio, said.where, 2).unflatten(1, (FRAMES, -1))


def test_each_speaker_moves_the_tokens_of_its_own_mask() -> None:
    f = family()
    made, q = adapters(f, seed=1), draw(2, FRAMES * 4, 16, seed=3)
    cond = two(f, torch.stack([LEFT, 1 - LEFT]))
    alone = [
        residual(made, heard(told(f), audio=cond.along["audio"][:, :, i], on=torch.ones(2, FRAMES)), q) for i in (0, 1)
    ]
    both, left = residual(made, cond, q), LEFT.flatten().bool()
    assert torch.allclose(both[:, :, left], alone[0][:, :, left], atol=1e-5)
    assert torch.allclose(both[:, :, ~left], alone[1][:, :, ~left], atol=1e-5)
    swapped = residual(made, two(f, torch.stack([1 - LEFT, LEFT])), q)
    assert torch.allclose(swapped[:, :, ~left], alone[0][:, :, ~left], atol=1e-5)


def test_where_masks_overlap_they_share_and_where_there_is_nobody_nothing_is_added() -> None:
    made = adapters(family(), seed=1)
    masks = torch.zeros(1, FRAMES, 2, 4, 4)
    masks[..., 0, :2, :] = 1
    masks[..., 1, :2, :2] = 1  # upper left: both; upper right: the first; below: nobody
    shares = made.shares(masks, 2, (2, 2))
    assert shares is not None
    assert torch.equal(shares[0, 0], torch.tensor([[0.5, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]]))
    one = hear(made.blocks[0].audio, draw(1, FRAMES * 4, 16), draw(1, FRAMES, 2, SLOTS, 16), shares, 2)
    assert one.unflatten(1, (FRAMES, -1))[:, :, 2:].abs().max() == 0


def test_who_listens_gets_a_token_of_his_own() -> None:
    f = family()
    made, q, masks = adapters(f, seed=1), draw(2, FRAMES * 4, 16, seed=3), torch.stack([LEFT, 1 - LEFT])
    both, listening, null = (residual(made, two(f, masks, (SPEAKS, s)), q) for s in (SPEAKS, LISTENS, NULL))
    left = LEFT.flatten().bool()
    assert torch.equal(both[:, :, left], listening[:, :, left])
    assert min((a - b)[:, :, ~left].abs().max() for a, b in ((both, listening), (listening, null))) > 1e-2


# -- with the rest of the engine --------------------------------------------------------------------------------------


def test_blocks_from_a_cache_hear_what_the_whole_pass_hears() -> None:
    f, layout = family(), Layout(block=2)
    adapters(f, seed=1)
    cond, clean = told(f), draw(2, CHANNELS, FRAMES, SIDE, SIDE, seed=4)
    with torch.no_grad():
        whole = AfterClean(f.net, layout, clean).x0(X, T, cond)
        cache, parts = Cache(layout), []
        for start, count in layout.spans(FRAMES):
            view, part, cut = (
                View(cache, range(start, start + count)),
                cond.narrow(start, count),
                slice(start, start + count),
            )
            parts.append(Remembering(f.net, view).x0(X[:, :, cut], T, part))
            view.keep = True
            Remembering(f.net, view).x0(clean[:, :, cut], torch.zeros(2), part)
            cache.commit([*range(start, start + count)], *view.made)
    assert torch.allclose(torch.cat(parts, 2), whole, atol=1e-5)


def test_a_time_for_every_latent_frame_changes_nothing_where_they_are_equal() -> None:
    f = family()
    adapters(f, seed=1)
    cond = told(f)
    assert torch.allclose(f.net.x0(X, T[:, None].expand(-1, FRAMES), cond), f.net.x0(X, T, cond), atol=1e-5)


def test_activations_computed_twice_give_the_same_gradients() -> None:
    found = []
    for twice in (False, True):
        f = family()
        made = adapters(f, seed=1)
        f.net.train()
        if twice:
            checkpoint_gradients(f.network_of().parts, recomputed)
        f.net.x0(X, T, told(f)).square().mean().backward()
        found.append([p.grad.clone() for p in made.parameters() if p.grad is not None])
    assert len(found[0]) > 10
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_low_rank_adapters_reach_them_and_merge_into_them() -> None:
    f = family()
    adapters(f, seed=1)
    cond = told(f)
    before = f.net.x0(X, T, cond).detach()
    roles = lora_roles(f.net, ["student"], Lora(rank=2))
    names = list(roles.modules["student"].tensors())  # type: ignore[operator]
    assert any("beside.talk.blocks.0.audio.to_v" in name for name in names)
    for p in roles.modules["student"].parameters():
        nn.init.normal_(p, std=0.3)
    assert torch.equal(roles.teacher.x0(X, T, cond), before)
    student = roles.denoisers["student"].x0(X, T, cond)
    assert (student - before).abs().max() > 1e-2
    assert torch.allclose(merged(f.net, "student").x0(X, T, cond), student, atol=1e-4)


def test_half_precision_weights_stay_near() -> None:
    f = family()
    adapters(f, seed=1)
    cond = told(f)
    wide = f.net.x0(X, T, cond)
    narrow = f.net.to(torch.bfloat16).x0(X, T, cond)
    assert narrow.dtype == X.dtype
    assert (narrow - wide).norm() / wide.norm() < 0.05


def test_what_was_written_reads_the_same(tmp_path: object) -> None:
    made = adapters(family(), seed=1)
    made.write(tmp_path)  # type: ignore[arg-type]
    again = Adapters.read(tmp_path)  # type: ignore[arg-type]
    assert again is not None and again.size == made.size
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(("dim", "layers", "heads"), [(1536, 30, 12), (5120, 40, 40)])
def test_the_same_code_has_the_sizes_of_published_networks(dim: int, layers: int, heads: int) -> None:
    width, features = 1536, 12 * 768
    with torch.device("meta"):
        made = Adapters(AdapterSize(dim, layers, 16, (2, 2), features=features, slots=8, width=width))
        frames, high, wide = 21, 30, 52
        told = Told(
            made.audio(torch.empty(1, frames, 1, 8, features), torch.empty(1, frames, 1)),
            None,
            made.ref(torch.empty(1, 16, 2 * high, 2 * wide), torch.empty(1)),
        )
        assert told.ref is not None and told.ref.shape == (1, high * wide, 1536)
        block = made.blocks[0]
        assert isinstance(block, BlockReaders)
        out = block(torch.empty(1, frames * high * wide, dim), told, heads)
    assert out is not None and out.shape == (1, frames * high * wide, dim)
    each = 4 * width * dim + 2 * dim  # keys and values of sound and reference, norms of keys
    sound = features * width + width + width * width + width + 2 * width + 8 * width + 2 * width
    reference = 16 * 4 * width + width + 2 * width + width
    assert sum(p.numel() for p in made.parameters()) == layers * each + sound + reference + width * dim


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_sound_of_another_length_is_refused() -> None:
    f = family()
    adapters(f)
    with pytest.raises(UserError, match="sound of 3 latent frames for a sample of 4"):
        f.net.x0(X, T, heard(told(f), audio=draw(2, 3, SLOTS, FEATURES), on=torch.ones(2, 3)))


def test_two_speakers_without_masks_are_refused() -> None:
    f = family()
    adapters(f)
    with pytest.raises(UserError, match="2 speakers, and no mask"):
        f.net.x0(X, T, heard(told(f), audio=draw(2, FRAMES, 2, SLOTS, FEATURES), on=torch.ones(2, FRAMES, 2)))


def test_a_reference_of_another_size_is_refused_where_it_is_added_in_place() -> None:
    f = family()
    adapters(f)
    with pytest.raises(UserError, match="a reference of 9 tokens"):
        f.net.x0(X, T, told(f).with_field("ref", draw(2, CHANNELS, 3, 3)))
