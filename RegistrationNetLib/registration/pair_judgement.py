"""Which pairs of landmarks to follow: one that was misplaced must not pull where all others, and the images, say otherwise.

What a pair asks of a registration is a displacement. One that neither its neighbours ask for nor the images confirm is not followed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..geometry.point_velocity import Points, wendland

# So many pairs at least can tell that one of them was misplaced.
FEWEST = 6
# A displacement is doubted where it differs from what the other pairs ask for by more than this, and by so many times what is usual.
DOUBTED_MM, DOUBTED_TIMES = 8.0, 4.0
# Noise of the displacements as a share of their variance.
NOISE = 0.05
# By so much more must the images look alike at the place of a doubted pair than where the registration is without it.
CLEARLY_MORE_ALIKE = 0.1

LookAlike = Callable[[int], tuple[float, float]]
"""For a pair: how much the images look alike around it where the registration is, and where the pair would have it."""


def followed(places_mm: Points, displacements_mm: Points, *, reach_mm: float, alike: LookAlike) -> NDArray[np.bool_]:
    """Which of the pairs to follow: [N].

    Args:
        places_mm: the points of fixed, [N, dim].
        displacements_mm: what each asks for beyond the registration, [N, dim].
        reach_mm: how far the displacement of one pair tells of that of another.
    """
    taken = np.ones(len(places_mm), dtype=bool)
    confirmed = np.zeros(len(places_mm), dtype=bool)
    while taken.sum() >= FEWEST:
        chosen = np.flatnonzero(taken)
        off = _off_mm(places_mm[chosen], displacements_mm[chosen], reach_mm)
        limit = max(DOUBTED_MM, DOUBTED_TIMES * float(np.median(off)))
        doubted = [place for place in np.argsort(-off) if off[place] > limit and not confirmed[chosen[place]]]
        if not doubted:
            break
        worst = int(chosen[doubted[0]])
        now, there = alike(worst)
        confirmed[worst] = there > now + CLEARLY_MORE_ALIKE
        taken[worst] = confirmed[worst]
    return taken


def _off_mm(places_mm: Points, displacements_mm: Points, reach_mm: float) -> Points:
    """How far each displacement is from what the others predict (kriging, each left out in turn in closed form): [N]."""
    precision = np.linalg.inv(wendland(places_mm, places_mm, reach_mm) + NOISE * np.eye(len(places_mm)))
    residuals: Points = (precision @ displacements_mm) / np.diag(precision)[:, None]
    return np.linalg.norm(residuals, axis=1)
