"""Adapters of the user's own networks: the published cepstra, the published layout, one clear line for a wrong file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vdistill.core.errors import UserError
from vdistill.eval.mfcc import mfcc
from vdistill.eval.scripted import landmarks, lip_opening, same_person, scripted
from vdistill.eval.syncnet import SyncNet, load_syncnet, syncnet

# first and last of the four steps that python_speech_features 0.6 gives for `chirp(800)`
PUBLISHED = [
    [14.7081, 21.5821, 12.0777, 5.7278, -0.7348, -8.0922, -14.3315, -20.2972, -23.8237, -25.3896, -23.4955, -20.4273,
     -16.0062],
    [15.0958, 33.7373, 22.2869, 11.3097, 0.3675, -9.9056, -17.1178, -22.0474, -23.0137, -21.0412, -15.7739, -9.8993,
     -3.9148],
]  # fmt: skip


def chirp(samples: int) -> Tensor:
    t = torch.arange(samples, dtype=torch.float64) / 16_000
    return 8000 * torch.sin(2 * torch.pi * (200 * t + 900 * t * t)) * (0.2 + t)


def test_cepstra_are_those_that_published_networks_were_trained_on() -> None:
    found = mfcc(chirp(800))
    assert found.shape == (4, 13)
    assert torch.allclose(found[[0, -1]], torch.tensor(PUBLISHED), atol=1e-4)


def test_published_names_and_shapes_load_and_answer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {k: v for k, v in SyncNet().state_dict().items() if "num_batches" not in k}  # files of 2017 have none
    assert state["netcnnlip.18.weight"].shape == (512, 256, 1, 6, 6) and state["netfcaud.3.weight"].shape == (1024, 512)
    assert 0 < 54_573_114 - 4 * sum(v.numel() for v in state.values()) < 20_000  # bytes of the published file
    save_file(state, tmp_path / "net.safetensors")
    net = load_syncnet(tmp_path / "net.safetensors")
    x, sound = torch.rand(1, 3, 8, 32, 32) * 2 - 1, torch.rand(1, 8 * 640) - 0.5
    found = syncnet(net, x, sound)
    assert found.distance.shape == (1,) and found.distance > 0 and found.offset.abs() <= 1
    assert not any(p.requires_grad for p in net.parameters())


class Told(nn.Module):
    """Two towers that answer with what they are shown: the first pixel's green, the first cepstrum's place."""

    @torch.jit.export
    def forward_lip(self, x: Tensor) -> Tensor:
        return x[:, 1, :, 0, 0]

    @torch.jit.export
    def forward_aud(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, ::4]

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("late", [0, 3])
def test_a_late_picture_is_found_with_its_sign(tmp_path: Path, late: int) -> None:
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.script(Told()), path)
    torch.manual_seed(1)
    loud = torch.rand(40).repeat_interleave(640) * torch.randn(40 * 640) * 0.2
    energy = mfcc(32768 * loud)[::4, 0][:40]
    green = energy.roll(late).div(127.5).sub(1).view(1, 1, 40, 1, 1)[:, :, : len(energy)]
    x = green.expand(1, 3, -1, 16, 16)
    found = syncnet(load_syncnet(path), x, loud[None])
    assert found.offset.tolist() == [late] and found.distance < 0.6 * found.confidence


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
@pytest.mark.parametrize("content", [None, b"PK not weights"])
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"unpickle\.py") as found:
        load_syncnet(path)
    assert "\n" not in str(found.value) and str(path) in str(found.value)


def test_weights_of_another_network_are_one_clear_line(tmp_path: Path) -> None:
    save_file({"netfcaud.3.bias": torch.zeros(4)}, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="published layout") as found:
        load_syncnet(tmp_path / "net.safetensors")
    assert "\n" not in str(found.value)


class Points(nn.Module):
    """68 points in the middle; the inner lips as far apart as the picture is bright."""

    def forward(self, x: Tensor) -> Tensor:
        points = torch.full((x.shape[0], 68, 2), 128.0)
        points[:, 36, 0], points[:, 45, 0] = 64.0, 192.0
        points[:, 65:68, 1] += (64 * x.mean((1, 2, 3)))[:, None]
        return points


def test_lip_openings_are_in_units_of_the_distance_of_the_eyes() -> None:
    x = torch.stack([torch.full((3, 16, 16), 2 * v - 1) for v in (0.0, 0.5, 1.0)], 1)[None]
    assert torch.allclose(lip_opening(landmarks(Points(), x)), torch.tensor([[0.0, 0.25, 0.5]]), atol=1e-5)
    with pytest.raises(UserError, match="landmarks"):
        landmarks(nn.Flatten(), x)


def test_a_person_is_like_itself() -> None:
    x = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    x[:, :, :] = x[:, :, :1]
    assert torch.allclose(same_person(nn.Flatten(), x, x[:, :, 0]), torch.ones(2))
    assert same_person(nn.Flatten(), x, -x[:, :, 0]).max() < -0.99
    with pytest.raises(UserError, match="identity network"):
        same_person(nn.Identity(), x, x[:, :, 0])


def test_a_missing_script_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        scripted(tmp_path / "gone.pt")
