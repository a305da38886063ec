"""`vdistill doctor`: what this machine has, what works of it, and what is missing for what. Changes nothing."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any

from .. import __version__
from .catalog import EXTRAS, install_hint

NEEDED = ("torch", "numpy", "einops", "safetensors", "diffusers", "transformers", "accelerate", "peft", "pydantic",
          "PyYAML", "tqdm", "pillow", "av")  # fmt: skip
ATTENTION = {"flash": "flash_attn", "xformers": "xformers", "sage": "sageattention"}
TROUBLE = {
    "torchvision": "transformers and peft fail with it; uninstall it, vdistill does not need it",
    "torchaudio": "not needed by vdistill; uninstall it",
}
"""Packages that break others where their build does not match that of torch."""
IMPORT_SECONDS = 120.0
BF16 = {True: "works on the CPU", False: "emulated by this CPU, so training on it is in float32", None: "?"}


def run(args: argparse.Namespace) -> int:
    """0 when everything needed is there and works, 1 when not."""
    found = examine()
    print(json.dumps(found, indent=2) if args.json else "\n".join(told(found)))
    return 0 if found["healthy"] else 1


def examine() -> dict[str, Any]:
    """Everything doctor knows, as plain values."""
    torch = torch_facts()
    attention = attention_facts(torch)
    media = {"av": import_fault("av"), **{n: import_fault(n) for n in ("decord", "torchcodec") if version_of(n)}}
    troubles = {n: f"{fault}; {TROUBLE[n]}" for n in TROUBLE if version_of(n) and (fault := import_fault(n))}
    missing = [n for n in NEEDED if not version_of(n)]
    if torch.get("error"):
        troubles["torch"] = torch["error"]
    if media["av"] and "av" not in missing:
        troubles["av"] = media["av"]
    return {
        "vdistill": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {n: version_of(n) for n in NEEDED},
        "cores": cores(),
        "memory_gib": memory(),
        "disk_free_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "torch": torch,
        "attention": attention,
        "media": {n: fault or f"works ({version_of(n)})" for n, fault in media.items()},
        "extras": {n: version_of(n) for n in EXTRAS},
        "missing": missing,
        "troubles": troubles,
        "healthy": not missing and not troubles,
    }


def version_of(package: str) -> str | None:
    """The installed version, without importing it; None when it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown" if package.isidentifier() and util.find_spec(package) else None


def import_fault(module: str) -> str:
    """Why a module cannot be imported, tried in a process of its own; "" when it can."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"import takes more than {IMPORT_SECONDS:.0f} s"
    if tried.returncode == 0:
        return ""
    last = (tried.stderr.strip().splitlines() or [f"import ended with code {tried.returncode}"])[-1]
    return f"does not import ({last[:160]})"


def cores() -> dict[str, float]:
    """Processors of the machine, those this process may use, and the share a container grants."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    granted = int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0].isdigit() else float(usable)
    return {"machine": os.cpu_count() or 1, "usable": usable, "granted": round(min(granted, usable), 2)}


def memory() -> dict[str, float | None]:
    """GiB of the machine, free now, and the limit of a container."""
    info: dict[str, int] = {}
    for line in _read("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if rest.split()[:1] and rest.split()[0].isdigit():
            info[name] = int(rest.split()[0])
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return {
        "machine": round(info["MemTotal"] / 2**20, 1) if "MemTotal" in info else None,
        "free": round(info["MemAvailable"] / 2**20, 1) if "MemAvailable" in info else None,
        "limit": round(int(limit) / 2**30, 1) if limit.isdigit() else None,
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def torch_facts() -> dict[str, Any]:
    """Version, threads and accelerators of torch; {"error": ...} when it does not import."""
    try:
        import torch
    except Exception as error:  # a torch that is broken fails in many ways; doctor is there to say which
        return {"error": f"torch does not import ({type(error).__name__}: {str(error)[:160]})", "devices": []}
    from ..core.precision import emulates_bf16

    devices = ["cpu"]
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        kind = f"compute {about.major}.{about.minor}"
        devices.append(f"cuda:{i} {about.name}, {about.total_memory / 2**30:.0f} GiB, {kind}")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "muon": hasattr(torch.optim, "Muon"),
        "bf16": not emulates_bf16("cpu"),
        "devices": devices,
    }


def attention_facts(torch: Mapping[str, Any]) -> dict[str, str]:
    """backend -> "works", or why not and what would help."""
    cuda = any(device.startswith("cuda") for device in torch["devices"])
    found = {"native": torch.get("error", "works")}
    if not torch.get("error"):
        here = util.find_spec("torch.nn.attention.flex_attention") is not None
        found["flex"] = "works" if here and cuda else "needs CUDA" if here else "needs torch 2.5"
    for backend, package in ATTENTION.items():
        if not version_of(package):
            found[backend] = f"missing: {install_hint(package)}" + ("" if cuda else " (CUDA only, no use here)")
        else:
            found[backend] = import_fault(package) or ("works" if cuda else "installed, but needs CUDA")
    return found


def told(found: Mapping[str, Any]) -> list[str]:
    """The findings as lines for people."""
    torch, cores_, memory_ = found["torch"], found["cores"], found["memory_gib"]
    limit = f", limited to {memory_['limit']}" if memory_["limit"] else ""
    lines = [
        f"vdistill {found['vdistill']}, Python {found['python']}, {found['system']}",
        f"cores     {cores_['granted']:g} of {cores_['machine']}; torch uses {torch.get('threads', '?')} threads",
        f"memory    {memory_['free']} GiB free of {memory_['machine']}{limit}; disk {found['disk_free_gib']} GiB here",
        f"devices   {'; '.join(torch['devices']) or 'none'}",
        f"bf16      {BF16[torch.get('bf16')]}",
        "packages  " + ", ".join(f"{n} {v or 'MISSING'}" for n, v in found["packages"].items()),
        *(f"attention {n:<9} {text}" for n, text in found["attention"].items()),
        *(f"media     {n:<9} {text}" for n, text in found["media"].items()),
    ]
    for package, version in found["extras"].items():
        extra, purpose = EXTRAS[package]
        has = version or f"missing; for {purpose}: {install_hint(package)}"
        lines.append(f"extra     {f'[{extra}]':<9} {package:<12} {has}")
    lines += [f"MISSING   {n}: pip install {n}" for n in found["missing"]]
    lines += [f"TROUBLE   {n}: {text}" for n, text in found["troubles"].items()]
    return [*lines, "all that is needed is there and works" if found["healthy"] else "see the lines in capitals"]
