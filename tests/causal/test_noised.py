"""CausVid's student input: every block of the data at one of the student's own steps, in one causal pass."""

from __future__ import annotations

import torch
from causal.student_bed import clips, family

from vdistill.causal.layout import Layout
from vdistill.causal.noised import NoisedBlocks
from vdistill.causal.student import BlockCausal
from vdistill.core.rng import Rng
from vdistill.families.analytic import ar1

TIMES = (1.0, 0.757, 0.522, 0.0)


def test_the_sample_is_the_masked_estimate_of_blocks_at_their_steps() -> None:
    f, layout, rng = family(), Layout(2), Rng(4)
    batch = clips(f)
    with torch.no_grad():
        made = NoisedBlocks(layout, TIMES)(f.net, batch, rng)
        t = torch.tensor(TIMES, dtype=torch.float64)[rng.integers("input/t", (6,), 4)].view(2, 3)
        t = t.repeat_interleave(2, 1)
        xt = f.schedule.noise(batch.x, rng.normal("input/eps", batch.x.shape, like=batch.x), t)
        assert torch.equal(made, BlockCausal(f.net, layout).x0(xt, t, batch.cond))
    assert t.unique().numel() > 2


def test_blocks_draw_their_steps_alone_and_each_step_as_often() -> None:
    law, seen = ar1(family().schedule, 8), []

    class Notes:
        schedule = law.schedule

        def x0(self, x, t, cond, *, attend=None):  # type: ignore[no-untyped-def]
            seen.append(t)
            return law.x0(x, t)

    from vdistill.core.cond import Cond
    from vdistill.core.step import Batch

    batch = Batch(law.sample(500, Rng(0)).double(), Cond())
    NoisedBlocks(Layout(2), TIMES)(Notes(), batch, Rng(1))
    t = seen[0]
    assert torch.equal(t[:, 0::2], t[:, 1::2])
    counts = torch.stack([(t[:, ::2] == time).double().mean(0) for time in TIMES])
    assert (counts - 0.25).abs().max() < 0.06
    levels = torch.stack([t[:, 0], t[:, 2]]).double()
    assert torch.corrcoef(levels)[0, 1].abs() < 0.15


def test_a_block_at_its_end_is_asked_too_and_carries_a_gradient() -> None:
    f = family()
    x = NoisedBlocks(Layout(2), (0.0,))(f.net, clips(f), Rng(0))
    assert x.requires_grad and x.isfinite().all()
