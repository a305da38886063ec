"""Every tiny pipeline runs, survives a round trip over a folder, and answers to everything it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vdistill.core.errors import UserError
from vdistill.families.random_tiny import CALLS, VARIANTS, random_tiny
from vdistill.families.random_tiny_hunyuan import HUNYUAN15_SYSTEM
from vdistill.families.random_tiny_text import llama_tokenizer, qwen_tokenizer

MOST_WEIGHTS = 300_000
ONE_WIDE_PROJECTION = 4_200_000  # in HunyuanVideo 1.5, of a width its class fixes
SMALLEST_CHANGE = 2e-3  # relative, of the output when one input changes


def run(pipe: Any, variant: str, **other: Any) -> Tensor:
    """The latents after two steps (pixels for DiT, which has no other output)."""
    generator = torch.Generator().manual_seed(1)
    call = CALLS[variant] | {"num_inference_steps": 2, "generator": generator} | other
    return torch.as_tensor(pipe(**call, return_dict=False)[0])


def modules(pipe: Any) -> dict[str, nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


def network(pipe: Any) -> nn.Module:
    return getattr(pipe, "transformer", None) or pipe.unet


def told(pipe: Any, variant: str, **other: Any) -> dict[str, Any]:
    """What the pipeline gave the network at its first step."""
    seen: list[dict[str, Any]] = []
    names = ("hidden_states",) if hasattr(pipe, "transformer") else ("sample", "timestep")

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(dict(zip(names, args, strict=False)) | kwargs)

    hook = network(pipe).register_forward_pre_hook(note, with_kwargs=True)
    run(pipe, variant, **other)
    hook.remove()
    return seen[0]


def tensors(inputs: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every tensor among the inputs, those inside a dict too: (name, the dict it is in, its key)."""
    for key, value in inputs.items():
        if isinstance(value, dict):
            yield from tensors(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{key}", inputs, key


def changed(name: str, value: Tensor) -> Tensor:
    if name == "timestep":
        return value / 2 if value.is_floating_point() else value // 2
    if name == "class_labels":
        return value - 1
    if name == "guidance":
        return 2 * value
    if value.is_floating_point() and "mask" not in name:
        return value + 0.5 * torch.randn_like(value)
    return 1 - value.long() if value.dtype == torch.bool else 1 - value  # a mask


@torch.no_grad()
def answer(net: nn.Module, inputs: dict[str, Any]) -> Tensor:
    return net(**{**inputs, "return_dict": False})[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_steps_are_finite_and_a_folder_gives_the_same_pipeline_back(variant: str, tmp_path: Path) -> None:
    pipe = random_tiny(variant)
    first = run(pipe, variant)
    assert first.isfinite().all() and first.std() > 0.1
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path, local_files_only=True)
    again.set_progress_bar_config(disable=True)
    for name, part in modules(again).items():
        saved, loaded = modules(pipe)[name].state_dict(), part.state_dict()
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[key], loaded[key]) for key in saved), name
        for value in part.parameters():  # a loaded tensor lies anywhere in a file; the last bit of a product can tell
            value.data = value.data.clone()
    assert torch.equal(run(again, variant), first)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_answers_to_every_input(variant: str) -> None:
    pipe = random_tiny(variant)
    net, inputs = network(pipe), told(pipe, variant)
    before, deaf = answer(net, inputs), {}
    for name, place, key in tensors(inputs):
        kept = place[key]
        place[key] = changed(name, kept)
        change = float((answer(net, inputs) - before).norm() / before.norm())
        place[key] = kept
        if not change > SMALLEST_CHANGE:
            deaf[name] = change
    assert not deaf


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "prompt" in CALLS[v]])
def test_every_text_encoder_tells_captions_apart(variant: str) -> None:
    pipe = random_tiny(variant)
    one = {name: place[key] for name, place, key in tensors(told(pipe, variant))}
    other = told(pipe, variant, prompt='a blue circle sleeps beside "red"')
    for name, place, key in tensors(other):
        if name.split(".")[-1].removesuffix("_2") in ("encoder_hidden_states", "pooled_projections", "text_embeds"):
            assert (one[name] - place[key]).norm() > 0.05 * one[name].norm(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_come_from_the_seed_and_stay_frozen(variant: str) -> None:
    state = torch.get_rng_state()
    pipe, same, other = (random_tiny(variant, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    for name, part in modules(pipe).items():
        weights = list(part.parameters())
        twins = list(modules(same)[name].parameters())
        assert all(torch.equal(a, b) for a, b in zip(weights, twins, strict=True))
        assert not part.training and not any(w.requires_grad for w in weights)
        assert {w.dtype for w in weights} == {torch.float32}
        assert not any(w.numel() > 1 and w.min() == w.max() for w in weights)
    net = list(network(pipe).parameters())
    assert not any(torch.equal(a, b) for a, b in zip(net, network(other).parameters(), strict=True))
    assert sum(w.numel() for w in net) < MOST_WEIGHTS + (ONE_WIDE_PROJECTION if variant == "hunyuan15" else 0)


def test_the_templates_of_hunyuan_are_as_long_as_the_pipelines_cut_off() -> None:
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE as template

    llama = llama_tokenizer(template["template"])
    ids = llama(template["template"].format("a cat")).input_ids
    assert llama.decode(ids[template["crop_start"] :]) == "a cat<|eot_id|>"
    pipe = random_tiny("hunyuan15")
    assert pipe.system_message == HUNYUAN15_SYSTEM
    chat = [{"role": "system", "content": pipe.system_message}, {"role": "user", "content": "a cat"}]
    text = qwen_tokenizer(HUNYUAN15_SYSTEM).apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
    kept = pipe.tokenizer.decode(text["input_ids"][pipe.prompt_template_encode_start_idx :])
    assert kept == "a cat<|im_end|>\n<|im_start|>assistant\n"


def test_an_unknown_variant_is_a_user_error() -> None:
    with pytest.raises(UserError, match="there are wan, "):
        random_tiny("wan3")
