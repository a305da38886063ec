"""Names of public Wan checkpoints become diffusers names and back, all of them, each to one other."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from torch import Tensor

from vdistill.families.wan_keys import EXTRA_HEADS, bare, groups, layout, lora_key, to_diffusers, to_original
from vdistill.families.wan_presets import PRESETS

KINDS = ["text", "image", "first and last"]


@lru_cache
def weights(kind: str) -> dict[str, Tensor]:
    """State dict of a stock transformer of two blocks, every value random."""
    image = {} if kind == "text" else {"image_dim": 24, "added_kv_proj_dim": 16}
    if kind == "first and last":
        image["pos_embed_seq_len"] = 6
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=8, in_channels=16, out_channels=16,
        text_dim=12, freq_dim=8, ffn_dim=20, num_layers=2, **image,
    )  # fmt: skip
    return {name: torch.randn_like(value) for name, value in model.state_dict().items()}


def originals(kind: str) -> dict[str, Tensor]:
    named = {to_original(name): value for name, value in weights(kind).items()}
    return {name: value for name, value in named.items() if name}


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_the_same_and_nothing_falls_out(kind: str) -> None:
    own, original = weights(kind), originals(kind)
    assert len(original) == len(own)
    back = {to_diffusers(name): value for name, value in original.items()}
    assert back.keys() == own.keys() and all(back[name] is own[name] for name in own)


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_changes_but_the_patch_embedding(kind: str) -> None:
    assert originals(kind).keys() & weights(kind).keys() == {"patch_embedding.weight", "patch_embedding.bias"}
    assert len({*originals(kind)}) == len(weights(kind))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_diffusers_own_converter_says_the_same(kind: str) -> None:
    theirs = convert_wan_transformer_to_diffusers(dict(originals(kind)))
    assert theirs.keys() == weights(kind).keys()
    assert all(theirs[name] is value for name, value in weights(kind).items())


@pytest.mark.parametrize(
    ("original", "diffusers"),
    [
        ("blocks.11.self_attn.o.bias", "blocks.11.attn1.to_out.0.bias"),
        ("blocks.0.cross_attn.norm_k_img.weight", "blocks.0.attn2.norm_added_k.weight"),
        ("blocks.0.norm3.weight", "blocks.0.norm2.weight"),
        ("blocks.0.modulation", "blocks.0.scale_shift_table"),
        ("head.modulation", "scale_shift_table"),
        ("img_emb.proj.4.weight", "condition_embedder.image_embedder.norm2.weight"),
        ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
        ("time_projection.1.weight", "condition_embedder.time_proj.weight"),
    ],
)
def test_the_tables_rows_that_are_easily_mistaken(original: str, diffusers: str) -> None:
    assert to_diffusers(original) == diffusers and to_original(diffusers) == original


@pytest.mark.parametrize("name", ["blocks.0.norm1.weight", "time_projection.0.weight", "blocks.0.ffn.1.weight", "head"])
def test_names_that_are_not_wans_have_no_other(name: str) -> None:
    assert to_diffusers(name) is None


@pytest.mark.parametrize(
    "wrapped",
    [
        "blocks.0.self_attn.q.weight",
        "model.blocks.0.self_attn.q.weight",
        "model._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn.q.weight",
        "_orig_mod.model.blocks.0._orig_mod.self_attn.q.weight",
        "module.model.diffusion_model.blocks.0.self_attn.q.weight",
    ],
)
@pytest.mark.parametrize("group", ["", "generator_ema", "state.generator"])
def test_wrappers_and_groups_come_off(wrapped: str, group: str) -> None:
    key = f"{group}.{wrapped}" if group else wrapped
    assert groups([key]) == [group]
    assert bare(key, group) == "blocks.0.self_attn.q.weight"


def test_a_name_of_another_group_is_outside() -> None:
    assert bare("generator_ema.model.head.modulation", "generator") is None
    assert bare("critic.model.head.modulation", "generator") is None


def test_heads_of_gan_variants_are_nothing_of_wans() -> None:
    for head in EXTRA_HEADS:
        name = bare(f"generator.{head}.0.weight", "generator")
        assert name == f"{head}.0.weight" and to_diffusers(name) is None
    assert groups([f"generator.{head}.blocks.0.weight" for head in EXTRA_HEADS]) == []


def test_layouts_are_told_apart() -> None:
    assert layout(originals("image")) == "original"
    assert layout(weights("image")) == "diffusers"
    assert layout(["blocks.0.self_attn.q.lora_A.weight"]) == "lora"
    assert layout(["encoder.block.0.weight"]) is None


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.blocks.0.self_attn.q.lora_{}.weight",
        "base_model.model.model.blocks.0.self_attn.q.lora_{}.default.weight",
        "diffusion_model.blocks.0.self_attn.q.lora_{}.weight",
        "blocks.0._fsdp_wrapped_module.self_attn.q.lora_{}.weight",
        "transformer.blocks.0.attn1.to_q.lora_{}.weight",
    ],
)
def test_loras_of_every_dialect_get_the_name_stock_pipelines_load(name: str) -> None:
    for which, want in (("A", "A"), ("B", "B"), ("down", "A"), ("up", "B")):
        key = bare(name.format(which))
        assert key and lora_key(key) == f"transformer.blocks.0.attn1.to_q.lora_{want}.weight"


def test_lora_names_cover_every_linear_layer_and_the_scale() -> None:
    for name in originals("image"):
        module = name.removesuffix(".weight")
        named = to_diffusers(name)
        if module != name and named:
            assert lora_key(f"{module}.lora_up.weight") == f"transformer.{named.removesuffix('.weight')}.lora_B.weight"
    assert lora_key("blocks.3.ffn.2.alpha", "transformer_2") == "transformer_2.blocks.3.ffn.net.2.alpha"
    assert lora_key("blocks.3.ffn.2.diff_b") == "transformer.blocks.3.ffn.net.2.lora_B.bias"
    assert lora_key("blocks.3.ffn.2.diff") is None and lora_key("blocks.3.what.lora_A.weight") is None


def test_times_of_presets_are_the_authors() -> None:
    near = {
        "causvid": [1.0, 0.757, 0.522],
        "self_forcing": [1.0, 0.9375, 0.83333333, 0.625],
        "rolling_forcing": [1.0, 0.95238095, 0.88235294, 0.76923077, 0.55555556],
        "krea14b": [1.0, 0.937, 0.833, 0.625],
    }
    for name, times in near.items():
        assert PRESETS[name].times() == pytest.approx(times, abs=1e-7), name
    for name, preset in PRESETS.items():
        scheduler = preset.scheduler()
        assert scheduler.timesteps.tolist() == pytest.approx([1000 * t for t in preset.times()], abs=1e-4), name
        assert scheduler.config.prediction_type == "flow_prediction"
