"""`method.sync`: the loss is the one without it and the weight times what the shipped network says of the mouth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from talkers import ROOT, model
from torch import Tensor

from vdistill.app import config as configs
from vdistill.app.build import Built, build
from vdistill.app.build_sync import sync_terms
from vdistill.app.models import open_model
from vdistill.app.talker_truth import sync_net
from vdistill.avatar.sync import mel_of
from vdistill.avatar.sync_net import mouth_crops
from vdistill.avatar.windows import Windows
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.step import Batch, Loss, Term

SMALL = ["data.takes=3", "data.take=17", "train.batch=4"]


def config(name: str, *changes: str) -> Any:
    more = [f"family.path={model()}", "family.size=32", "family.frames=9", "train.precision=no"]
    own = more if name == "talker_scales" else []
    return configs.load(ROOT / f"configs/avatar/{name}.yaml", [*SMALL, *own, *changes])


class Heard:
    """A term that notes what it is asked about."""

    name, module = "sync", None

    def __init__(self, term: Term) -> None:
        self.term = term

    def student(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        self.asked = x, batch
        return self.term.student(x, batch, rng)

    def watch(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        return self.term.watch(x, batch, rng)


def innermost(built: Built) -> Any:
    method: Any = built.method
    while hasattr(method, "method"):
        method = method.method
    return method


@pytest.mark.parametrize("name", ["talker_teacher_tiny", "talker_scales"])
def test_the_loss_with_a_weight_is_that_without_and_the_weight_times_the_term(name: str) -> None:
    plain, asking = build(config(name)), build(config(name, "method.sync=0.3"))
    inner = innermost(asking)
    inner.terms = [heard := Heard(*inner.terms)]
    batch, rng = plain.source(0, 0), Rng(3)
    without, found = (b.method.loss("student", batch, rng) for b in (plain, asking))
    x, told = heard.asked
    pixels = asking.family.codec.unclipped(x)  # type: ignore[union-attr]
    seen, said = sync_net()(mouth_crops(pixels), mel_of(told.cond.along["audio"], Windows()))
    spoken = (told.cond.along["audio.on"] == 1).float().mean(1)
    term = ((0.6 - (seen * said).sum(-1).mean(1)).clamp(min=0) * spoken).mean()
    assert term > 0.01
    torch.testing.assert_close(found.total, without.total + 0.3 * term, rtol=1e-6, atol=1e-7)
    (slope,) = torch.autograd.grad(0.3 * term, x)
    assert slope.abs().max() > 0


def test_who_is_not_told_the_sound_is_not_asked_for_it() -> None:
    never = [
        f"method.drop.{name}={share}"
        for name, share in {"audio": 1.0, "ref": 0.0, "ref+audio": 0.0, "text": 0.0}.items()
    ]
    built = build(config("talker_teacher_tiny", "method.sync=0.3", *never))
    method = innermost(built)
    method.terms = [heard := Heard(*method.terms)]
    built.method.loss("student", built.source(0, 0), Rng(0))
    x, told = heard.asked
    assert heard.student(x, told, Rng(0)).total == 0


def test_what_cannot_hear_or_be_decoded_is_refused() -> None:
    with pytest.raises(UserError, match=r"method\.sync: the sync network hears 40 mel bands, not causal"):
        build(config("talker_teacher_tiny", "method.sync=0.1", "family.adapters.bands=20"))
    with pytest.raises(UserError, match="this model does not hear"):
        build(configs.load(ROOT / "configs/analytic/mixture_flow.yaml", ["method.sync=0.1"]))
    family = open_model(model())
    family.codec.unclipped = torch.no_grad()(family.codec.unclipped)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"method\.sync: the decoder of wan lets no gradient through"):
        sync_terms(family, 0.1)


def test_a_config_without_it_is_written_as_before() -> None:
    assert "sync" not in config("talker_teacher_tiny").method.model_dump()
    assert config("talker_scales", "method.sync=0.2").method.model_dump()["sync"] == 0.2
