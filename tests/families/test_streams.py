"""Decoding a stream: exact where the VAE allows it, whatever the chunks; saved in the middle; seams where it is not."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from contract import CLOSE, Case, apart, case
from torch import Tensor
from torch.nn.functional import interpolate

from vdistill.families.overlap import OverlapStream, faded, seam

EXACT = ("wan", "cogvideox-5b", "cogvideox15-5b", "hunyuan")
TILED = ("hunyuan15", "ltx")


@cache
def made(variant: str) -> Case:
    return case(variant)


def latents(variant: str, frames: int, batch: int = 1) -> Tensor:
    """A clip that changes slowly, of so many latent frames beside the spare ones."""
    c, source = made(variant), torch.Generator().manual_seed(0)
    z, side = torch.randn(batch, c.shape[0], 5, 2, 2, generator=source), 2 if variant in TILED else 4
    return interpolate(z, size=(frames + getattr(c.family.codec, "spare", 0), side, side), mode="trilinear")


def streamed(stream: OverlapStream, z: Tensor, chunks: list[int]) -> list[Tensor]:
    parts = [stream(part) for part in z.split(chunks, 2)]
    rest = stream.finish() if hasattr(stream, "finish") else None
    return parts if rest is None else [*parts, rest]


def chunks_of(total: int, size: int) -> list[int]:
    return [size] * (total // size) + ([total % size] if total % size else [])


@pytest.mark.parametrize("variant", EXACT)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_a_stream_is_the_clip_decoded_whole_whatever_the_chunks(variant: str, size: int) -> None:
    codec, z = made(variant).family.codec, latents(variant, 9, batch=2)
    parts = streamed(codec.stream(), z, chunks_of(z.shape[2], size))
    assert apart(torch.cat(parts, 2), codec.decode(z)) <= CLOSE


@pytest.mark.parametrize("frames", range(1, 12))
def test_the_last_tile_of_hunyuan_is_the_vaes_too(frames: int) -> None:
    codec, z = made("hunyuan").family.codec, latents("hunyuan", frames)
    whole = codec.decode(z)
    assert whole.shape[2] == 1 + 4 * (frames - 1)
    assert apart(torch.cat(streamed(codec.stream(), z, chunks_of(frames, 3)), 2), whole) <= CLOSE
    assert codec.vae.use_framewise_decoding


def test_hunyuan_waits_for_two_latent_frames() -> None:
    codec, z = made("hunyuan").family.codec, latents("hunyuan", 12)
    assert [part.shape[2] for part in streamed(codec.stream(), z, [3] * 4)] == [0, 13, 12, 12, 8]


@pytest.mark.parametrize(("frames", "pixels"), [(1, 1), (2, 5), (3, 9), (4, 13), (6, 21)])
def test_what_waits_at_the_end_of_cogvideox_is_completed_with_the_last_latent_frame(frames: int, pixels: int) -> None:
    codec, z = made("cogvideox-5b").family.codec, latents("cogvideox-5b", frames)
    ours = torch.cat(streamed(codec.stream(), z, [1] * frames), 2)
    more = z if frames % 2 else torch.cat([z, z[:, :, -1:]], 2)
    assert ours.shape[2] == pixels and apart(ours, codec.decode(more)[:, :, :pixels]) <= CLOSE


@pytest.mark.parametrize("variant", [*EXACT, *TILED])
@pytest.mark.parametrize("cut", [1, 2, 4, 6])
def test_a_stream_goes_on_from_what_was_saved_bit_for_bit(variant: str, cut: int) -> None:
    codec, z = made(variant).family.codec, latents(variant, 9)
    stream = codec.stream()
    stream(z[:, :, :cut])
    state = {name: value.clone() for name, value in stream.state().items()}
    uninterrupted = streamed(stream, z[:, :, cut:], [z.shape[2] - cut])
    again = codec.stream()
    again.restore(state)
    resumed = streamed(again, z[:, :, cut:], [z.shape[2] - cut])
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted, resumed, strict=True))


@pytest.mark.parametrize("variant", TILED)
def test_a_stream_in_tiles_has_every_frame_and_its_first_tile_is_exact(variant: str) -> None:
    codec, z = made(variant).family.codec, latents(variant, 10)
    whole, parts = codec.decode(z), streamed(codec.stream(), z, [4, 3, 3])
    assert torch.cat(parts, 2).shape == whole.shape
    alone = codec.decode(z[:, :, :4])
    assert torch.equal(parts[0], alone[:, :, : parts[0].shape[2]])
    one = streamed(codec.stream(), z, [10])
    assert apart(torch.cat(one, 2), whole) <= CLOSE


@pytest.mark.parametrize("variant", TILED)
def test_more_latent_frames_in_front_and_a_fade_bring_a_seam_down(variant: str) -> None:
    codec, z, chunks = made(variant).family.codec, latents(variant, 10), [4, 3, 3]
    ratios = (codec.temporal, codec.spatial)

    def off(before: int, blend: int) -> float:
        return seam(codec.decode, OverlapStream(codec.unclipped, ratios, before, blend), z, chunks).off

    ours = seam(codec.decode, codec.stream(), z, chunks)
    print(f"{variant}: off {ours.off:.4f}, jump {ours.jump:+.4f}")
    assert off(codec.before, codec.blend) == ours.off < off(codec.before, 0) < off(1, 0)


def test_a_causal_vae_that_sees_all_that_was_is_exact() -> None:
    codec, z = made("hunyuan15").family.codec, latents("hunyuan15", 7)
    stream = OverlapStream(codec.unclipped, (codec.temporal, codec.spatial), 7, 1)
    assert seam(codec.decode, stream, z, [3, 2, 2]).off <= CLOSE


def test_a_seam_that_is_exact_is_none() -> None:
    codec, z = made("hunyuan").family.codec, latents("hunyuan", 10)
    found = seam(codec.decode, codec.stream(), z, [4, 3, 3])
    assert found.off <= CLOSE and abs(found.jump) <= CLOSE


def test_a_fade_goes_from_the_old_to_the_new_in_equal_steps() -> None:
    old, new = torch.zeros(1, 1, 4, 1, 1), torch.ones(1, 1, 6, 1, 1)
    assert faded(old, new).flatten().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
