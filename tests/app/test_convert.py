"""Public checkpoints, pickled or not, wrapped or not, become stock pipelines; what does not fit is refused whole."""

from __future__ import annotations

import argparse
import importlib.util
import json
import pickle
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import captions

from vdistill.app import convert
from vdistill.app.about import about
from vdistill.app.models import open_model
from vdistill.core.errors import UserError
from vdistill.families import wan_checkpoint
from vdistill.families.few_step import FewStepScheduler
from vdistill.families.tiny import TinyFamily, TinySize
from vdistill.families.wan_keys import to_original

ROOT = Path(__file__).resolve().parents[2]
SIZE = TinySize(
    dim=16, heads=2, layers=2, ffn=24, text_dim=12, text_length=16, codec="wan", patch=(1, 2, 2), predicts="flow"
)
Weights = dict[str, Tensor]
WARPED = [1.0, 0.9375, 0.8333333, 0.625]  # 1000, 750, 500, 250 of the authors at shift 5


def unpickle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unpickle", ROOT / "tools" / "unpickle.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock Wan pipeline of random weights, as a user would have one."""
    folder, family = tmp_path_factory.mktemp("base") / "wan", TinyFamily.build(SIZE, captions())
    family.save(family.net, folder)
    return folder


@pytest.fixture(scope="module")
def student(base: Path) -> Weights:
    """Other weights of that transformer, by diffusers name."""
    torch.manual_seed(1)
    old = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    return {name: 0.1 * torch.randn_like(value) for name, value in old.items()}


def originals(weights: Mapping[str, Tensor], front: str = "model.") -> Weights:
    return {f"{front}{to_original(name)}": value for name, value in weights.items()}


def asked(checkpoint: Path, base: Path, out: Path, **more: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    convert.arguments(parser)
    args = parser.parse_args([str(checkpoint), "--base", str(base), "--out", str(out)])
    return argparse.Namespace(**{**vars(args), **more})


def stored(tensors: Mapping[str, Tensor], path: Path) -> Path:
    save_file({name: value.clone() for name, value in tensors.items()}, path)
    return path


def refusal(args: argparse.Namespace) -> str:
    """What is said; nothing may be left behind."""
    before = sorted(args.out.parent.iterdir())
    with pytest.raises(UserError) as caught:
        convert.run(args)
    assert sorted(args.out.parent.iterdir()) == before and "\n" not in str(caught.value)
    return str(caught.value)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_pickled_checkpoint_ends_as_a_stock_pipeline_of_equal_weights_and_times(
    base: Path, student: Weights, tmp_path: Path
) -> None:
    other = {name: value + 1 for name, value in student.items()}
    wrapped = originals(student, "model._fsdp_wrapped_module.")
    torch.save({"generator": originals(other), "generator_ema": wrapped, "step": 600}, tmp_path / "dmd.pt")
    assert (
        unpickle().main([str(tmp_path / "dmd.pt"), str(tmp_path / "dmd.safetensors"), "--keys", "generator_ema"]) == 0
    )
    assert convert.run(asked(tmp_path / "dmd.safetensors", base, tmp_path / "out", preset="self_forcing")) == 0
    pipe = WanPipeline.from_pretrained(tmp_path / "out")
    assert same(pipe.transformer.state_dict(), student)
    assert type(pipe.scheduler) is FewStepScheduler
    assert pipe.scheduler.config.times == pytest.approx(WARPED)
    assert pipe.scheduler.config.prediction_type == "flow_prediction"
    old = WanPipeline.from_pretrained(base)
    assert same(pipe.vae.state_dict(), old.vae.state_dict())
    assert same(pipe.text_encoder.state_dict(), old.text_encoder.state_dict())
    known = about(tmp_path / "out")
    assert (known.method, known.steps, known.guidance) == ("self_forcing", 4, 1.0)
    causal = json.loads((tmp_path / "out" / "causal.json").read_text())
    assert (causal["block"], causal["rope"], causal["commit_sigma"]) == (3, "absolute", 0.0)
    assert causal["times"] == pytest.approx(WARPED)


def test_the_converted_student_samples_in_the_stock_pipeline_and_opens_here(
    base: Path, student: Weights, tmp_path: Path
) -> None:
    convert.run(
        asked(stored(originals(student, ""), tmp_path / "a.safetensors"), base, tmp_path / "out", preset="causvid")
    )
    family = open_model(tmp_path / "out")
    assert family.times == pytest.approx((1.0, 0.757, 0.522)) and family.net.predicts == "flow"
    family.pipe.set_progress_bar_config(disable=True)
    made = family.pipe(
        "a red square", height=16, width=16, num_frames=5, guidance_scale=1.0, max_sequence_length=16,
        output_type="latent", generator=torch.Generator().manual_seed(0),
    ).frames  # fmt: skip
    assert made.shape == (1, 16, 2, 2, 2) and torch.isfinite(made).all()


def test_without_a_preset_the_bases_scheduler_stays_and_diffusers_names_are_taken(
    base: Path, student: Weights, tmp_path: Path
) -> None:
    convert.run(asked(stored(student, tmp_path / "a.safetensors"), base, tmp_path / "out"))
    assert same(WanPipeline.from_pretrained(tmp_path / "out").transformer.state_dict(), student)
    for file in ("scheduler/scheduler_config.json", "model_index.json"):
        assert json.loads((tmp_path / "out" / file).read_text()) == json.loads((base / file).read_text())
    assert not (tmp_path / "out" / "causal.json").exists()


def test_many_files_hold_the_same_weights_as_one(
    base: Path, student: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wan_checkpoint, "SHARD", 8000)
    convert.run(asked(stored(originals(student), tmp_path / "a.safetensors"), base, tmp_path / "out"))
    files = sorted((tmp_path / "out" / "transformer").glob("*.safetensors"))
    assert len(files) > 2
    assert same(WanPipeline.from_pretrained(tmp_path / "out").transformer.state_dict(), student)


def test_several_sub_dictionaries_have_to_be_chosen_from(base: Path, student: Weights, tmp_path: Path) -> None:
    both = originals(student, "generator.model.") | originals(
        {k: -v for k, v in student.items()}, "generator_ema.model."
    )
    file = stored(both, tmp_path / "a.safetensors")
    assert "generator, generator_ema" in refusal(asked(file, base, tmp_path / "out"))
    assert "under 'critic'" in refusal(asked(file, base, tmp_path / "out", keys="critic"))
    convert.run(asked(file, base, tmp_path / "out", keys="generator"))
    assert same(WanPipeline.from_pretrained(tmp_path / "out").transformer.state_dict(), student)


def test_foreign_names_are_refused_until_allowed(base: Path, student: Weights, tmp_path: Path) -> None:
    heads = {f"_cls_pred_branch.{i}.weight": torch.ones(2) for i in range(5)} | {"_register_tokens": torch.ones(1, 3)}
    file = stored(originals(student, "generator.model.") | {f"generator.{k}": v for k, v in heads.items()},
                  tmp_path / "a.safetensors")  # fmt: skip
    said = refusal(asked(file, base, tmp_path / "out"))
    assert "0 missing, 6 unexpected (_cls_pred_branch.0.weight, " in said and "--allow _cls_pred_branch" in said
    assert "1 unexpected (_register_tokens)" in refusal(asked(file, base, tmp_path / "out", allow=["_cls_pred_branch"]))
    convert.run(asked(file, base, tmp_path / "out", allow=["_cls_pred_branch", "_register_tokens"]))
    assert same(WanPipeline.from_pretrained(tmp_path / "out").transformer.state_dict(), student)


def test_missing_names_are_refused_until_allowed_and_then_the_bases(
    base: Path, student: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = [name for name in student if name.startswith("blocks.1.ffn")]
    file = stored(originals({k: v for k, v in student.items() if k not in gone}), tmp_path / "a.safetensors")
    said = refusal(asked(file, base, tmp_path / "out"))
    assert f"{len(gone)} missing (blocks.1.ffn.net.0.proj.bias, " in said and "0 unexpected" in said
    convert.run(asked(file, base, tmp_path / "out", allow=["blocks.*.ffn"]))
    assert f"{len(gone)} missing, the base's kept" in capsys.readouterr().err
    old = WanPipeline.from_pretrained(base).transformer.state_dict()
    made = WanPipeline.from_pretrained(tmp_path / "out").transformer.state_dict()
    assert same(made, {k: old[k] if k in gone else v for k, v in student.items()})


def test_another_shape_is_refused_even_if_its_name_is_allowed(base: Path, student: Weights, tmp_path: Path) -> None:
    name = "patch_embedding.weight"
    wide = student | {name: torch.zeros(16, 36, 1, 2, 2)}
    file = stored(originals(wide), tmp_path / "a.safetensors")
    said = refusal(asked(file, base, tmp_path / "out", allow=["patch"]))
    assert f"1 of another shape ({name} (16, 36, 1, 2, 2), the base has (16, 16, 1, 2, 2))" in said


def test_values_that_are_not_finite_are_refused(base: Path, student: Weights, tmp_path: Path) -> None:
    bad = student | {"proj_out.bias": torch.full_like(student["proj_out.bias"], float("nan"))}
    assert "head.head.bias holds values" in refusal(
        asked(stored(originals(bad, ""), tmp_path / "a.safetensors"), base, tmp_path / "out")
    )


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.ckpt", "really-a-pickle.safetensors"])
def test_a_pickled_file_is_never_opened(base: Path, student: Weights, tmp_path: Path, name: str) -> None:
    torch.save({"generator": originals(student)}, tmp_path / name)
    assert "python tools/unpickle.py" in refusal(asked(tmp_path / name, base, tmp_path / "out"))


def test_files_and_bases_that_are_none_get_one_line_each(base: Path, student: Weights, tmp_path: Path) -> None:
    good, out = stored(originals(student), tmp_path / "good.safetensors"), tmp_path / "out"
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-50])
    stored({"encoder.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    twice = stored(originals(student) | originals(student, ""), tmp_path / "twice.safetensors")
    (tmp_path / "empty").mkdir()
    assert "not a whole safetensors" in refusal(asked(tmp_path / "cut.safetensors", base, out))
    assert "no Wan transformer" in refusal(asked(tmp_path / "other.safetensors", base, out))
    assert "are one weight" in refusal(asked(twice, base, out))
    assert "no such file" in refusal(asked(tmp_path / "none.safetensors", base, out))
    assert "not a diffusers pipeline" in refusal(asked(good, tmp_path / "empty", out))
    assert "has no transformer_2" in refusal(asked(good, base, out, part="transformer_2"))
    assert "is for a LoRA" in refusal(asked(good, base, out, alpha=4.0))
    assert "not empty" in refusal(asked(good, base, base))


def test_weights_can_be_stored_in_half_precision(base: Path, student: Weights, tmp_path: Path) -> None:
    file = stored(originals(student), tmp_path / "a.safetensors")
    convert.run(asked(file, base, tmp_path / "out", dtype="bfloat16"))
    made = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert same(made, {name: value.bfloat16() for name, value in student.items()})


def test_quantised_weights_are_refused(base: Path, student: Weights, tmp_path: Path) -> None:
    small = originals(student) | {"model.blocks.0.ffn.0.weight": torch.zeros(24, 16, dtype=torch.float8_e4m3fn)}
    assert "stored as F8_E4M3" in refusal(asked(stored(small, tmp_path / "a.safetensors"), base, tmp_path / "out"))


def test_one_of_two_experts_has_to_be_named(base: Path, student: Weights, tmp_path: Path) -> None:
    two = Path(shutil.copytree(base, tmp_path / "two"))
    shutil.copytree(base / "transformer", two / "transformer_2")
    index = json.loads((two / "model_index.json").read_text())
    index |= {"transformer_2": index["transformer"], "boundary_ratio": 0.9}
    (two / "model_index.json").write_text(json.dumps(index))
    file = stored(originals(student), tmp_path / "a.safetensors")
    assert "--part transformer or transformer_2" in refusal(asked(file, two, tmp_path / "out"))
    convert.run(asked(file, two, tmp_path / "out", part="transformer_2"))
    pipe, old = WanPipeline.from_pretrained(tmp_path / "out"), WanPipeline.from_pretrained(base)
    assert same(pipe.transformer_2.state_dict(), student)
    assert same(pipe.transformer.state_dict(), old.transformer.state_dict())
    lora = stored(adapter(student, ("lora_A.weight", "lora_B.weight"), "")[0], tmp_path / "lora.safetensors")
    convert.run(asked(lora, two, tmp_path / "lora", part="transformer_2"))
    names = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert all(name.startswith("transformer_2.blocks.") for name in names)


def test_what_a_converted_base_says_of_blocks_goes_along(base: Path, student: Weights, tmp_path: Path) -> None:
    file = stored(originals(student), tmp_path / "a.safetensors")
    convert.run(asked(file, base, tmp_path / "first", preset="longlive"))
    lora = stored(adapter(student, ("lora_A.weight", "lora_B.weight"), "")[0], tmp_path / "lora.safetensors")
    convert.run(asked(lora, tmp_path / "first", tmp_path / "second"))
    said = [json.loads((tmp_path / name / "causal.json").read_text()) for name in ("first", "second")]
    assert said[0] == said[1] and (said[0]["window"], said[0]["sink"]) == (12, 3)
    assert FewStepScheduler.from_pretrained(tmp_path / "second" / "scheduler").config.times == pytest.approx(WARPED)


# -- LoRA ------------------------------------------------------------------------------------------------------------

MODULES = {"self_attn.q": "attn1.to_q", "cross_attn.v": "attn2.to_v", "ffn.2": "ffn.net.2"}


def adapter(student: Weights, names: tuple[str, str], front: str) -> tuple[Weights, dict[str, Tensor]]:
    """(a LoRA of rank 3 by original name, what it adds to each weight at scale 1)."""
    torch.manual_seed(2)
    lora: Weights = {}
    added: Weights = {}
    for i in range(2):
        for theirs, ours in MODULES.items():
            rows, columns = student[f"blocks.{i}.{ours}.weight"].shape
            a, b = torch.randn(3, columns), torch.randn(rows, 3)
            lora |= dict(zip((f"{front}blocks.{i}.{theirs}.{n}" for n in names), (a, b), strict=True))
            added[f"blocks.{i}.{ours}.weight"] = b @ a
    return lora, added


def answer(transformer: torch.nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 5, 12, generator=generator)
    with torch.no_grad():
        return transformer(x, torch.tensor([700.0]), text, return_dict=False)[0]


@pytest.mark.parametrize(
    ("names", "front", "alpha", "scale"),
    [
        (("lora_A.weight", "lora_B.weight"), "base_model.model.", None, 1.0),
        (("lora_A.default.weight", "lora_B.default.weight"), "generator_lora.base_model.model.", None, 1.0),
        (("lora_A.weight", "lora_B.weight"), "diffusion_model.", None, 1.0),
        (("lora_down.weight", "lora_up.weight"), "diffusion_model.", 6.0, 2.0),
    ],
)
def test_a_lora_in_the_stock_pipeline_adds_its_product_to_the_weights(
    base: Path, tmp_path: Path, names: tuple[str, str], front: str, alpha: float | None, scale: float
) -> None:
    pipe = WanPipeline.from_pretrained(base)
    plain = answer(pipe.transformer)
    lora, added = adapter(pipe.transformer.state_dict(), names, front)
    if alpha is not None:
        modules = {name.removesuffix(f".{names[0]}") for name in lora if name.endswith(names[0])}
        lora |= {f"{module}.alpha": torch.tensor(alpha) for module in modules}
    convert.run(asked(stored(lora, tmp_path / "a.safetensors"), base, tmp_path / "out", preset="self_forcing"))
    merged = WanPipeline.from_pretrained(base).transformer
    state = merged.state_dict()
    merged.load_state_dict({k: v + scale * added[k] if k in added else v for k, v in state.items()})
    pipe.load_lora_weights(tmp_path / "out")
    assert not torch.allclose(plain, answer(merged), atol=1e-2)
    assert torch.allclose(answer(pipe.transformer), answer(merged), atol=1e-5)
    assert FewStepScheduler.from_pretrained(tmp_path / "out" / "scheduler").config.times == pytest.approx(WARPED)


def test_a_lora_that_does_not_fit_is_refused(base: Path, student: Weights, tmp_path: Path) -> None:
    lora, _ = adapter(student, ("lora_A.weight", "lora_B.weight"), "")
    half = stored({k: v for k, v in lora.items() if k != "blocks.1.ffn.2.lora_B.weight"}, tmp_path / "half.safetensors")
    more = stored(lora | {"blocks.0.norm3.diff_b": torch.ones(16)}, tmp_path / "more.safetensors")
    wide = stored(lora | {"blocks.0.ffn.2.lora_A.weight": torch.ones(3, 25)}, tmp_path / "wide.safetensors")
    deep = stored({k.replace("blocks.1", "blocks.7"): v for k, v in lora.items()}, tmp_path / "deep.safetensors")
    out = tmp_path / "out"
    assert "1 missing (blocks.1.ffn.net.2.lora_B.weight)" in refusal(asked(half, base, out))
    assert "1 unexpected (blocks.0.norm3.diff_b)" in refusal(asked(more, base, out))
    assert "1 of another shape (blocks.0.ffn.net.2.lora_A.weight (3, 25), the base has (3, 24))" in refusal(
        asked(wide, base, out)
    )
    assert "6 unexpected (blocks.7.cross_attn.v.lora_A.weight" in refusal(asked(deep, base, out))
    convert.run(asked(more, base, out, allow=["blocks.0.norm3"]))
    convert.run(asked(deep, base, tmp_path / "deep", allow=["blocks.7"]))
    for made, blocks in ((out, {"0", "1"}), (tmp_path / "deep", {"0"})):
        assert {name.split(".")[2] for name in load_file(made / "pytorch_lora_weights.safetensors")} == blocks
    far = stored({f"blocks.9.ffn.2.lora_{w}.weight": torch.ones(3, 3) for w in "AB"}
                 | {"blocks.9.self_attn.q.lora_A.weight": torch.ones(3, 3)}, tmp_path / "far.safetensors")  # fmt: skip
    assert "changes no module" in refusal(asked(far, base, tmp_path / "none", allow=["blocks.9"]))


def test_a_lora_with_changed_biases_adds_them_unscaled(base: Path, student: Weights, tmp_path: Path) -> None:
    pipe = WanPipeline.from_pretrained(base)
    lora, added = adapter(student, ("lora_down.weight", "lora_up.weight"), "diffusion_model.")
    bias = torch.randn(16)
    lora |= {"diffusion_model.blocks.1.ffn.2.diff_b": bias, "diffusion_model.blocks.1.ffn.2.alpha": torch.tensor(1.5)}
    added["blocks.1.ffn.net.2.weight"] *= 0.5
    added["blocks.1.ffn.net.2.bias"] = bias
    convert.run(asked(stored(lora, tmp_path / "a.safetensors"), base, tmp_path / "out"))
    merged = WanPipeline.from_pretrained(base).transformer
    merged.load_state_dict({k: v + added[k] if k in added else v for k, v in merged.state_dict().items()})
    pipe.load_lora_weights(tmp_path / "out")
    assert torch.allclose(answer(pipe.transformer), answer(merged), atol=1e-5)


def test_the_scale_of_a_lora_that_states_none_can_be_given(base: Path, student: Weights, tmp_path: Path) -> None:
    file = stored(adapter(student, ("lora_A.weight", "lora_B.weight"), "")[0], tmp_path / "a.safetensors")
    for name, alpha in (("one", None), ("half", 1.5)):
        convert.run(asked(file, base, tmp_path / name, alpha=alpha))
    one, half = (load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("one", "half"))
    assert all(torch.equal(half[k], v * 0.5 if "lora_B" in k else v) for k, v in one.items())


# -- tools/unpickle.py -----------------------------------------------------------------------------------------------


class Bomb:
    """Runs code when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_runs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"generator": {"w": torch.ones(2)}, "x": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for name in ("bomb.pt", "raw.pt"):
        assert unpickle().main([str(tmp_path / name), str(tmp_path / "out.safetensors")]) == 2
        said = capsys.readouterr().err
        assert "is not plain tensors" in said and said.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bomb.pt", "raw.pt"]


