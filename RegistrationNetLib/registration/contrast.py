"""Whether two aligned images have one contrast: what the automatic choice of the similarity looks at.

Two scans said to be MR may be T1 and T2. In one contrast nearly all local correlation is positive, whatever the brightness; in two
contrasts much of it is negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..geometry.space import Array
from .overlap_score import Overlap, View, spacing_for
from .prepare import Prepared

SIDE_VOX = 40
# Of all local correlation by its size, the share that must be positive.
ONE_CONTRAST = 0.9


@dataclass(frozen=True)
class Contrast:
    """The share of the local correlation, by its size, that is positive: 1 in one contrast, 0 in one turned upside down."""

    positive_share: float

    @property
    def is_one(self) -> bool:
        """Whether the two images show tissue in one contrast."""
        return self.positive_share >= ONE_CONTRAST

    def because(self) -> str:
        """The reason for the report."""
        rule = f"{self.positive_share:.0%} of the local correlation of the aligned images is positive"
        if self.is_one:
            return f"{rule}, at least {ONE_CONTRAST:.0%}: one contrast"
        return f"{rule}, less than {ONE_CONTRAST:.0%}: two contrasts"


def contrast_of(fixed: Prepared, moving: Prepared, moving_from_fixed: Array) -> Contrast:
    """Of two images under a world matrix that aligns them."""
    views = [View.of(one, spacing_for((fixed, moving), SIDE_VOX)) for one in (fixed, moving)]
    with torch.no_grad():
        correlation, objects = Overlap(*views, is_squared=True).local(torch.as_tensor(moving_from_fixed)[None])
    counted = correlation[objects > 0].double().numpy()
    size = float(np.abs(counted).sum())
    return Contrast(float(counted.clip(min=0).sum()) / size if size > 0 else 1.0)
