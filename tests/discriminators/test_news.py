"""What is said of a judge: once, late enough, and only what the numbers show."""

from __future__ import annotations

import pytest

from vdistill.discriminators.news import Mean, News


def lines(values: dict[str, float], steps: int = 300, news: News | None = None) -> list[tuple[int, str]]:
    news = news or News()
    return [(step, line) for step in range(1, steps + 1) for line in news(values)]


def test_the_mean_of_equal_values_is_that_value_from_the_first() -> None:
    mean = Mean()
    assert [mean.add(0.7) for _ in range(5)] == pytest.approx([0.7] * 5, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"critic/told_apart": 0.99}, "has won: it tells 99%"),
        ({"critic/told_apart": 0.5}, "sees nothing: it tells 50%"),
        ({"student/pull": 25.0}, "pulls 25 times as hard"),
    ],
)
def test_a_judge_in_trouble_is_told_of_once(values: dict[str, float], said: str) -> None:
    found = lines(values)
    assert len(found) == 1 and found[0][0] == 200 and said in found[0][1]


def test_a_judge_at_work_and_a_run_without_one_are_left_in_peace() -> None:
    assert lines({"critic/told_apart": 0.75, "student/pull": 0.3, "critic/loss": 99.0}) == []
    assert lines({"student/loss": 1.0}) == []


def test_a_rare_lucky_batch_is_not_a_victory() -> None:
    news = News()
    assert not any(news({"critic/told_apart": 1.0 if step % 10 == 0 else 0.8}) for step in range(500))
