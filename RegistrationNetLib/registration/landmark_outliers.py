"""Which pairs of landmarks to follow: one that was misplaced must not pull where all others, and the images, say otherwise.

What a pair asks of a registration is a displacement. One that is far longer than is usual among the pairs, for which no pair nearby
asks as well, and which the images contradict, is not followed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..geometry.point_velocity import Points

# So many pairs at least can tell that one of them was misplaced.
FEWEST = 6
# A displacement is long from here on, and from so many times what is usual on.
LONG_MM, LONG_TIMES = 8.0, 4.0
# A pair within the first distance whose displacement differs by no more than the second, and no more than half of it, says the same.
NEARBY_MM, ALIKE_MM, ALIKE_SHARE = 35.0, 8.0, 0.5
# By so much more must the images look alike where the registration is than where a doubted pair would have it.
CLEARLY_MORE_ALIKE = 0.25

LookAlike = Callable[[int], tuple[float, float]]
"""For a pair: how much the images look alike around it where the registration is, and where the pair would have it."""


def followed(places_mm: Points, displacements_mm: Points, alike: LookAlike) -> NDArray[np.bool_]:
    """Which of the pairs to follow: [N].

    Args:
        places_mm: the points of fixed, [N, dim].
        displacements_mm: what each asks for beyond the registration, [N, dim].
    """
    lengths = np.linalg.norm(displacements_mm, axis=1)
    taken = np.ones(len(places_mm), dtype=bool)
    if len(places_mm) < FEWEST:
        return taken
    limit = max(LONG_MM, LONG_TIMES * float(np.median(lengths)))
    apart = np.linalg.norm(places_mm[:, None] - places_mm, axis=-1) + np.diag(np.full(len(places_mm), np.inf))
    differs = np.linalg.norm(displacements_mm[:, None] - displacements_mm, axis=-1)
    says_the_same = (apart <= NEARBY_MM) & (differs <= np.minimum(ALIKE_MM, ALIKE_SHARE * lengths)[:, None])
    for doubted in np.flatnonzero((lengths > limit) & ~says_the_same.any(axis=1)):
        now, there = alike(int(doubted))
        taken[doubted] = now <= there + CLEARLY_MORE_ALIKE
    return taken
