"""The networks of NePhi: one that maps points by their latent code, and one that reads the codes from a pair of images.

Tian et al., ECCV 2024. Parameters bear the names of the published checkpoints. Nothing here knows what is done with the result.

# B batch, C channel, N points
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import InputError
from .latent import LatentCodes

OMEGA = 30.0
SLOPE = 0.2
ENCODER_CHANNELS = (8, 16, 32, 64, 128, 256)
GLOBAL_FEATURES = 256
CODE_CHANNELS = 32

_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    2: (nn.Conv2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.BatchNorm3d),
}


class LocalMLP(nn.Module):
    """Displacements of points, each from its place and its latent code: a sine network whose layers a second one gates.

    Published under this name in NePhi, after modulated periodic activations (Mehta et al., ICCV 2021). Places are embedded by
    random frequencies, which are drawn once and belong to the weights. The last layer starts at zero, so that an untrained
    network is the identity.

    Args:
        dim: 2 or 3.
        latent_channels: of a point's code.
        width: of the layers.
        hidden_layers: of the gated network, and as many gates.
        frequencies: of the embedding.
    """

    def __init__(
        self, dim: int, *, latent_channels: int = 64, width: int = 128, hidden_layers: int = 2, frequencies: int = 128
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.embed = FourierEmbedding(dim, frequencies)
        self.synthesis_nw = GatedSines(2 * frequencies, dim, width=width, hidden_layers=hidden_layers)
        self.modulation_nw = Gates(latent_channels + 2 * frequencies, width=width, hidden_layers=hidden_layers)

    def forward(self, places: Tensor, codes: Tensor) -> Tensor:
        """Displacements [..., dim] of `places` [..., dim] with `codes` [..., latent_channels]; coordinates in [-1, 1] per array axis.

        Raises:
            InputError: the codes have another number of channels.
        """
        if codes.shape[-1] != self.latent_channels:
            raise InputError(
                f"This network takes latent codes of {self.latent_channels} channels; got {codes.shape[-1]}. "
                "Use the codes that belong to it."
            )
        embedded = self.embed(places)
        displacement: Tensor = self.synthesis_nw(embedded, self.modulation_nw(torch.cat([codes, embedded], dim=-1)))
        return displacement


class FourierEmbedding(nn.Module):
    """Sines, then cosines, of 2π times the coordinates' products with random frequencies."""

    def __init__(self, dim: int, frequencies: int) -> None:
        super().__init__()
        self.B = nn.Parameter(torch.randn(dim, frequencies), requires_grad=False)

    def forward(self, places: Tensor) -> Tensor:
        """The embedding [..., 2 · frequencies] of `places` [..., dim]."""
        angles = 2 * math.pi * (places @ self.B)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class SineLayer(nn.Module):
    """sin(ω (W x + b)), begun as Sitzmann et al., NeurIPS 2020 (SIREN)."""

    def __init__(self, channels_in: int, channels_out: int, *, omega: float = OMEGA, is_first: bool = False) -> None:
        super().__init__()
        self.omega = omega
        self.linear = nn.Linear(channels_in, channels_out)
        bound = 1 / channels_in if is_first else math.sqrt(6 / channels_in) / OMEGA
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        """[..., channels_out] from `features` [..., channels_in]."""
        return torch.sin(self.omega * self.linear(features))


class GatedSines(nn.Module):
    """Sine layers, every hidden one multiplied by its gate, and a linear one, which starts at zero."""

    def __init__(self, channels_in: int, channels_out: int, *, width: int, hidden_layers: int) -> None:
        super().__init__()
        self.hidden_layers = hidden_layers
        self.first_layer = SineLayer(channels_in, width, omega=1.0, is_first=True)
        for index in range(hidden_layers):
            self.add_module(f"hidden_layer_{index}", SineLayer(width, width))
        self.final_layer = nn.Linear(width, channels_out)
        for parameter in self.final_layer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """[..., channels_out] from `features` [..., channels_in] and one gate [..., width] for each hidden layer."""
        features = self.first_layer(features)
        for index, gate in enumerate(gates):
            features = gate * self.get_submodule(f"hidden_layer_{index}")(features)
        result: Tensor = self.final_layer(features)
        return result


