"""A U-net like that of the published networks, with an eighth of the channels: small images do not need more, and claims are many."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64, 64)  # of the lattices at a half, a quarter, an eighth, a sixteenth
SLOPE = 0.01


class SmallUNet(nn.Module):
    """The displacement [B, 2, H, W] for moving and fixed, [B, 1, H, W] each; 0 before it has learnt."""

    def __init__(self) -> None:
        super().__init__()
        narrowing = (2, *WIDTHS)
        widening = (*reversed(WIDTHS), WIDTHS[0])
        self.down = nn.ModuleList(nn.Conv2d(one, two, 3, stride=2, padding=1) for one, two in pairwise(narrowing))
        coarser = (0, *widening[1:-1])  # what comes from below, beside which the skipped features lie
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(skip + below, out, 4, stride=2, padding=1)
            for skip, below, out in zip(reversed(WIDTHS), coarser, widening[1:], strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for out in widening[1:])
        self.last = nn.Conv2d(WIDTHS[0] + 2, 2, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        features = torch.cat([moving, fixed], dim=1)
        skipped = []
        for convolve in self.down:
            skipped.append(features)
            features = F.leaky_relu(convolve(features), SLOPE)
        for widen, norm, skip in zip(self.up, self.norms, reversed(skipped), strict=True):
            finer = F.leaky_relu(norm(widen(features)), SLOPE)[..., : skip.shape[2], : skip.shape[3]]
            features = torch.cat([finer, skip], dim=1)
        displacement: Tensor = self.last(features) / 10
        return displacement
