"""Student inputs have the laws they claim; a trajectory bank gives back the bits it was given or says what broke."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vdistill.core.attention import Attend, full
from vdistill.core.bank import Bank, BankWriter, part
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Net
from vdistill.core.errors import UserError
from vdistill.core.inputs import Banked, Generated, Mixed, Noised, NoiseOnly, Simulated
from vdistill.core.rng import Rng
from vdistill.core.sampling import Deterministic, Renoise
from vdistill.core.schedule import Schedule
from vdistill.core.step import Batch
from vdistill.core.times import Grid, Uniform
from vdistill.families.analytic import gaussian
from vdistill.families.analytic_nets import Affine

RF = Schedule("rf")
G1 = gaussian(RF)
STEPS = (1.0, 0.75, 0.5, 0.25)


class Exact:
    """The exact consistency map of G1 as a student; remembers what it was asked, and whether a graph was kept."""

    def __init__(self, schedule: Schedule = RF) -> None:
        self.schedule, self.law = schedule, gaussian(schedule)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        self.asked.append((x, t))
        return self.law.ode_map(x, t, torch.zeros_like(t))


def affine() -> Net:
    return Net(Affine((1, 1), STEPS), RF, "x0")


def batch(n: int = 4, *shape: int) -> Batch:
    return Batch(torch.zeros(n, *(shape or (1, 1))), Cond({"label": torch.arange(n)}))


# -- noised data and noise ----------------------------------------------------------------------------------------


def test_noised_input_is_the_batch_noised_by_the_named_draws() -> None:
    x, rng = Batch(torch.randn(5, 2, 3), Cond()), Rng(1)
    found = Noised(Uniform(0.2, 0.8))(affine(), x, rng)
    assert torch.equal(found.x, RF.noise(x.x, rng.normal("input/eps", x.x.shape), found.t))
    assert found.target is x.x and found.cond is x.cond
    assert found.t.min() >= 0.2 and found.t.max() < 0.8 and len(found.t.unique()) == 5


@pytest.mark.parametrize(
    "schedule", [Schedule("rf"), Schedule("vp", zero_snr=True), Schedule("edm")], ids=lambda s: s.kind
)
def test_noise_only_starts_where_the_sampler_does(schedule: Schedule) -> None:
    student, b, rng = Exact(schedule), batch(), Rng(2)
    found = NoiseOnly()(student, b, rng)
    Renoise()(student, rng.normal("input/eps", b.x.shape), b.cond, rng, (1.0,))
    x, t = student.asked[0]
    assert torch.equal(found.x, x) and torch.equal(found.t, t)


# -- the student's own sampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stochastic", [True, False])
def test_simulated_input_is_the_state_of_the_sampler_at_the_exit_step(stochastic: bool) -> None:
    sampler, seen = Renoise() if stochastic else Deterministic(), set()
    for step in range(12):
        rng, walker, simulated = Rng(3, step=step), Exact(), Exact()
        sampler(walker, rng.normal("input/eps", (4, 1, 1)), Cond(), rng, STEPS)
        found = Simulated(STEPS, stochastic)(simulated, batch(), rng)
        exit_step = len(simulated.asked) - 1
        seen.add(exit_step)
        assert torch.equal(found.x, walker.asked[exit_step][0]) and torch.equal(found.t, walker.asked[exit_step][1])
        assert found.answer is not None and torch.equal(found.answer, G1.ode_map(found.x, found.t, 0 * found.t))
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("stochastic", [True, False])
def test_exact_student_meets_the_right_law_at_every_step(stochastic: bool) -> None:
    """Identity 8: renoised, the exact consistency map keeps the marginal alpha^2 s^2 + sigma^2. On its DDIM path the
    estimate and the noise are one variable, so their standard deviations add, step by step."""
    stds, sd = {}, 1.0
    for t, u in zip(STEPS, (*STEPS[1:], 0.0), strict=True):
        stds[t] = math.hypot((1 - t) * 0.5, t) if stochastic else sd
        clean = 0.5 * sd / math.hypot((1 - t) * 0.5, t)
        sd = (1 - u) * clean + u * (sd - (1 - t) * clean) / t
    n, found = 20000, {}
    for step in range(12):
        got = Simulated(STEPS, stochastic)(Exact(), batch(n), Rng(4, step=step))
        found[got.t[0].item()] = got.x
    assert set(found) == set(STEPS)
    for t, x in found.items():
        assert x.std().item() == pytest.approx(stds[t], rel=0.02)
        assert x.mean().item() == pytest.approx((1 - t) * 0.7, abs=0.03)


def test_exit_steps_are_even_and_the_same_on_all_processes() -> None:
    inputs, counts = Simulated(STEPS), dict.fromkeys(STEPS, 0)
    for step in range(400):
        times = {
            inputs(Exact(), batch(1), Rng(0, step=step, rank=rank, micro=micro)).t.item()
            for rank, micro in ((0, 0), (3, 2))
        }
        (t,) = times
        counts[t] += 1
    assert all(abs(count - 100) < 4 * math.sqrt(400 * 3 / 16) for count in counts.values())


def test_processes_see_different_noise() -> None:
    inputs = Simulated(STEPS)
    a, b = (inputs(Exact(), batch(4), Rng(0, rank=rank)) for rank in (0, 1))
    assert not torch.equal(a.x, b.x)


def test_gradient_flows_through_the_last_pass_only() -> None:
    for step in range(12):
        student = affine()
        x0 = Generated(Simulated(STEPS))(student, batch(), Rng(5, step=step))
        found = Simulated(STEPS)(student, batch(), Rng(5, step=step))
        assert torch.equal(x0, student.x0(found.x, found.t, found.cond))
        assert not found.x.requires_grad
        x0.sum().backward()
        place = STEPS.index(found.t[0].item())
        net = student.net
        assert isinstance(net, Affine) and net.a.grad is not None
        assert net.a.grad.flatten().nonzero().flatten().tolist() == [place]
        assert net.a.grad[place].item() == pytest.approx(found.x.sum().item(), rel=1e-5)
    with torch.no_grad():
        assert not Generated(Simulated(STEPS))(student, batch(), Rng(5)).requires_grad


def test_generated_from_any_law_is_one_pass_at_its_input() -> None:
    student = affine()
    for inputs in (NoiseOnly(), Noised(Grid(STEPS))):
        found = inputs(student, batch(), Rng(6))
        x0 = Generated(inputs)(student, batch(), Rng(6))
        assert torch.equal(x0, student.x0(found.x, found.t, found.cond)) and x0.requires_grad


# -- mixtures -----------------------------------------------------------------------------------------------------


def test_mixture_takes_its_parts_with_their_frequencies_the_same_everywhere() -> None:
    mix = Mixed((NoiseOnly(), Noised(Grid((0.5,))), Simulated((0.25,))), (1, 3, 0))
    n, counts = 2000, {1.0: 0, 0.5: 0}
    for step in range(n):
        a, b = (mix(Exact(), batch(1), Rng(7, step=step, rank=rank)) for rank in (0, 1))
        assert torch.equal(a.t, b.t)
        counts[a.t.item()] += 1
    assert counts[1.0] / n == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / n))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (0.0, 0.0)])
def test_impossible_mixture_is_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="2 inputs need as many weights"):
        Mixed((NoiseOnly(), NoiseOnly()), weights)


def test_impossible_times_are_refused_when_configured() -> None:
    for make in (lambda: Simulated((0.5, 1.0)), lambda: Simulated(()), lambda: NoiseOnly(0.0)):
        with pytest.raises(UserError, match="descending"):
            make()


# -- the bank -----------------------------------------------------------------------------------------------------

TIMES = (1.0, 0.5, 0.0)


def cond(first: int, n: int) -> Cond:
    labels = torch.arange(first, first + n)
    text = labels.view(-1, 1, 1).expand(n, 2, 3).to(torch.bfloat16) / 7
    return Cond({"label": labels, "text": text}, {"beat": labels.view(-1, 1).float()}, {"text": torch.zeros(1, 2, 3)})


def states(first: int, n: int) -> Tensor:
    """States [n, 3, 1, 2] whose values say which trajectory, time and position they are."""
    whole = torch.arange(first, first + n).view(-1, 1, 1, 1) + torch.arange(3).view(3, 1, 1) / 10
    return whole + torch.rand(n, 3, 1, 2, generator=torch.Generator().manual_seed(first)) / 100


def make_bank(folder: Path, counts: tuple[int, ...] = (4, 1, 3)) -> Path:
    writer = BankWriter(folder, TIMES)
    for count in counts:
        writer.add(states(writer.count, count), cond(writer.count, count))
    return folder


def test_bank_gives_back_the_bits_it_was_given(tmp_path: Path) -> None:
    bank = Bank.open(make_bank(tmp_path))
    assert len(bank) == 8 and bank.times == TIMES
    wanted = torch.cat([states(0, 4), states(4, 1), states(5, 3)])
    order = [7, 0, 4, 0, 3]
    found, c = bank.read(order)
    assert torch.equal(found, wanted[order])
    whole = cond(0, 8)
    assert c.fields["text"].dtype == torch.bfloat16 and torch.equal(c.fields["text"], whole.fields["text"][order])
    assert c.fields["label"].tolist() == order and torch.equal(c.along["beat"], whole.along["beat"][order])
    assert torch.equal(c.null["text"], whole.null["text"])


def test_bank_draw_is_named_and_even(tmp_path: Path) -> None:
    bank = Bank.open(make_bank(tmp_path))
    a, b, c = bank.draw(Rng(0), 3), bank.draw(Rng(0), 3), bank.draw(Rng(0, rank=1), 16)
    assert torch.equal(a[0], b[0]) and not torch.equal(a[0], c[0][:3])
    counts = bank.draw(Rng(1), 800)[1].fields["label"].bincount(minlength=8)
    assert (counts - 100).abs().max() < 4 * math.sqrt(800 * 7 / 64)


def test_banked_input_is_a_state_of_one_trajectory_with_its_condition(tmp_path: Path) -> None:
    inputs = Banked(Bank.open(make_bank(tmp_path)))
    found = inputs(Exact(), batch(40, 1, 2), Rng(8))
    whole = torch.cat([states(0, 4), states(4, 1), states(5, 3)])
    label = found.cond.fields["label"]
    level = torch.tensor([TIMES.index(t) for t in found.t.tolist()])
    assert set(level.tolist()) == {0, 1}  # the clean end is the target, never the input
    assert torch.equal(found.x, whole[label, level])
    assert found.target is not None and torch.equal(found.target, whole[label, -1])


def test_banked_input_says_what_does_not_fit(tmp_path: Path) -> None:
    inputs = Banked(Bank.open(make_bank(tmp_path)))
    with pytest.raises(UserError, match=r"samples of shape \[1, 2\], the run needs \[1, 5\]"):
        inputs(Exact(), batch(4, 1, 5), Rng(8))
    with pytest.raises(UserError, match="bring their own conditions"):
        Generated(inputs)(Exact(), batch(4, 1, 2), Rng(8))


def test_writer_goes_on_where_a_killed_one_stopped(tmp_path: Path) -> None:
    make_bank(tmp_path / "a", (4, 1, 3))
    make_bank(tmp_path / "b", (4,))
    (tmp_path / "b" / ".tmp-shard-00001.safetensors").write_bytes(b"half")  # killed while writing
    (tmp_path / "b" / "shard-00001.safetensors").write_bytes(b"whole, but not yet in the index")
    assert len(Bank.open(tmp_path / "b")) == 4
    writer = BankWriter(tmp_path / "b", TIMES)
    assert writer.count == 4
    writer.add(states(4, 1), cond(4, 1))
    writer.add(states(5, 3), cond(5, 3))
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """As a full disk: the operating system refuses to make a file larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_the_bank_whole(tmp_path: Path) -> None:
    writer = BankWriter(make_bank(tmp_path), TIMES)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with no_file_over(4096), pytest.raises(OSError):
        writer.add(states(8, 1000), cond(8, 1000))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    writer.add(states(8, 2), cond(8, 2))
    assert len(Bank.open(tmp_path)) == 10