class Gates(nn.Module):
    """Sine layers whose results, each plus that of the first one, are the gates of `GatedSines`."""

    def __init__(self, channels_in: int, *, width: int, hidden_layers: int) -> None:
        super().__init__()
        self.hidden_layers = hidden_layers
        self.first_layer = SineLayer(channels_in, width, is_first=True)
        for index in range(hidden_layers):
            self.add_module(f"layer_{index}", SineLayer(width, width))

    def forward(self, features: Tensor) -> list[Tensor]:
        """One gate [..., width] for each hidden layer, from `features` [..., channels_in]."""
        first = self.first_layer(features)
        gates, features = [], first
        for index in range(self.hidden_layers):
            features = self.get_submodule(f"layer_{index}")(features) + first
            gates.append(features)
        return gates


class ConvolutionBlock(nn.Module):
    """Convolution of 3 voxels a side, batch normalization, leaky ReLU."""

    def __init__(self, dim: int, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        conv, batch_norm = _LAYERS[dim]
        self.conv = conv(channels_in, channels_out, 3, stride=stride, padding=1)
        self.bn = batch_norm(channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """[B, channels_out, *ceil(shape / stride)] from `features` [B, channels_in, *shape]."""
        return nn.functional.leaky_relu(self.bn(self.conv(features)), SLOPE)


class LinearBlock(nn.Module):
    """A linear layer under the name `fc`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels_in, channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """[B, channels_out] from `features` [B, channels_in]."""
        result: Tensor = self.fc(features)
        return result


class GlobalAndLocalEncoder(nn.Module):
    """Latent codes of a pair of images: 32 channels for the pair, 32 on a lattice of about an eighth of theirs.

    Each block halves the lattice. The local codes come from the one that leaves about 16 to 32 nodes a side, those of the pair
    from all that the last one leaves; so the network takes images of one `shape` only.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        dim, octaves = len(self.shape), round(math.log2(max(self.shape)))
        channels = (2, *ENCODER_CHANNELS, *(ENCODER_CHANNELS[-1],) * max(0, octaves - 7))
        self.local_block = octaves - 5
        if not 0 <= self.local_block < len(channels) - 1:
            raise InputError(
                f"NePhi's encoder halves images five times or more; got {list(self.shape)}, which is too small for that. "
                "Choose a shape of 23 voxels or more along its longest axis."
            )
        self.local_encoder = ConvolutionBlock(dim, channels[self.local_block + 1], CODE_CHANNELS, stride=1)
        self.feature_encoder = nn.ModuleList(
            ConvolutionBlock(dim, one, two, stride=2) for one, two in itertools.pairwise(channels)
        )
        features = channels[-1] * math.prod(math.ceil(size / 2 ** (len(channels) - 1)) for size in self.shape)
        self.global_encoder = nn.ModuleList(
            [nn.Flatten(), LinearBlock(features, GLOBAL_FEATURES), LinearBlock(GLOBAL_FEATURES, CODE_CHANNELS)]
        )

    def forward(self, moving: Tensor, fixed: Tensor) -> LatentCodes:
        """The codes of `moving` and `fixed`, [B, 1, *shape] each.

        Raises:
            InputError: an image has another shape than the network's.
        """
        for name, image in (("moving", moving), ("fixed", fixed)):
            if tuple(image.shape[1:]) != (1, *self.shape):
                raise InputError(
                    f"{name} must be [B, 1, {', '.join(map(str, self.shape))}] for this network; got {list(image.shape)}. "
                    "Resize it to the network's shape."
                )
        features, local = torch.cat([moving, fixed], dim=1), None
        for index, block in enumerate(self.feature_encoder):
            features = block(features)
            if index == self.local_block:
                local = self.local_encoder(features)
        assert local is not None
        flatten, first, second = self.global_encoder
        return LatentCodes(second(nn.functional.leaky_relu(first(flatten(features)), SLOPE)), local)
