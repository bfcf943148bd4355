"""What to train on when: short clips first, then the answer behind the chat template, then long
clips.

The order is what makes a tiny model learn to look things up at all: told to answer several tokens
after the key word from the start, it only learns which digits occur. Time is a fraction of the
wall-clock budget, not a step count.
"""

import math
from dataclasses import dataclass
from random import Random

SHORT = (12, 16, 24, 32)
MEDIUM = (*SHORT, 48, 64, 96, 128, 176, 240, 320)
LONG = (512, 640)


@dataclass(frozen=True)
class CurriculumStep:
    """One step's task."""

    units: int
    answer: bool  # the answer behind the chat template carries a loss
    blocks: bool  # the context is prefilled approximately


@dataclass
class Curriculum:
    """Chooses each step's task from the elapsed fraction and the accuracy reached.

    Args:
        random: source of choices.
        max_units: no clip is longer; for small runs.
        lookup_done: accuracy at the key word that ends the first stage ...
        earliest, latest: ... between these fractions of the time.
        long_from: fraction from which a share of the clips has the full length.
    """

    random: Random
    max_units: int = LONG[-1]
    lookup_done: float = 0.97
    earliest: float = 0.06
    latest: float = 0.30
    long_from: float = 0.60
    long_share: float = 0.4
    blocks_share: float = 0.5
    growth_start: float | None = None

    def next(self, fraction: float, lookup_accuracy: float) -> CurriculumStep:
        """The task at `fraction` of the time, given the recent accuracy at the colour word."""
        if self.growth_start is None:
            reached = fraction >= self.earliest and lookup_accuracy >= self.lookup_done
            if reached or fraction >= self.latest:
                self.growth_start = fraction
        if self.growth_start is None:
            return CurriculumStep(self._pick(SHORT), answer=False, blocks=False)
        blocks = self.random.random() < self.blocks_share
        if fraction >= self.long_from and self.random.random() < self.long_share:
            return CurriculumStep(self._pick(LONG), answer=True, blocks=blocks)
        # Clips grow evenly in the logarithm of their length and are full-grown a little before the
        # long ones start.
        progress = (fraction - self.growth_start) / (0.9 * (self.long_from - self.growth_start))
        longest = SHORT[-1] * (MEDIUM[-1] / SHORT[-1]) ** min(progress, 1.0)
        return CurriculumStep(
            self._pick(tuple(units for units in MEDIUM if units <= longest)),
            answer=True,
            blocks=blocks,
        )

    def _pick(self, lengths: tuple[int, ...]) -> int:
        # The longest two of the moment are as likely as all others together.
        chosen = lengths[-2:] if self.random.random() < 0.5 else lengths
        return min(self.random.choice(chosen), self.max_units)


def learning_rate(fraction: float, peak: float) -> float:
    """Linear warm-up over the first two percent of the time, then a cosine to a hundredth of the
    peak.
    """
    if fraction < 0.02:
        return peak * max(fraction / 0.02, 0.02)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0))))