def test_unpickled_tensors_are_those_that_were_saved_shared_ones_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    w = torch.arange(12.0).view(3, 4)
    ema = {"a": w, "tied": w, "row": w[1], "turned": w.t(), "half": w.bfloat16()}
    tree = {"ema": ema, "raw": {"a": w + 1}, "step": 7}
    torch.save(tree, tmp_path / "a.pt")
    torch.save(tree, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "old.pt"):
        out = tmp_path / f"{name}.safetensors"
        assert unpickle().main([str(tmp_path / name), str(out)]) == 0
        assert "6 tensors; 1 values that are no tensors left out: step" in capsys.readouterr().err
        assert same(load_file(out), {f"ema.{k}": v for k, v in ema.items()} | {"raw.a": w + 1})
    assert unpickle().main([str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), "--keys", "raw"]) == 0
    assert [*load_file(tmp_path / "b.safetensors")] == ["raw.a"]
    assert unpickle().main([str(tmp_path / "a.pt"), str(tmp_path / "c.safetensors"), "--keys", "generator"]) == 2
    assert "it holds ema, raw, step" in capsys.readouterr().err and not (tmp_path / "c.safetensors").exists()


def test_help_of_convert_does_not_cost_torch() -> None:
    import subprocess

    code = "import argparse, sys; from vdistill.app.convert import arguments; arguments(argparse.ArgumentParser())\n"
    code += "sys.exit(bool({'torch', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
