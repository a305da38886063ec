"""A public checkpoint's layout: random weights in FantasyTalking's names become adapters that say what it says."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from avatar.talk_bed import CHANNELS, FRAMES, SIDE, draw, family, heard
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from vdistill.app import convert
from vdistill.app.models import open_model
from vdistill.avatar.adapters import NAME, Adapters
from vdistill.avatar.fantasy_talking import from_fantasy_talking
from vdistill.core.errors import UserError

DIM, LAYERS, WIDTH, FEATURES, SLOTS = 16, 2, 20, 24, 9
X, T = draw(2, CHANNELS, FRAMES, SIDE, SIDE, seed=9), torch.tensor([0.3, 0.8])


def checkpoint() -> dict[str, Tensor]:
    """Random weights under the public names."""
    found = {"proj_model.proj.weight": draw(WIDTH, FEATURES, seed=1), "proj_model.norm.weight": draw(WIDTH, seed=2)}
    found["proj_model.norm.bias"] = draw(WIDTH, seed=3)
    for i in range(LAYERS):
        for j, name in enumerate(("k_proj", "v_proj")):
            key = f"audio_processor.blocks.{i}.cross_attn.processor.{name}.weight"
            found[key] = draw(DIM, WIDTH, seed=10 + 2 * i + j)
    return found


def test_a_block_adds_what_the_published_formula_adds() -> None:
    f, weights = family(), checkpoint()
    f.network_of().beside[NAME] = from_fantasy_talking(weights)
    attn, seen = f.network_of().readers()[0], {}
    attn.to_q.register_forward_hook(lambda m, a, out: seen.update(q=out))
    attn.to_k.register_forward_hook(lambda m, a, out: seen.update(k=out))
    attn.to_v.register_forward_hook(lambda m, a, out: seen.update(v=out))
    attn.to_out[0].register_forward_hook(lambda m, a, out: seen.update(before=a[0]))
    sound = draw(2, FRAMES, SLOTS, FEATURES, seed=4)
    with torch.no_grad():
        f.net.x0(X, T, heard(f.text(["a person speaks"] * 2), audio=sound))
    tokens = layer_norm(
        sound @ weights["proj_model.proj.weight"].T,
        (WIDTH,),
        weights["proj_model.norm.weight"],
        weights["proj_model.norm.bias"],
    )
    front = "audio_processor.blocks.0.cross_attn.processor."
    k, v = tokens @ weights[f"{front}k_proj.weight"].T, tokens @ weights[f"{front}v_proj.weight"].T
    q = attn.norm_q(seen["q"])
    by_frame = attend(q.unflatten(1, (FRAMES, -1)).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    expected = attend(q, attn.norm_k(seen["k"]), seen["v"]) + by_frame.unflatten(0, (2, FRAMES)).flatten(1, 2)
    assert torch.allclose(seen["before"], expected, atol=1e-4)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (y.unflatten(2, (2, -1)).transpose(1, 2) for y in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def test_without_sound_the_base_answers_alone() -> None:
    f = family()
    cond = f.text(["a person speaks"] * 2)
    before = f.net.x0(X, T, cond)
    f.network_of().beside[NAME] = from_fantasy_talking(checkpoint())
    assert torch.equal(f.net.x0(X, T, cond), before)


def converted(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    """The folder `vdistill convert` makes of weights and the small base."""
    f = family()
    f.save(f.net, tmp_path / "base")
    save_file(weights, tmp_path / "given.safetensors")
    parser = argparse.ArgumentParser()
    convert.arguments(parser)
    out = tmp_path / "made"
    given = [str(tmp_path / "given.safetensors"), "--base", str(tmp_path / "base"), "--out", str(out)]
    assert convert.run(parser.parse_args(given)) == 0
    return out


def test_convert_puts_them_beside_the_base_and_the_folder_opens_with_them(tmp_path: Path) -> None:
    weights = checkpoint()
    opened = open_model(converted(tmp_path, weights)).network_of().beside[NAME]
    assert isinstance(opened, Adapters) and opened.size.encoder == "wav2vec2"
    key = "audio_processor.blocks.1.cross_attn.processor.v_proj.weight"
    assert torch.equal(opened.get_parameter("blocks.1.audio.to_v.weight"), weights[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("audio_processor.blocks.0.cross_attn.processor.k_proj.weight"), "1 missing"),
        (lambda w: w.update({"audio_processor.blocks.0.self_attn.q.weight": draw(2, 2)}), "1 unexpected"),
        (lambda w: w.update({"proj_model.norm.bias": draw(3)}), "has shape"),
        (lambda w: w.update({k: draw(8, WIDTH) for k in w if "processor.k" in k or "processor.v" in k}), "of width 8"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path: Path, change: object, message: str) -> None:
    weights = checkpoint()
    change(weights)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        converted(tmp_path, weights)
    assert not (tmp_path / "made").exists()
