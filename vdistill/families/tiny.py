"""The `tiny` family: a stock Wan pipeline of small dimensions, made here or opened from a folder, offline."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from ..core.checkpoint import fill, read_tensors
from ..core.cond import Cond
from ..core.denoiser import Net
from ..core.errors import UserError
from ..core.schedule import Predicts, Schedule
from .few_step import FewStepScheduler
from .pixel import PixelVae, pixel_vae
from .text import fixed_encoder, learn_tokenizer
from .wan_codec import WanCodec
from .wan_net import GuidanceEmbedding, WanNet

PREDICTS: dict[str, Predicts] = {"sample": "x0", "flow_prediction": "flow"}
TEXT_CACHE = 4096
GUIDANCE_FILE = "guidance_embedding.safetensors"


@dataclass(frozen=True)
class TinySize:
    """dim, heads, layers, ffn: of the transformer; text_dim, text_layers, text_length: of the text encoder, length in
    tokens; temporal, spatial: pixels per latent position; mean, std: pixel normalisation in [-1, 1] units;
    codec: "pixel", or "wan" for a small random AutoencoderKLWan (4 x 8 x 8); patch: latent patch of the transformer.
    """

    dim: int = 256
    heads: int = 8
    layers: int = 6
    ffn: int = 768
    text_dim: int = 64
    text_layers: int = 1
    text_length: int = 16
    temporal: int = 4
    spatial: int = 8
    patch: tuple[int, int, int] = (1, 1, 1)
    codec: str = "pixel"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: float = 0.5
    shift: float = 3.0
    predicts: Predicts = "x0"


class TinyFamily:
    """A WanPipeline taken apart. `net` is its transformer as a Denoiser, `codec` its VAE, `text` its text encoder."""

    name = "tiny"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, pipe: WanPipeline) -> None:
        self.pipe = pipe
        pipe.text_encoder.eval().requires_grad_(False)
        config = pipe.scheduler.config
        kind = config.get("prediction_type", "flow_prediction")
        if kind not in PREDICTS:
            raise UserError(f"prediction_type {kind!r}; this family knows {', '.join(PREDICTS)}", "scheduler")
        self.schedule = Schedule("rf", shift=float(config.get("flow_shift", config.get("shift", 1.0))))
        self.net = Net(WanNet(pipe.transformer), self.schedule, PREDICTS[kind])
        self.codec = WanCodec(pipe.vae)
        self.text_length = int(pipe.tokenizer.model_max_length)
        self.times: tuple[float, ...] | None = None
        if isinstance(pipe.scheduler, FewStepScheduler):
            self.times = tuple(pipe.scheduler.config.times)
        self._known: dict[str, Tensor] = {}

    @classmethod
    def build(cls, size: TinySize, captions: Iterable[str], seed: int = 0) -> TinyFamily:
        """A new, untrained model; the tokenizer is learned from `captions`."""
        tokenizer = learn_tokenizer(captions, length=size.text_length)
        channels = 3 * size.temporal * size.spatial**2
        if size.codec == "pixel":
            vae = pixel_vae(size.temporal, size.spatial, size.mean, size.std)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if size.codec != "pixel":
                vae = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
                channels = 16
            transformer = WanTransformer3DModel(
                patch_size=size.patch,
                num_attention_heads=size.heads,
                attention_head_dim=size.dim // size.heads,
                in_channels=channels,
                out_channels=channels,
                text_dim=size.text_dim,
                freq_dim=64,
                ffn_dim=size.ffn,
                num_layers=size.layers,
            )
        kind = next(k for k, v in PREDICTS.items() if v == size.predicts)
        scheduler = UniPCMultistepScheduler(prediction_type=kind, use_flow_sigmas=True, flow_shift=size.shift)
        encoder = fixed_encoder(len(tokenizer), size.text_dim, size.text_layers, seed)
        return cls(WanPipeline(tokenizer, encoder, vae, scheduler, transformer))

    @classmethod
    def load(cls, folder: str | Path) -> TinyFamily:
        """Open a diffusers WanPipeline folder. UserError for a folder that is not one or does not open whole."""
        folder = Path(folder)
        if not (folder / "model_index.json").is_file():
            raise UserError("not a diffusers pipeline folder: no model_index.json", str(folder))
        if list(folder.rglob("*.bin")) and not list((folder / "transformer").glob("*.safetensors")):
            raise UserError("holds pickled .bin weights; only safetensors are read", str(folder), "convert it first")
        for quiet in (diffusers_logging, transformers_logging):
            quiet.set_verbosity_error()
            quiet.disable_progress_bar()
        check_weights(folder)
        try:
            pipe = WanPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except Exception as error:  # the library raises many kinds; each means the folder is not a whole pipeline
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"does not open as a Wan pipeline ({first[:200]})", str(folder)) from error
        pipe.to(torch.float32)
        if not isinstance(pipe.vae, AutoencoderKLWan | PixelVae):
            raise UserError(f"VAE {type(pipe.vae).__name__} is not one of AutoencoderKLWan, PixelVae", str(folder))
        family = cls(pipe)
        if (folder / GUIDANCE_FILE).is_file():
            embedding = GuidanceEmbedding(pipe.transformer.config.text_dim)
            fill(embedding, read_tensors(folder / GUIDANCE_FILE), str(folder / GUIDANCE_FILE))
            family.net = Net(WanNet(pipe.transformer, embedding), family.schedule, family.net.predicts)
        return family

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> Cond:
        """Cond with field "text" [B, L, D] from the pipeline's own encoder, null the empty caption.

        Cached, and encoded one by one: an encoder's last bits depend on what else is in its batch, and a resumed run,
        whose cache is empty, must see the same numbers.
        """
        if len(self._known) > TEXT_CACHE:
            self._known.clear()
        for caption in {*captions, ""} - self._known.keys():
            found, _ = self.pipe.encode_prompt(
                caption, do_classifier_free_guidance=False, max_sequence_length=self.text_length
            )
            self._known[caption] = found[0].float()
        return Cond({"text": torch.stack([self._known[c] for c in captions])}, null={"text": self._known[""][None]})

    def save(self, net: Net, folder: Path, times: Sequence[float] | None = None) -> None:
        """Write a stock WanPipeline folder with the weights of `net`; `times` adds the trained few-step schedule, and
        an embedding of the guidance scale goes into a file of its own beside it."""
        scheduler, parts = self.pipe.scheduler, self.pipe
        if times is not None:
            kind = next(k for k, v in PREDICTS.items() if v == net.predicts)
            scheduler = FewStepScheduler(times=list(times), prediction_type=kind, shift=self.schedule.shift)
        assert isinstance(net.net, WanNet)
        WanPipeline(parts.tokenizer, parts.text_encoder, parts.vae, scheduler, net.net.transformer).save_pretrained(
            folder
        )
        for config in folder.glob("*/config.json"):  # the library notes where it read a part; nobody else has that path
            kept = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
            config.write_text(json.dumps(kept, indent=2) + "\n")
        if net.net.guidance is not None:
            save_file(net.net.guidance.state_dict(), folder / GUIDANCE_FILE)


def check_weights(folder: Path) -> None:
    """UserError naming the first safetensors file of a model folder that is not whole."""
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, "pt") as handle:
                handle.keys()
        except Exception as error:  # SafetensorError, or an OSError for an empty file
            raise UserError(f"not a whole safetensors file ({error})", str(path), "copy it again") from error
