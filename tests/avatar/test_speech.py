"""Speech networks out of local folders, as small random ones of the stock classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vdistill.avatar.ring import Ringed
from vdistill.avatar.speech import Speech, between, open_speech
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng

SOUND = 0.1 * Rng(0).normal("sound", (2, 640 * 10))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import transformers as tf

    root = tmp_path_factory.mktemp("speech")
    torch.manual_seed(0)
    conv = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    tf.Wav2Vec2Model(tf.Wav2Vec2Config(**size, **conv)).save_pretrained(root / "wav2vec2")
    tf.Wav2Vec2FeatureExtractor().save_pretrained(root / "wav2vec2")
    layers = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    width = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 32}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    tf.WhisperModel(tf.WhisperConfig(**layers, **width, **ids)).save_pretrained(root / "whisper")
    tf.WhisperFeatureExtractor().save_pretrained(root / "whisper")
    return {name: root / name for name in ("wav2vec2", "whisper")}


def test_a_ramp_read_between_its_values_is_a_ramp() -> None:
    ramp = torch.arange(20.0)[None, :, None]
    assert between(ramp, torch.arange(9) * 2 + 0.375)[0, :, 0].tolist() == [2 * f + 0.375 for f in range(9)]
    assert between(ramp, torch.tensor([-1.0, 25.0]))[0, :, 0].tolist() == [0, 19]
    assert between(ramp[:, :1], torch.tensor([0.0, 1.0]))[0, :, 0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("kind", "layers", "width"), [("wav2vec2", (), 48), ("wav2vec2", (-1, 0), 32), ("whisper", (), 32)]
)
def test_features_are_the_networks_own_at_25_a_second(
    folders: dict[str, Path], kind: str, layers: tuple[int, ...], width: int
) -> None:
    speech = open_speech(folders[kind], layers, phase=0.0)
    said = speech.features(SOUND)
    assert said.shape == (2, 10, width) and speech.width == width
    with torch.no_grad():
        states = speech.model(speech.prepare(SOUND), output_hidden_states=True).hidden_states
    every = torch.cat([states[i] for i in speech.layers], -1)
    torch.testing.assert_close(said, every[:, 0:20:2])  # at phase 0 a frame is every second feature
    middle = open_speech(folders[kind], layers).features(SOUND)
    whole = {"wav2vec2": 0.375, "whisper": 1.0}[kind]
    torch.testing.assert_close(middle[:, 3], (1 - whole) * every[:, 6] + whole * every[:, 7])


def test_whisper_hears_what_the_fast_mel_would_hear_at_the_same_place(folders: dict[str, Path]) -> None:
    speech = open_speech(folders["whisper"], (0,))
    struck = torch.zeros(1, 640 * 40)
    struck[:, 640 * 20 + 320] = 1.0
    moved = (speech.features(struck) - speech.features(struck * 0)).abs().sum(-1)[0]
    assert int(moved.argmax()) == 20


def test_long_sound_is_heard_in_parts_that_meet(folders: dict[str, Path]) -> None:
    speech = open_speech(folders["wav2vec2"], (0,))
    sound = 0.1 * Rng(1).normal("long", (1, 640 * 25 * 33))
    said = speech.features(sound)
    assert said.shape == (1, 25 * 33, 16) and bool(torch.isfinite(said).all())
    step = (said[:, 1:] - said[:, :-1]).norm(dim=-1)[0]
    assert float(step[25 * 24 - 1]) < 2 * float(step.median())


def test_live_it_hears_a_ring(folders: dict[str, Path]) -> None:
    speech = open_speech(folders["wav2vec2"])
    ringed = Ringed(speech, seconds=0.4, block=2)
    stream = ringed.stream()
    parts = [stream.push(SOUND[0, i : i + 1000]) for i in range(0, 6400, 1000)]
    assert torch.equal(torch.cat([*parts, stream.flush()]), ringed.features(SOUND[:1])[0])
    live: Speech = speech
    assert len(live.stream().push(torch.zeros(640 * 4))) == 4


def test_wrong_folders_and_layers_are_told_in_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder with a config.json; give a folder that transformers saved"):
        open_speech(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="holds a bert network; known: wav2vec2"):
        open_speech(tmp_path)
    with pytest.raises(UserError, match="has no layer 7"):
        open_speech(folders["wav2vec2"], (7,))
    lame = tmp_path / "lame"
    lame.mkdir()
    (lame / "config.json").write_bytes((folders["wav2vec2"] / "config.json").read_bytes())
    with pytest.raises(UserError, match="cannot be opened"):
        open_speech(lame)
