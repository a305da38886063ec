"""What the log says of a judge, in plain words, for whoever trains: it has won, it sees nothing, it pulls too hard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

WON, BLIND, HARD = 0.97, 0.53, 10.0


@dataclass
class Mean:
    """A running average of about the last 1 / (1 - decay) values."""

    decay: float = 0.98
    total: float = 0.0
    weight: float = 0.0

    def add(self, value: float) -> float:
        """The average with one value more."""
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + 1 - self.decay
        return self.total / self.weight


Says = Callable[[float], str]
RULES: tuple[tuple[str, Callable[[float], bool], Says], ...] = (
    (
        "told_apart",
        lambda told: told > WON,
        lambda told: (
            f"the judge has won: it tells {told:.0%} of real and generated apart, and a sure judge teaches "
            "little; raise method.judge.r1, add augment, or lower the critic's learning rate"
        ),
    ),
    (
        "told_apart",
        lambda told: told < BLIND,
        lambda told: (
            f"the judge sees nothing: it tells {told:.0%} apart, as guessing does; unless the clips are "
            "right already, give it other layers, smaller times (t_max), or a larger watch_weight"
        ),
    ),
    (
        "pull",
        lambda pull: pull > HARD,
        lambda pull: (
            f"the judge pulls {pull:.0f} times as hard at the samples as the matching does; lower its weight, "
            "or say method.judge.share: 0.1"
        ),
    ),
)


@dataclass
class News:
    """Told of every step's values, it answers with a line when there is something to say, each thing once.

    after: how many values it waits for before it judges the judge.
    """

    after: int = 200
    means: dict[str, Mean] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    said: set[int] = field(default_factory=set)

    def __call__(self, values: Mapping[str, float]) -> list[str]:
        lines = []
        for key, value in values.items():
            name = key.rpartition("/")[2]
            rules = [(i, holds, says) for i, (of, holds, says) in enumerate(RULES) if of == name]
            if not rules:
                continue
            now = self.means.setdefault(name, Mean()).add(value)
            self.counts[name] = self.counts.get(name, 0) + 1
            for i, holds, says in rules:
                if self.counts[name] >= self.after and i not in self.said and holds(now):
                    self.said.add(i)
                    lines.append(says(now))
        return lines
