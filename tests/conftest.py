"""One thread, no network, no hub: nothing a test does leaves the machine, and the suite runs on a laptop offline."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import ipaddress
import random
import socket
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

_connect, _connect_ex, _sendto = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto


def _refuse_beyond_loopback(sock: socket.socket, address: Any) -> None:
    if sock.family == socket.AF_UNIX:
        return
    host = str(address[0])
    try:
        inside = ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside:
        raise PermissionError(f"a test tried to reach {host}; tests may use loopback only")


class _Loopback(socket.socket):
    """The socket of the test process: loopback and Unix addresses only, and no name but localhost is looked up."""

    def connect(self, address: Any) -> None:
        _refuse_beyond_loopback(self, address)
        _connect(self, address)

    def connect_ex(self, address: Any) -> int:
        _refuse_beyond_loopback(self, address)
        return _connect_ex(self, address)

    def sendto(self, data: Any, *rest: Any) -> int:
        _refuse_beyond_loopback(self, rest[-1])
        return _sendto(self, data, *rest)


def _local_names_only(find: Any) -> Any:
    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (None, "", "localhost", socket.gethostname()):
            try:
                ipaddress.ip_address(str(name).split("%")[0])
            except ValueError as error:
                raise PermissionError(f"a test looked up {name!r}; tests may use loopback only") from error
        return find(host, *rest, **more)

    return look_up


socket.socket = _Loopback  # type: ignore[misc]
socket.getaddrinfo = _local_names_only(socket.getaddrinfo)


@pytest.fixture(autouse=True)
def _same_seeds_every_test() -> None:
    """A test's draws do not depend on which tests ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_attention_every_test() -> Iterator[None]:
    """A test's attention kernel is not the one an earlier test asked for: diffusers keeps the last for the process."""
    yield
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    if dispatch is not None:
        dispatch._AttentionBackendRegistry.set_active_backend(dispatch.AttentionBackendName("native"))
