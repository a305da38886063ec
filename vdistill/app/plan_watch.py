"""Watching what runs, on real tensors and hollow ones: bytes of tensors alive, floating-point operations by type."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *args: Any, **more: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **more: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


OWN: Mapping[Any, Callable[..., int]] = {  # PyTorch's table leaves out the attention kernel of the CPU
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Watch(TorchDispatchMode):
    """While it is on: `alive` bytes of storages seen and not freed, their `peak`, and `flops` by element type."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.flops: Counter[torch.dtype] = Counter()
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors made before."""
        for tensor in tensors:
            self._see(tensor)

    def forget_peak(self) -> None:
        """The peak counts from here."""
        self.peak = self.alive

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or size == 0 or tensor.device.type == "meta":
            return

        def gone(_: object) -> None:
            self.alive -= self._known.pop(key)[1]

        self._known[key] = (weakref.ref(storage, gone), size)
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        packet = func._overloadpacket
        if packet in OWN:
            self.flops[args[0].dtype] += OWN[packet](*args, **kwargs)
        elif packet in flop_registry:
            self.flops[args[0].dtype] += int(flop_registry[packet](*args, **kwargs, out_val=out))
        return out


class AsOnGpu(TorchFunctionMode):
    """For hollow tensors, which are of the CPU: what autocast does on a GPU and not here, norms in float32.

    Masks, which hold no answer, choose all; whatever else is asked is true.
    """

    WIDE = (torch.nn.functional.layer_norm, torch.nn.functional.group_norm, torch.nn.functional.softmax)

    def __init__(self, wide: bool = True) -> None:
        super().__init__()
        self.wide = wide

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work under this mode: for what a backward pass computes again, which suspends it."""

        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return work(*args, **kwargs)

        return inside

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.wide and func in self.WIDE and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return func(*map(_wide, args), **{k: _wide(v) for k, v in kwargs.items()})
        if func is Tensor.__bool__ and isinstance(args[0], FakeTensor):
            return True
        if func is Tensor.__setitem__ and isinstance(args[0], FakeTensor) and not isinstance(args[2], Tensor):
            return None  # filled one by one, a mask of many positions would take minutes
        if func is Tensor.__invert__:
            out = func(*args)
            out.chooses_none = True  # type: ignore[attr-defined]
            return out
        if func is Tensor.__getitem__ and isinstance(args[1], FakeTensor) and args[1].dtype == torch.bool:
            return args[0][:0] if getattr(args[1], "chooses_none", False) else args[0][:]
        return func(*args, **kwargs)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
