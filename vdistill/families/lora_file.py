"""A LoRA file onto the network of a stock pipeline, by the pipeline's own loader or, where it has none, by peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from torch import Tensor, nn

from ..core.checkpoint import read_tensors
from ..core.errors import UserError

LORA_FILE = "pytorch_lora_weights.safetensors"


def check_lora(tensors: Mapping[str, Tensor], parts: Mapping[str, nn.Module], family: str, folder: Path) -> None:
    """UserError unless every layer a LoRA names, <part>.<layer>.lora_A.weight, is in the network and of its size."""
    known = {f"{part}.{name}": each for part, module in parts.items() for name, each in module.named_modules()}
    layers = {key.rsplit(".lora_", 1)[0] for key in tensors}
    strange = sorted(layer for layer in layers if layer not in known)
    if strange or not layers:
        found = f"{len(strange)} of its {len(layers)} layers are not in this network, such as {strange[:2]}"
        raise UserError(f"a LoRA for another base: {found}", str(folder), f"it must fit a {family} network")
    for key, value in tensors.items():
        layer = known[key.rsplit(".lora_", 1)[0]]
        wide = getattr(layer, "in_features", None)
        if ".lora_A." in key and wide is not None and value.shape[1] != wide:
            found = f"{key} takes {value.shape[1]} channels, the layer has {wide}"
            raise UserError(f"a LoRA for another base: {found}", str(folder), f"it must fit this {family} network")


def attach_lora(pipe: Any, parts: Mapping[str, nn.Module], folder: Path) -> None:
    """Load the LoRA file of a folder into the network."""
    tensors = read_tensors(folder / LORA_FILE)
    for part, module in parts.items():
        own = {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}
        if not own:
            continue
        if part == "transformer_2":  # the second expert of Wan 2.2
            named = {f"transformer.{key}": value for key, value in own.items()}
            pipe.load_lora_weights(named, load_into_transformer_2=True)
        elif hasattr(pipe, "load_lora_weights"):
            pipe.load_lora_weights({f"{part}.{key}": value for key, value in own.items()})
        else:
            rank = next(len(value) for key, value in own.items() if ".lora_A." in key)
            layers = sorted({key.rsplit(".lora_", 1)[0] for key in own})
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), module)
            set_peft_model_state_dict(module, own)
