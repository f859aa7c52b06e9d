"""A method so small that a whole training takes a second: one convolution network, trained with GradICON's loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from RegistrationNetLib.models import catalogue
from RegistrationNetLib.models.catalogue import Card, card_named
from RegistrationNetLib.models.composition import FunctionFromVectorField
from RegistrationNetLib.registration.methods import METHODS
from RegistrationNetLib.registration.network_methods import TrainedNetwork
from RegistrationNetLib.training.configuration import Configuration, configuration

SHAPE = (16, 20)


class TinyNet(nn.Module):
    """Displacement of two convolutions with batch normalization; an untrained one gives the identity, as published ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 5, padding=2)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 2, 5, padding=2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.first(torch.cat([moving, fixed], dim=1))))
        displacement: Tensor = self.last(features) / 10
        return displacement


def tiny_network(_: Card | None = None) -> nn.Module:
    return FunctionFromVectorField(TinyNet())


class Tiny(TrainedNetwork):
    """A method whose network is small enough to learn within a test."""

    name = "tiny"

    def network(self, card: Card) -> nn.Module:
        return tiny_network(card)


def tiny_card() -> Card:
    card = card_named("unigradicon")
    network = {**card.refine["network"], "sigma_vox": 2}
    return replace(card, name="tiny", method="tiny", parameters={}, input_shape=SHAPE, refine={**card.refine, "network": network})


def install(patch: Callable[..., None] | None = None) -> None:
    """From now on there is a model "tiny"; `patch` sets a key of a dict, or an attribute, for the length of a test."""
    card, before = tiny_card(), catalogue.published_cards

    def known() -> dict[str, Card]:
        return {**before(), card.name: card}

    if patch is None:
        METHODS["tiny"] = Tiny()
        catalogue.published_cards = known
    else:
        patch(METHODS, "tiny", Tiny())
        patch(catalogue, "published_cards", known)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The model "tiny", and an empty cache."""

    def patch(where: Any, name: str, value: Any) -> None:
        (monkeypatch.setitem if isinstance(where, dict) else monkeypatch.setattr)(where, name, value)

    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path / "cache"))
    install(patch)


def described(folder: Path, **changes: Any) -> Configuration:
    """A training of "tiny" on synthetic images with its output in `folder`; `changes` go into the sections."""
    content: dict[str, Any] = {"model": "tiny", "name": "tiny-own", "out": "out", "device": "cpu"}
    sections = {
        "learning": {"steps": 6, "batch": 2, "learning_rate": 1e-3},
        "augmentation": {"affine": 0.05, "flips": True, "gamma": 0.2, "noise": 0.01},
        "data": {"synthetic": "anatomy"},
        "record": {"checkpoint_every": 2, "validate_every": 3, "validation_pairs": 2, "pictures": False},
    }
    for name, values in sections.items():
        given = changes.pop(name, {})
        replaces = name == "data" and given
        content[name] = given if replaces else {**values, **given}
    return configuration({**content, **changes}, relative_to=folder)


def write_images(folder: Path, *names: str, size: tuple[int, ...] = (20, 16), seed: int = 0) -> None:
    """Images of blobs, with their outlines as labels in the folder `labels` and a mask of all voxels in `masks` beside it."""
    random = np.random.default_rng(seed)
    for name in names:
        centre = [random.uniform(0.35, 0.65) * n for n in size]
        axes = np.meshgrid(*(np.arange(n) for n in reversed(size)), indexing="ij")
        distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(axes, reversed(centre), strict=True)))
        blob = (distance < min(size) / 4).astype(np.float32)
        for where, array in (("images", 100 * blob + distance), ("labels", blob), ("masks", np.ones_like(blob))):
            path = folder / where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.float32)), str(path))


def write_label_maps(folder: Path, count: int, *, size: tuple[int, ...] = (24, 18)) -> list[Path]:
    """Label maps `m0.nii.gz` … of a body with two organs, of labels 3, 40 and 1001, each of another size."""
    folder.mkdir(parents=True, exist_ok=True)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in reversed(size)), indexing="ij")
    files = []
    for number in range(count):
        radius = 0.7 + 0.1 * number
        labels = np.where(sum(axis**2 for axis in axes) < radius**2, 3, 0)
        for label, side in ((40, -0.3), (1001, 0.3)):
            labels[sum((axis - side * (place == 0)) ** 2 for place, axis in enumerate(axes)) < 0.05 + 0.02 * number] = label
        files.append(folder / f"m{number}.nii.gz")
        sitk.WriteImage(sitk.GetImageFromArray(labels.astype(np.int16)), str(files[-1]))
    return files
