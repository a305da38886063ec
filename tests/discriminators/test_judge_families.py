"""Judges beside every published family, on tiny random weights: images, clips, labels, two experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract import REGISTERED, Case, case, family_name

from vdistill.app.build import make_method, make_roles
from vdistill.app.schema import Config
from vdistill.core.cond import Cond
from vdistill.core.rng import Rng
from vdistill.core.step import Batch

JUDGES: dict[str, dict[str, Any]] = {
    "tokens": {"features": "teacher", "share": 0.1, "r1": 1.0, "mismatched": True, "feature_matching": 0.1},
    "latent": {"kind": "latent", "hidden": 8, "r2": 1.0, "penalty": "exact", "augment": ["flip", "shift", "cutout"]},
}


def config_of(c: Case, judge: str) -> Config:
    family = {"name": c.family.name, "random_tiny": c.variant, "frames": c.call.get("num_frames", 1)}
    family |= {"height": c.call.get("height", 64), "width": c.call.get("width", 64)}
    return Config.model_validate(
        {
            "name": "judged",
            "family": family,
            "data": {"name": "latents", "path": "nowhere"},
            "method": {"name": "dmd2", "steps": 1, "judge": JUDGES[judge]},
            "scope": {"name": "lora", "rank": 2},
            "train": {"steps": 1, "batch": 2},
        }
    )


ONE_EACH = {family_name(v): v for v in reversed(REGISTERED)}  # the first variant of every family
RUNS = [(v, "tokens") for v in (*ONE_EACH.values(), "wan22-a14b")] + [(v, "latent") for v in ("wan", "sd15", "dit")]


@pytest.mark.parametrize(("variant", "judge"), RUNS)
def test_a_judge_gives_every_family_finite_gradients_where_they_belong(variant: str, judge: str) -> None:
    c = case(variant)
    config = config_of(c, judge)
    roles, embedded = make_roles(config, c.family)
    method, _ = make_method(config, c.family, roles, embedded)
    batch = Batch(Rng(0).normal("x", (2, *c.shape)), Cond.cat([c.cond, c.cond]))
    for learner in ("student", "critic"):
        for name, module in method.learners.items():
            module.requires_grad_(name == learner)
        loss = method.loss(learner, batch, Rng(0, turn=learner))
        loss.total.backward()
        grads = [p.grad for p in method.learners[learner].parameters() if p.grad is not None]
        assert loss.total.isfinite() and grads and all(g.isfinite().all() for g in grads)
        assert any((g != 0).any() for g in grads)
    heads = method.learners["critic"]["gan"]  # type: ignore[index]
    assert all(p.grad is not None for p in heads.parameters())
    assert torch.isfinite(torch.stack(list(loss.parts.values()))).all()
