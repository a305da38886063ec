"""Conditions are data: dropping, slicing and joining them never touches what was not named."""

import pytest
import torch

from vdistill.core.cond import Cond


def cond(batch: int = 3, length: int = 5) -> Cond:
    generator = torch.Generator().manual_seed(0)
    return Cond(
        fields={"text": torch.randn(batch, 4, 2, generator=generator), "label": torch.arange(batch)},
        along={"pose": torch.randn(batch, length, 2, generator=generator)},
        null={"text": torch.full((1, 4, 2), 7.0), "pose": torch.full((1, 1, 2), 9.0)},
    )


def same(a: Cond, b: Cond) -> bool:
    return all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
        for x, y in ((a.fields, b.fields), (a.along, b.along), (a.null, b.null))
    )


def test_drop_nothing_is_the_same():
    assert same(cond().drop([]), cond())


def test_drop_puts_null_in_and_leaves_the_rest():
    c, dropped = cond(), cond().drop({"text", "pose"})
    assert (dropped.fields["text"] == 7).all() and dropped.fields["text"].shape == (3, 4, 2)
    assert (dropped.along["pose"] == 9).all() and dropped.along["pose"].shape == (3, 5, 2)
    assert torch.equal(dropped.fields["label"], c.fields["label"])
    assert same(c, cond())


def test_dropping_twice_is_dropping_once():
    assert same(cond().drop(["text"]).drop(["text"]), cond().drop(["text"]))


@pytest.mark.parametrize("name", ["label", "smell"])
def test_what_has_no_null_cannot_be_dropped(name):
    with pytest.raises(KeyError, match=f"{name}.*pose.*text"):
        cond().drop([name])
    with pytest.raises(KeyError, match=name):
        cond().drop_where(name, torch.ones(3, dtype=torch.bool))


def test_drop_where_is_drop_in_the_masked_samples_only():
    c, mask = cond(), torch.tensor([True, False, True])
    for name in ("text", "pose"):
        mixed, dropped = c.drop_where(name, mask), c.drop([name])
        for k in range(3):
            assert same(mixed.select(slice(k, k + 1)), (dropped if mask[k] else c).select(slice(k, k + 1)))


def test_narrow_touches_only_what_runs_along():
    part = cond().narrow(1, 3)
    assert torch.equal(part.along["pose"], cond().along["pose"][:, 1:4])
    assert torch.equal(part.fields["text"], cond().fields["text"])


def test_narrow_and_drop_commute():
    assert same(cond().narrow(2, 2).drop(["pose"]), cond().drop(["pose"]).narrow(2, 2))


def test_cat_of_samples_is_the_batch():
    c = cond()
    assert same(Cond.cat([c.select(slice(0, 1)), c.select(slice(1, 3))]), c)
    assert same(Cond.cat([c, c.drop(["text"])]).select(slice(3, 6)), c.drop(["text"]))


def test_select_by_index():
    order = torch.tensor([2, 0])
    assert torch.equal(cond().select(order).fields["label"], order)


def test_with_field_replaces_in_the_copy_only():
    c = cond()
    assert torch.equal(c.with_field("scale", torch.ones(3)).fields["scale"], torch.ones(3))
    assert "scale" not in c.fields


def test_to_changes_floats_only():
    moved = cond().to(dtype=torch.float64)
    assert moved.fields["text"].dtype == moved.along["pose"].dtype == moved.null["text"].dtype == torch.float64
    assert moved.fields["label"].dtype == torch.int64


def test_cases_of_a_table_exclude_each_other_and_have_their_shares() -> None:
    """Of 1,000 even draws: 100 without a, 50 without b, 200 without both, 650 with all."""
    given = Cond({"a": torch.ones(1000), "b": torch.ones(1000)}, {}, {"a": torch.zeros(1), "b": torch.zeros(1)})
    table = ((("a",), 0.1), (("b",), 0.05), (("a", "b"), 0.2))
    kept = given.drop_by(table, (torch.arange(1000) + 0.5) / 1000)
    cases = [(int(a), int(b)) for a, b in zip(kept.fields["a"], kept.fields["b"], strict=True)]
    assert [cases.count(case) for case in ((0, 1), (1, 0), (0, 0), (1, 1))] == [100, 50, 200, 650]
