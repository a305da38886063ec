"""A stock diffusers network as the engine sees it: one layout, times in [0, 1], the attention seam, inner features.

A family says how its network is called (`forward`) and where things are (`blocks`, `attentions`, `seam`); the rest is
here. Weights and state-dict keys stay those of diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from ..core.attention import Attend, Placed, full
from ..core.cond import Cond
from ..core.errors import UserError
from .clock import Clock
from .guidance_input import GuidanceEmbedding
from .told import Alone, Known, Once, Read, kept_of

Processor = Any
"""What diffusers calls for one attention layer."""


def dtype_of(model: Any) -> torch.dtype:
    """What a stock network computes in: the type of its first weight that is neither kept wide nor stored in 8 bits."""
    wide = model._keep_in_fp32_modules or ()
    for name, value in model.named_parameters():
        if value.is_floating_point() and value.element_size() > 1 and not any(part in name for part in wide):
            return value.dtype  # type: ignore[no-any-return]
    return model.dtype  # type: ignore[no-any-return]


class Beside(Protocol):
    """Modules that act on a stock network from beside it, with weights and a file of their own."""

    def adds(self, cond: Cond, t: Tensor) -> Cond:
        """The conditions of a forward pass at t, [B] or [B, T], with what these modules say to the others."""

    def acting(self, host: Any, x: Tensor, cond: Cond) -> AbstractContextManager[None]:
        """Inside, the network `host` answers for x [B, C, T, H, W] under `cond` as these modules make it."""

    def write(self, folder: Path) -> None:
        """Put them into a model folder, beside the stock pipeline."""


class Enough(Exception):
    """Raised before a block that nobody needs: the forward pass ends there."""


def stop(module: nn.Module, args: Any) -> None:
    raise Enough


class StockNet(nn.Module):
    """x [B, C, T, H, W], t [B] or [B, T] -> prediction, shaped as x. parts: attribute of the pipeline -> its module.

    Reads Cond field "text" [B, L, D] and its parts; "guidance" [B] where the network takes the scale as an input.
    """

    text_in: ClassVar[str | None] = None
    """The linear layer the text goes through first: a fixed guidance scale folds into its bias."""
    per_frame: ClassVar[bool] = False
    """Whether a time for every position, t [B, T], is understood."""

    def __init__(self, parts: Mapping[str, nn.Module], clock: Clock, guidance: GuidanceEmbedding | None = None) -> None:
        super().__init__()
        self.clock, self.names = clock, tuple(parts)
        for name, module in parts.items():
            self.add_module(name, module)
        self.guidance = guidance
        self.beside = nn.ModuleDict()  # name -> a `Beside`

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Attribute of the pipeline -> its module."""
        return {name: self.get_submodule(name) for name in self.names}

    @property
    def model(self) -> Any:
        """The stock network (the first, where there are two)."""
        return self.get_submodule(self.names[0])

    @property
    def dtype(self) -> torch.dtype:
        """What the stock network computes in: its own `dtype`, which walks through all of its layers at every call."""
        return dtype_of(self.model)

    @property
    def channels(self) -> int:
        """Channels of the latents it denoises."""
        return int(self.model.config.get("out_channels") or self.model.config.in_channels)

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent positions, along T, H and W, that make one token."""
        size = self.model.config.get("patch_size", 1)
        return (1, size, size) if isinstance(size, int) else tuple(size)

    @property
    def takes_scale(self) -> bool:
        """Whether the guidance scale is an input."""
        return self.guidance is not None

    @property
    def scale_is_ours(self) -> bool:
        """Whether the stock pipeline would not tell the network its scale, so that an export must fix it."""
        return self.guidance is not None

    @property
    def can_take_scale(self) -> bool:
        """Whether there is a place for the guidance scale as an input."""
        return self.takes_scale or self.text_in is not None

    # -- how it is called ----------------------------------------------------------------------------------------

    def forward(self, x: Tensor, t: Tensor, cond: Cond, attend: Attend = full) -> Tensor:
        """The prediction of the stock network."""
        if t.ndim == 2 and not self.per_frame:
            raise UserError(f"{type(self).__name__} takes one time a sample, found one for each position", "t")
        if "first" in cond.fields and isinstance(attend, Placed):
            raise UserError(
                "a clip that starts from an image is made at once", "causal", "take a folder that starts from text"
            )
        for each in self.beside.values():
            cond = each.adds(cond, t)  # type: ignore[operator]
        with ExitStack() as held:
            for each in self.beside.values():
                held.enter_context(each.acting(self, x, cond))  # type: ignore[operator]
            read = kept_of(attend, cond)
            if read is not None and t.ndim == 2 and (short := self.briefly(cond)) is not None:
                if not read:
                    self.tell(x, cond, read)
                attend, cond = Known(attend, read), short
            held.enter_context(self.attending(attend, read))
            try:
                return self.predict(x, self.clock.told(t), cond)
            except Enough:
                return x  # `taps` has what it came for, and nobody reads this

    def briefly(self, cond: Cond) -> Cond | None:
        """Conditions with one row of text in place of all, for a joint model whose text is known; None where the text
        is not in the sequence."""
        return None

    def tell(self, x: Tensor, cond: Cond, read: Read) -> None:
        """Put every layer's keys and values of the text into `read`: a pass over the text and one token, at time 0."""
        alone, (p_t, high, wide) = Alone(), self.patch
        with self.attending(alone):
            self.predict(x[:, :, :p_t, :high, :wide], x.new_zeros(len(x), 1), cond)
        read.update(alone.read)

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """Call the stock network. timestep: [B] or [B, T], float32, as it was trained with."""
        raise TypeError(f"{type(self).__name__} does not say how its network is called")

    def text(self, cond: Cond) -> Tensor:
        """The text tokens [B, L, D], in the network's type, shifted by the guidance scale where that is an input."""
        text = cond.fields["text"].to(self.dtype)
        if self.guidance is not None and "guidance" in cond.fields:
            text = text + self.guidance(cond.fields["guidance"]).to(text.dtype)
        return text

    # -- where things are ----------------------------------------------------------------------------------------

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks whose outputs can be tapped, in order."""
        return list(self.model.transformer_blocks)

    def tapped(self, layer: int, out: Any) -> Tensor:
        """Features [B, N, C] of the sequence in what block `layer` returned."""
        return out if isinstance(out, Tensor) else out[0]  # type: ignore[no-any-return]

    def width(self, layer: int) -> int:
        """C of the features after block `layer`."""
        config = self.model.config
        return int(config.num_attention_heads * config.attention_head_dim)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """torch.compile every block where it stands. What answers for attention runs as before, so that no graph sees
        how much is remembered, and none is made anew as that grows."""
        kinds = {type(block) for block in self.blocks()}
        for module in self.modules():
            if type(module) in kinds:
                module.compile(backend=backend, dynamic=False)

    def attentions(self) -> Sequence[Any]:
        """The self-attention (or joint attention) modules, in order: layer i of the seam is the i-th."""
        raise TypeError(f"{type(self).__name__} does not say where its attention is")

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        """A processor that lets `attend` answer for layer `layer`, in place of the `stock` one."""
        raise TypeError(f"{type(self).__name__} has no attention seam")

    def readers(self) -> Sequence[Any]:
        """The attention modules that read the text apart from the sequence; none in a joint model."""
        return ()

    @contextmanager
    def attending(self, attend: Attend, read: Read | None = None) -> Iterator[None]:
        """Inside, `attend` answers for every layer; `full` leaves the network's own kernels in place.

        read: keys and values of the text, computed before or to be kept there.
        """
        if attend is full:
            yield
            return
        own, readers = self.attentions(), self.readers()
        layers = [*own, *readers]
        stock = [layer.processor for layer in layers]
        for i, layer in enumerate(own):
            layer.processor = self.seam(i, attend, layer.processor)
        if read is not None:
            for i, layer in enumerate(readers):
                layer.processor = Once(i, layer.processor, read)
        try:
            yield
        finally:
            for layer, processor in zip(layers, stock, strict=True):
                layer.processor = processor

    def taps(self, x: Tensor, t: Tensor, cond: Cond, layers: Sequence[int]) -> list[Tensor]:
        """Features [B, N, C] after the given blocks. Blocks behind the last of them do not run."""
        blocks, found = self.blocks(), {}
        if not layers or not all(0 <= layer < len(blocks) for layer in layers):
            raise UserError(f"layers {list(layers)} asked for, the network has 0..{len(blocks) - 1}", "taps")

        def keep(layer: int) -> Any:
            def hook(module: nn.Module, args: Any, out: Any) -> None:
                found[layer] = self.tapped(layer, out)

            return hook

        hooks = [blocks[layer].register_forward_hook(keep(layer)) for layer in layers]
        hooks += [block.register_forward_pre_hook(stop) for block in blocks[max(layers) + 1 :][:1]]
        try:
            self(x, t, cond)
        finally:
            for hook in hooks:
                hook.remove()
        return [found[layer] for layer in layers]

    # -- the guidance scale as an input --------------------------------------------------------------------------

    def with_scale_input(self) -> Self:
        """The same weights with the guidance scale as an input that changes nothing yet.

        UserError for a network with no place for it.
        """
        if self.takes_scale:
            return self
        layer = self._text_layer(self.model)
        return self._with_its_own(self.again(GuidanceEmbedding(layer.in_features)))

    def again(self, guidance: GuidanceEmbedding | None) -> Self:
        """The same stock modules with another embedding of the scale, or none."""
        return type(self)(self.parts, self.clock, guidance)

    def scale_module(self) -> nn.Module | None:
        """What is trained for the scale beside the network's own layers; None where nothing is."""
        return self.guidance

    def with_fixed_scale(self, scale: float) -> Self:
        """The plain stock network that answers as this one does at one scale; changes the weights in place.

        The embedding adds one vector d to every text token; the first layer of the text is linear, so adding W d to
        its bias is the same.
        """
        if self.guidance is None:
            return self
        for module in self.parts.values():
            first = self._text_layer(module)
            with torch.no_grad():
                shift = self.guidance(torch.tensor([scale], device=first.weight.device))[0, 0]
                first.bias.add_(first.weight @ shift.to(first.weight.dtype))
        return self._with_its_own(self.again(None))

    def _with_its_own(self, made: Self) -> Self:
        made.beside = self.beside
        return made

    def _text_layer(self, module: nn.Module) -> nn.Linear:
        if self.text_in is None:
            raise UserError(
                f"{type(self.model).__name__} has no place for a guidance scale", "method", "fix it: low = high"
            )
        layer = module.get_submodule(self.text_in)
        assert isinstance(layer, nn.Linear)
        return layer
