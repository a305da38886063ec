"""How many different things a model makes of one prompt that leaves them open.

Each sample is given as what it shows, any hashable (a tuple of attributes, a cluster number), or None where nothing was
recognised: a failure is no variety. Counts grow with the number of samples: compare models at the same number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Diversity:
    """Of one prompt's samples: samples: how many; recognised: how many were not None; distinct: different outcomes;
    entropy: of the outcomes' frequencies, nats; effective: exp(entropy), as many equally frequent outcomes."""

    samples: int
    recognised: int
    distinct: int
    entropy: float

    @property
    def effective(self) -> float:
        return math.exp(self.entropy) if self.recognised else 0.0


def diversity(outcomes: Iterable[Hashable | None]) -> Diversity:
    """Count the outcomes of one prompt. Entropy is the plug-in estimate -sum p log p; 0 when nothing was recognised."""
    everything = list(outcomes)
    counts = Counter(o for o in everything if o is not None)
    total = sum(counts.values())
    entropy = sum(n / total * math.log(total / n) for n in counts.values())
    return Diversity(len(everything), total, len(counts), entropy)
