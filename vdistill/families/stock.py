"""A stock diffusers pipeline taken apart, and put together again around a student.

A family is a subclass in a file of its own: which pipelines it opens, how its network is called, what its text encoders
say, how its latents are normalised. Everything else is here.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.checkpoint import fill, read_tensors
from ..core.codec import Codec
from ..core.cond import Cond
from ..core.denoiser import Net
from ..core.errors import UserError
from .captions import Captions, Parts
from .clock import PREDICTS, Clock, clock_of, mu_for, shift_of
from .few_step import FewStepScheduler
from .guidance_input import GuidanceEmbedding
from .guidance_tokens import NAME as SCALES
from .guidance_tokens import GuidanceTokens
from .lora_file import LORA_FILE, attach_lora, check_lora
from .opening import INDEX, call_defaults, open_pipeline
from .released import put_back
from .stock_net import StockNet

GUIDANCE_FILE = "guidance_embedding.safetensors"


class StockFamily(Captions):
    """pipe: the stock pipeline; net: its network as a Denoiser; codec: its VAE; times: of a few-step student."""

    pipelines: ClassVar[tuple[str, ...]]
    """Pipeline classes it opens, as model_index.json names them; the first is the plainest."""
    networks: ClassVar[tuple[str, ...]] = ("transformer",)
    """Attributes of the pipeline that are its network; those that are None are left out."""
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder")
    network: ClassVar[Callable[..., StockNet]]
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    guided_by: str = "text"
    """The condition guidance goes without; "guidance" where the network was distilled to take the scale."""
    passes_apart: ClassVar[bool] = False
    """Whether its pipeline makes the passes of guidance one after the other, not in one batch."""
    image: ClassVar[bool] = False
    """Whether it makes images: clips of one frame."""

    def __init__(self, pipe: Any, negative: str = "") -> None:
        super().__init__(pipe, negative)
        for part in (*self.encoders, "vae"):
            module = getattr(pipe, part, None)
            if isinstance(module, nn.Module):
                module.eval().requires_grad_(False)
        self.clock = self.make_clock()
        parts = {name: getattr(pipe, name) for name in self.networks if getattr(pipe, name, None) is not None}
        self.net = self.as_net(self.make_network(parts))
        self.codec = self.make_codec()
        self.times: tuple[float, ...] | None = None
        if isinstance(pipe.scheduler, FewStepScheduler):
            self.times = pipe.scheduler.trained
        self.device = torch.device("cpu")
        self.dynamic_guidance = False

    @property
    def schedule(self) -> Any:
        """The noise path, with the time shift of the grids."""
        return self.clock.schedule

    # -- what a family says -------------------------------------------------------------------------------------

    def make_clock(self) -> Clock:
        """From the folder's own scheduler."""
        return clock_of(self.pipe.scheduler)

    def make_network(self, parts: Mapping[str, nn.Module]) -> StockNet:
        """The network over its stock modules."""
        return type(self).network(parts, self.clock)

    def make_codec(self) -> Codec:
        """The VAE with the family's normalisation."""
        raise TypeError(f"{type(self).__name__} does not say what its codec is")

    def from_image(self, image: Tensor, shape: Sequence[int], generator: torch.Generator | None = None) -> Parts:
        """Conditions of a first image [B, 3, H, W] in [-1, 1], for latents of shape [C, T, H', W']; none here.

        generator: of encoders that draw, as their pipeline does; without it the likeliest latents.
        """
        raise UserError(f"{self.name} of this folder does not start from an image", "--image", "leave it out")

    def defaults(self) -> dict[str, float]:
        """How the pipeline is called when nothing is said: frames, height, width, steps, guidance."""
        said = call_defaults(type(self.pipe))
        side = 8 * int(self.network_of().model.config.get("sample_size") or 64)
        named = {"frames": "num_frames", "height": "height", "width": "width", "steps": "num_inference_steps"}
        found = {ours: int(said.get(theirs) or (1 if ours == "frames" else side)) for ours, theirs in named.items()}
        return {**found, "guidance": float(said.get("guidance_scale") or 1.0)}

    def to(self, device: torch.device | str) -> Self:
        """Everything on one device."""
        self.device = torch.device(device)
        self.net.to(self.device)
        for part in (*self.encoders, "vae"):
            if isinstance(module := getattr(self.pipe, part, None), nn.Module):
                module.to(self.device)
        return self

    def shifted(self, shift: float) -> None:
        """Take another time shift for grids."""
        self.clock = replace(self.clock, schedule=replace(self.clock.schedule, shift=shift))
        network = self.network_of()
        network.clock = self.clock
        self.net = self.as_net(network)

    def shift_for(self, shape: Sequence[int]) -> None:
        """The time shift of a scheduler whose shift follows the size of the latents [C, T, H, W]."""
        self.shifted(shift_of(self.pipe.scheduler.config, self.tokens(shape)))

    def tokens(self, shape: Sequence[int]) -> int:
        """Tokens of latents [C, T, H, W]."""
        return math.prod(n // p for n, p in zip(shape[1:], self.network_of().patch, strict=True))

    def mu_of(self, shape: Sequence[int]) -> float:
        """The shift that pipelines compute from the number of tokens."""
        return mu_for(self.pipe.scheduler.config, self.tokens(shape))

    @property
    def needs_image(self) -> bool:
        """Whether clips start from an image."""
        return "ImageToVideo" in type(self.pipe).__name__

    # -- the pipeline's own layout of latents, for its scheduler --------------------------------------------------

    def pack(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> latents as the pipeline holds them."""
        return x[:, :, 0] if self.image else x

    def unpack(self, z: Tensor, shape: Sequence[int]) -> Tensor:
        """Latents of the pipeline -> [B, C, T, H, W]; shape: [C, T, H, W]."""
        return z[:, :, None] if self.image else z

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """[1, C, T, H, W] of first noise, drawn as the pipeline draws it."""
        return torch.randn((1, *shape), generator=generator)

    # -- the pipeline's own sampling, for stock_sampler --------------------------------------------------------------

    def set_timesteps(self, scheduler: Any, steps: int, shape: Sequence[int], device: torch.device) -> None:
        """As the pipeline sets them for latents of shape [C, T, H, W]."""
        scheduler.set_timesteps(steps, device=device)

    def advance(
        self, scheduler: Any, prediction: Tensor, i: int, z: Tensor, generator: Any, memory: dict[str, Any]
    ) -> Tensor:
        """One scheduler step as the pipeline makes it. memory: what it carries from step to step.

        Of pipelines that have an eta it is their 0, which is not every scheduler's own.
        """
        if "more" not in memory:
            takes = inspect.signature(scheduler.step).parameters
            own = getattr(self.pipe, "prepare_extra_step_kwargs", None)
            memory["more"] = own(generator, 0.0) if own else {"generator": generator} if "generator" in takes else {}
        more = memory["more"]
        return scheduler.step(prediction, scheduler.timesteps[i], z, return_dict=False, **more)[0]  # type: ignore[no-any-return]

    def finish(self, x: Tensor, cond: Cond) -> Tensor:
        """What the pipeline does to clean latents [B, C, T, H, W] at the end."""
        return x

    def scale_at(self, scale: float, timestep: float, steps: int) -> float:
        """The guidance scale the pipeline uses at a timestep."""
        return scale

    # -- in and out ----------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype | None = None, negative: str = "") -> Self:
        """Open a pipeline folder. dtype: float32 when left out. UserError for a folder that does not open whole."""
        folder = Path(folder)
        family = cls(open_pipeline(folder, cls.pipelines, cls.name, dtype or torch.float32), negative)
        if (folder / GUIDANCE_FILE).is_file():
            net = family.network_of().with_scale_input()
            assert net.guidance is not None
            fill(net.guidance, read_tensors(folder / GUIDANCE_FILE), str(folder / GUIDANCE_FILE))
            family.net = family.as_net(net)
        if (tokens := GuidanceTokens.read(folder)) is not None:
            family.network_of().beside[SCALES] = tokens
        family.folder = folder.resolve()
        return family

    def network_of(self, net: Net | None = None) -> StockNet:
        """The stock network inside a Denoiser; the family's own when left out."""
        network = (net or self.net).net
        assert isinstance(network, StockNet)
        return network

    def as_net(self, network: StockNet) -> Net:
        """The network as a Denoiser on the family's path."""
        return Net(network, self.clock.schedule, self.clock.predicts)

    def load_adapter(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """Put a LoRA, named <part>.<layer>.lora_A.weight, onto the network by the pipeline's own loader.

        folder: where the loader finds its file. UserError for a LoRA of another base.
        """
        check_lora(tensors, self.network_of().parts, self.name, folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / LORA_FILE)
        attach_lora(self.pipe, self.network_of().parts, folder)

    def few_step_scheduler(self, net: Net, times: Sequence[float]) -> FewStepScheduler:
        """The scheduler an exported student carries."""
        kind = next(k for k, v in PREDICTS.items() if v == net.predicts)
        return FewStepScheduler.of(self.clock.schedule, times, kind, self.clock.steps)

    def save(self, net: Net, folder: Path, times: Sequence[float] | None = None) -> None:
        """Write the stock pipeline with the weights of `net`; `times` adds the trained few-step schedule, and an
        embedding of the guidance scale, and what acts from beside the network, go into files of their own."""
        network = self.network_of(net)
        pipe = copy.copy(self.pipe)
        changed: dict[str, Any] = dict(network.parts)
        if times is not None:
            changed["scheduler"] = self.few_step_scheduler(net, times)
        pipe.register_modules(**changed)
        pipe.save_pretrained(folder)
        put_back(self.released, self.folder, folder)
        for config in (*folder.glob("*/config.json"), folder / INDEX):  # the library notes paths of this machine
            kept = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
            config.write_text(json.dumps(kept, indent=2) + "\n")
        if isinstance(network.guidance, GuidanceEmbedding):
            save_file(network.guidance.state_dict(), folder / GUIDANCE_FILE)
        for each in network.beside.values():
            each.write(folder)  # type: ignore[operator]


def pictures(image: Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in [-1, 1] -> pictures, for the image processors of encoders."""
    pixels = ((image.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]
