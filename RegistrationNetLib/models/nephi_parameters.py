"""Two networks and their latent codes as one row of numbers, which is what a descent changes."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .layers.implicit import LocalMLP
from .layers.latent import LatentCodes
from .nephi import ImplicitMap


class ParameterRow:
    """The weights of `phi` and `phi_inv`, then the codes, in one leaf `values` that requires a gradient.

    Codes are divided by `code_ratio` in the row, so that they go so many times as far in a step as the weights. The networks
    that are given stay as they are; frozen parameters (the frequencies) are not in the row.
    """

    def __init__(self, phi: LocalMLP, phi_inv: LocalMLP, codes: LatentCodes, *, code_ratio: float = 1.0) -> None:
        # One pair of networks for each of two threads: putting weights into a module is not safe between them.
        self._pairs = [copy.deepcopy((phi, phi_inv)) for _ in range(2)]
        self._ratio = code_ratio
        self._parts = [
            (network, name, value)
            for network, one in enumerate(self._pairs[0])
            for name, value in one.named_parameters()
            if value.requires_grad
        ]
        self._codes = codes
        parts = [*(value for _, _, value in self._parts), codes.of_pair / code_ratio, codes.local / code_ratio]
        self.values = torch.cat([one.detach().flatten() for one in parts]).requires_grad_()

    def maps(self, thread: int) -> tuple[ImplicitMap, ImplicitMap]:
        """The maps of both networks as functions of `values`; each thread asks for its own, 0 or 1."""
        weights, codes = self._unpacked(self.values)
        first, second = (
            ImplicitMap(partial(_with_weights, network, one), codes)
            for network, one in zip(self._pairs[thread], weights, strict=True)
        )
        return first, second

    def finished(self) -> tuple[LocalMLP, LocalMLP, LatentCodes]:
        """Networks of their own with the weights of `values`, and the codes."""
        weights, codes = self._unpacked(self.values.detach().clone())
        phi, phi_inv = copy.deepcopy(self._pairs[0])
        for network, one in zip((phi, phi_inv), weights, strict=True):
            network.load_state_dict(one, strict=False)
        return phi, phi_inv, codes

    def _unpacked(self, row: Tensor) -> tuple[tuple[dict[str, Tensor], dict[str, Tensor]], LatentCodes]:
        sizes = [value.numel() for _, _, value in self._parts]
        *pieces, of_pair, local = row.split([*sizes, self._codes.of_pair.numel(), self._codes.local.numel()])
        weights: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        for (network, name, value), piece in zip(self._parts, pieces, strict=True):
            weights[network][name] = piece.view(value.shape)
        codes = replace(
            self._codes,
            of_pair=of_pair.view(self._codes.of_pair.shape) * self._ratio,
            local=local.view(self._codes.local.shape) * self._ratio,
        )
        return weights, codes


def _with_weights(network: nn.Module, weights: dict[str, Tensor], places: Tensor, codes: Tensor) -> Tensor:
    displacement: Tensor = functional_call(network, weights, (places, codes))
    return displacement
