"""Turn a pickled checkpoint into safetensors: python tools/unpickle.py FILE.pt OUT.safetensors [--keys generator_ema]

Only tensors in nested dictionaries are read (torch.load with weights_only): a file that needs any code of its own to
open is refused. Nested names are joined by dots, generator_ema.model.blocks.0...; then `vdistill convert` reads OUT.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vdistill.core.checkpoint import io_error
from vdistill.core.errors import UserError


def read(path: Path) -> Any:
    """What a pickled file holds, tensors mapped from the disk. UserError for one that is not plain tensors."""
    if not path.is_file():
        raise UserError("no such file", str(path))
    warnings.simplefilter("ignore")  # of old pickle protocols; what matters is an error
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # torch's format of before 2020
    except Exception as error:  # unpickling fails in many ways; each means the file is not plain tensors
        asked = re.search(r"(?:GLOBAL|Unsupported global|Unsupported class) (\S+)", str(error))
        why = f"asks to run {asked[1]}" if asked else str(error).strip().splitlines()[0][:200]
        raise UserError(f"is not plain tensors ({why})", str(path), "save its state dict alone") from error


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, leaf) of nested dictionaries and lists."""
    if isinstance(value, Mapping):
        pairs = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(str(i), v) for i, v in enumerate(value)]
    else:
        yield name, value
        return
    for key, inner in pairs:
        yield from flat(inner, f"{name}.{key}" if name else key)


def choose(loaded: Any, keys: Sequence[str], where: str) -> tuple[dict[str, Tensor], list[str]]:
    """(tensors by dotted name, names of other leaves) of the sub-dictionaries `keys`, of everything without them."""
    tensors: dict[str, Tensor] = {}
    others: list[str] = []
    for name, leaf in flat(loaded):
        if keys and not any(name == key or name.startswith(f"{key}.") for key in keys):
            continue
        if not isinstance(leaf, Tensor):
            others.append(name)
        elif tensors.setdefault(name, leaf) is not leaf:
            raise UserError(f"holds {name} twice", where)
    absent = [key for key in keys if not any(n == key or n.startswith(f"{key}.") for n in tensors)]
    if absent or not tensors:
        top = sorted(map(str, loaded)) if isinstance(loaded, Mapping) else [type(loaded).__name__]
        raise UserError(
            f"no tensors under {', '.join(absent) or 'it'}; it holds {', '.join(top[:12])}", where, "see --keys"
        )
    return tensors, others


def own_storage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory, as safetensors asks; what is whole and alone is not copied."""
    seen: set[int] = set()
    out = {}
    for name, t in tensors.items():
        t = t.detach()
        place = t.untyped_storage().data_ptr()
        alone = place not in seen and t.is_contiguous() and t.nbytes == t.untyped_storage().nbytes()
        seen.add(place)
        out[name] = t if alone else t.clone(memory_format=torch.contiguous_format)
    return out


def write(tensors: Mapping[str, Tensor], out: Path) -> None:
    """Written aside, then renamed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.tmp")
    try:
        save_file(own_storage(tensors), scratch, metadata={"format": "pt"})
        os.replace(scratch, out)
    except SafetensorError as error:
        raise io_error(error, out) from error
    finally:
        scratch.unlink(missing_ok=True)


def run(argv: Sequence[str] | None = None) -> int:
    """The whole conversion. UserError for anything wrong with what was asked."""
    parser = argparse.ArgumentParser("unpickle", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", metavar="FILE", type=Path, help=".pt, .pth, .bin or .ckpt")
    parser.add_argument("out", metavar="OUT", type=Path, help=".safetensors file to write")
    parser.add_argument("--keys", nargs="+", default=[], help="sub-dictionaries, such as generator_ema; all without")
    args = parser.parse_args(argv)
    if args.out.suffix != ".safetensors":
        raise UserError("must end in .safetensors", str(args.out))
    if args.out.exists():
        raise UserError("exists", str(args.out), "name a new file")
    tensors, others = choose(read(args.file), args.keys, str(args.file))
    write(tensors, args.out)
    print(args.out)
    left = f"; {len(others)} values that are no tensors left out: {', '.join(others[:5])}" if others else ""
    print(f"{len(tensors)} tensors{left}", file=sys.stderr)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`run`, with a user's mistake as one line and exit code 2."""
    try:
        return run(argv)
    except UserError as error:
        print(f"unpickle: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"unpickle: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