def test_truncated_or_missing_shard_is_named_at_opening(tmp_path: Path) -> None:
    shard = make_bank(tmp_path) / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"shard-00001.safetensors: shard has \d+ bytes, expected \d+"):
        Bank.open(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-00001.safetensors: shard is missing"):
        Bank.open(tmp_path)


def test_flipped_bit_is_named_when_the_shard_is_read_and_not_before(tmp_path: Path) -> None:
    shard = make_bank(tmp_path) / "shard-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    bank = Bank.open(tmp_path)
    bank.read([0, 4])
    with pytest.raises(UserError, match=r"shard-00002.safetensors: shard does not match its digest; delete that file"):
        bank.read([0, 7])


def test_broken_index_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a trajectory bank"):
        Bank.open(tmp_path)
    index = make_bank(tmp_path) / "index.json"
    good = json.loads(index.read_text())
    row = good["shards"][0]
    for broken, said in [
        ("{", "damaged"),
        (json.dumps([]), "damaged"),
        (json.dumps({**good, "times": ["x"]}), "damaged"),
        (json.dumps({**good, "shards": [["../../etc/passwd", *row[1:]]]}), "damaged"),
        (json.dumps({**good, "shards": []}), "empty"),
        (json.dumps({**good, "format": 9}), "format 9"),
    ]:
        index.write_text(broken)
        with pytest.raises(UserError, match=said) as caught:
            Bank.open(tmp_path)
        assert "\n" not in str(caught.value)


def make_parts(folder: Path) -> Path:
    """The bank of `make_bank`, its shards written by two writers in turns."""
    writers = [BankWriter(part(folder, rank), TIMES) for rank in (0, 1)]
    for number, first, count in ((0, 0, 4), (2, 5, 3), (1, 4, 1)):
        writers[number % 2].add(states(first, count), cond(first, count), number)
    return folder


def test_parts_of_several_writers_are_one_bank_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    one, parts = (Bank.open(make(tmp_path / make.__name__)) for make in (make_bank, make_parts))
    (x, c), (y, d) = (bank.read(range(8)) for bank in (one, parts))
    assert torch.equal(x, y) and all(torch.equal(c.fields[k], d.fields[k]) for k in c.fields)
    assert [shard.path.parent.name for shard in parts.shards] == ["part-00000", "part-00001", "part-00000"]


def test_of_two_copies_of_a_shard_the_whole_one_with_most_trajectories_counts(tmp_path: Path) -> None:
    folder = make_parts(tmp_path)
    other = BankWriter(part(folder, 7), TIMES)
    other.add(states(0, 2), cond(0, 2), 0)
    assert len(Bank.open(folder)) == 8
    (folder / "part-00000" / "shard-00000.safetensors").unlink()
    assert len(Bank.open(folder)) == 6
    other.add(states(0, 4), cond(0, 4), 0)  # in place of its own
    assert len(Bank.open(folder)) == 8 and torch.equal(Bank.open(folder).read([3])[0], states(0, 4)[3:])


def test_a_part_with_other_times_is_named(tmp_path: Path) -> None:
    folder = make_parts(tmp_path)
    BankWriter(part(folder, 2), (1.0, 0.0)).add(states(0, 1)[:, ::2], cond(0, 1), 9)
    with pytest.raises(UserError, match=r"part-00002: has times \[1.0, 0.0\], another part \[1.0, 0.5, 0.0\]"):
        Bank.open(folder)


def test_bank_remembers_what_each_trajectory_was_made_from(tmp_path: Path) -> None:
    writer = BankWriter(tmp_path, TIMES)
    writer.add(states(0, 2), cond(0, 2), texts=("a cat", "ein Bär"))
    writer.add(states(2, 1), cond(2, 1), texts=("a dog",))
    assert Bank.open(tmp_path).texts() == ("a cat", "ein Bär", "a dog")
    writer.add(states(3, 1), cond(3, 1))
    assert Bank.open(tmp_path).texts() == ()  # not all of them said


def test_writer_refuses_other_times_and_shapes(tmp_path: Path) -> None:
    make_bank(tmp_path)
    with pytest.raises(UserError, match="the bank has times"):
        BankWriter(tmp_path, (1.0, 0.0))
    for times in ((1.0,), (0.0, 1.0), (1.5, 0.0), (1.0, -0.1)):
        with pytest.raises(UserError, match="descending"):
            BankWriter(tmp_path / "other", times)
    with pytest.raises(ValueError, match=r"states must be \[n, 3"):
        BankWriter(tmp_path, TIMES).add(torch.zeros(2, 2, 1, 2), Cond())
