"""Frozen features of images for judges: a user's transformers folder (DINOv2, ViT, CLIP, ...) or TorchScript file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..core.errors import UserError
from .opening import quiet

KEY = "method.judge.images"
HINT = "name a transformers folder of an image model, such as DINOv2, a TorchScript file, or random"
QUARTERS = 4


@dataclass(frozen=True)
class FolderFeatures:
    """Hidden states [N, L, C] after the given layers; images [N, 3, H, W] in [-1, 1] become what the model wants: its
    square size, its mean and deviation. A gradient goes through to the images."""

    model: Any
    layers: tuple[int, ...]
    size: int
    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        weight = next(self.model.to(images.device).parameters())
        x = interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        x = ((x + 1) / 2 - self.mean.to(x)) / self.std.to(x)
        hidden = self.model(pixel_values=x.to(weight.dtype), output_hidden_states=True).hidden_states
        return [tokens(hidden[layer + 1]) for layer in self.layers]


@dataclass(frozen=True)
class ScriptFeatures:
    """What a TorchScript module says of images [N, 3, H, W] in [-1, 1]: a tensor or several, each [N, C], [N, L, C] or
    [N, C, h, w]; layers: which of them, all without."""

    module: Any
    layers: tuple[int, ...] = ()

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        said = self.module.to(images.device)(images.float())
        several = [said] if isinstance(said, Tensor) else list(said.values() if isinstance(said, Mapping) else said)
        _known(self.layers, len(several), "outputs")
        return [tokens(several[i]) for i in self.layers or range(len(several))]


def open_image_features(path: str, layers: Sequence[int] = ()) -> FolderFeatures | ScriptFeatures:
    """A folder's or file's features, without a network. layers: the ends of its quarters when left out.

    UserError, in one line, for what is neither, does not take images, is pickled, or has no such layer.
    """
    place = Path(path)
    if place.is_file():
        return ScriptFeatures(_script(place), tuple(layers))
    config = image_config(path, layers)
    from transformers import AutoModel

    quiet()
    try:
        model = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"does not open: {str(error).splitlines()[0]}", path, HINT) from error
    model = getattr(model, "vision_model", model).eval().requires_grad_(False)
    blocks = int(config.num_hidden_layers)
    told = _prepared(place)
    mean, std = (torch.tensor(told.get(key) or [0.5] * 3).view(1, 3, 1, 1) for key in ("image_mean", "image_std"))
    size = (told.get("crop_size") or {}).get("height", config.image_size)
    return FolderFeatures(model, tuple(layers) or quarters(blocks), int(size), mean, std)


def image_config(path: str, layers: Sequence[int] = ()) -> Any:
    """What a folder says of its image model, without weights. UserError as `open_image_features`."""
    place = Path(path)
    if place.is_file():
        _script(place)
        return None
    if not place.is_dir():
        raise UserError("no such folder or file", path, HINT)
    if not (place / "config.json").is_file():
        raise UserError("holds no config.json, so it is no transformers folder", path, HINT)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"does not open: {str(error).splitlines()[0]}", path, HINT) from error
    config = getattr(config, "vision_config", config)
    if not all(hasattr(config, key) for key in ("image_size", "num_hidden_layers")):
        raise UserError(f"holds {type(config).__name__}, which is no image transformer", path, HINT)
    if not [*place.glob("*.safetensors")]:
        raise UserError("holds no weights as safetensors", path, HINT)
    _known(layers, int(config.num_hidden_layers), "layers")
    return config


def quarters(blocks: int) -> tuple[int, ...]:
    """The last layer of each quarter: 2, 5, 8 and 11 of 12."""
    return tuple(sorted({max(0, blocks * (i + 1) // QUARTERS - 1) for i in range(QUARTERS)}))


def tokens(f: Tensor) -> Tensor:
    """[N, C], [N, L, C] or [N, C, h, w] -> [N, L, C]. UserError for another shape."""
    if f.ndim == 2:
        return f[:, None]
    if f.ndim == 4:
        return f.flatten(2).transpose(1, 2)
    if f.ndim != 3:
        raise UserError(f"features of shape {[*f.shape]}, not [N, C], [N, L, C] or [N, C, h, w]", KEY)
    return f


def _script(file: Path) -> Any:
    try:
        module = torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise UserError("is no TorchScript file", str(file), HINT) from error
    for weight in module.parameters():
        weight.requires_grad_(False)
    return module


def _known(layers: Sequence[int], count: int, what: str) -> None:
    if layers and max(layers) >= count:
        raise UserError(f"layers {[*layers]}, the images' model has {what} 0..{count - 1}", "method.judge.layers")


def _prepared(place: Path) -> dict[str, Any]:
    """What is written of how images are prepared; nothing where nothing is."""
    file = place / "preprocessor_config.json"
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text()))
    except ValueError as error:
        raise UserError("is not JSON", str(file)) from error
