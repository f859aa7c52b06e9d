"""What a CUDA card must give: the maps of the CPU, in single and half precision, for every network and refinement; and clear ends.

Tolerances are stated here and judged on the real card; by default the same tests run on its stand-in.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from RegistrationNetLib import Registration, register
from RegistrationNetLib.devices import check_memory
from RegistrationNetLib.errors import InputError, ResourceError
from RegistrationNetLib.losses.direction import Side, both_directions
from RegistrationNetLib.memory import FULL, HALF, RECOMPUTED, prediction_ways, refinement_ways, sparingly
from RegistrationNetLib.models.carl import carl_network
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.models.composition import both_ways, mapped_lattice
from RegistrationNetLib.models.constricon import constricon_network
from RegistrationNetLib.models.gradicon import gradicon_network
from RegistrationNetLib.models.icon import KneeNetwork
from RegistrationNetLib.models.layers import unet
from RegistrationNetLib.models.layers.attention import attended_by_tiles, coordinate_attention
from RegistrationNetLib.models.layers.unet import DenseMiddleUNet
from RegistrationNetLib.models.nephi import NePhi
from RegistrationNetLib.quality.phantom import Head, head_phantom
from RegistrationNetLib.registration import alignment
from RegistrationNetLib.registration.network_refinement import network_options, refine_network
from Testing.models.layers.published import randomize, smooth_pair
from Testing.small_network import install, random_weights, small_card

from .conftest import Card

# Of the unit cube: a hundredth of a voxel at 175³; what TF32, torch's default for convolutions, may add; and half precision.
EXACT, TF32, HALF_PRECISION = 5e-5, 5e-4, 1e-3
# Mean distance in mm between what the CPU and the card make of a pair of heads with voxels of 8 mm: a twentieth of a voxel, as the
# first steps of Adam are as long for a gradient of rounding as for any other.
REFINED_MM = 0.4

# The network for images of a shape; the shape on the real card; the shape on the stand-in.
NETWORKS: dict[str, tuple[Callable[[tuple[int, ...]], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "gradicon": (lambda shape: gradicon_network(len(shape)), (80, 96, 72), (40, 36)),
    "constricon": (lambda shape: constricon_network(len(shape)), (80, 96, 72), (40, 36)),
    "carl": (lambda shape: carl_network("final_final", dim=len(shape)), (80, 64, 72), (24, 28)),
    "unicarl": (lambda shape: carl_network("unicarl", dim=len(shape)), (80, 88, 72), (66, 64)),
    "nephi": (NePhi, (64, 80, 64), (40, 36)),
}


@contextmanager
def tf32(is_allowed: bool) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = is_allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@torch.no_grad()
def maps(network: nn.Module, moving: Tensor, fixed: Tensor) -> Tensor:
    """Both, on the lattice of fixed, [2, dim, *shape] on the CPU."""
    both = both_ways(network, moving, fixed)
    forth_and_back = [mapped_lattice(one, fixed.shape[2:], fixed) for one in (both.moving_from_fixed, both.fixed_from_moving)]
    return torch.cat(forth_and_back).cpu()


def case(name: str, card: Card) -> tuple[nn.Module, Tensor, Tensor]:
    make, real, stand_in = NETWORKS[name]
    shape = card.shape(real, stand_in)
    network = make(shape).eval().requires_grad_(False)
    randomize(network, displacement=0.004)
    if name == "nephi":  # whose displacements are else larger than the image, and its sines amplify every rounding
        for one in (network.phi, network.phi_inv):
            one.synthesis_nw.final_layer.weight.mul_(0.01)  # type: ignore[operator, union-attr]
    return (network, *smooth_pair(shape))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_maps_of_the_cpu(name: str, card: Card) -> None:
    network, *pair = case(name, card)
    expected = maps(network, *pair)
    network, pair = network.to(card.device), [image.to(card.device) for image in pair]
    with tf32(False):
        assert float((maps(network, *pair) - expected).abs().max()) < EXACT
    if card.is_real:
        assert float((maps(network, *pair) - expected).abs().max()) < TF32


def test_the_network_with_a_dense_middle_gives_the_maps_of_the_cpu(card: Card) -> None:
    shape = card.shape((80, 192, 192), (33, 65, 65))
    network = KneeNetwork() if card.is_real else DenseMiddleUNet()
    randomize(network.eval().requires_grad_(False), displacement=0.004)
    pair = smooth_pair(shape)
    answer = maps if card.is_real else torch.no_grad()(lambda net, *images: net(*images).cpu())
    expected = answer(network, *pair)
    with tf32(False):
        found = answer(network.to(card.device), *(image.to(card.device) for image in pair))
    assert float((found - expected).abs().max()) < EXACT


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"nephi", "unicarl"}))
def test_half_precision_gives_nearly_the_maps_of_single(name: str, card: Card) -> None:
    network, *pair = case(name, card)
    network, pair = network.to(card.device), [image.to(card.device) for image in pair]
    (full, _), (half, way) = (sparingly((one,), card.device, lambda: maps(network, *pair), remedy="") for one in (FULL, HALF))
    assert way == HALF
    assert half.dtype == torch.float32
    assert 0 < float((half - full).abs().max()) < HALF_PRECISION


def test_attention_on_a_card_is_that_by_tiles_and_makes_no_table(card: Card) -> None:
    queries, keys = card.shape((3000, 5000), (300, 500))
    some = [torch.randn(2, 128, count) for count in (queries, keys)]
    some = [(4 * one / one.norm(dim=1, keepdim=True)).to(card.device) for one in some]
    places = torch.rand(3, keys).to(card.device)
    expected = attended_by_tiles(*some, places).cpu()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast(card.device.type, dtype=torch.float16):
        found = coordinate_attention(*some, places)
    if card.is_real:
        assert torch.cuda.max_memory_allocated() - before < 2 * queries * keys * 4
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)


def heads() -> tuple[Head, Head]:
    first, second = (head_phantom((26, 30, 25), (8.0,) * 3, seed) for seed in (0, 1))
    return first, second


def distance_mm(one: Registration, other: Registration) -> float:
    """Mean over fixed of how far the transforms differ."""
    fields = [
        sitk.GetArrayFromImage(
            sitk.TransformToDisplacementField(
                each.moving_from_fixed, sitk.sitkVectorFloat64, one.fixed.GetSize(), one.fixed.GetOrigin(), one.fixed.GetSpacing(),
                one.fixed.GetDirection(),
            )
        )
        for each in (one, other)
    ]  # fmt: skip
    return float(np.linalg.norm(fields[0] - fields[1], axis=-1).mean())


REFINEMENTS: dict[str, dict[str, Any]] = {
    "field, lncc": {"steps": 3, "align": ("centre", "rigid")},
    "field, mind": {"steps": 2, "similarity": "mind", "align": ("centre",)},
    "field, mi": {"steps": 2, "similarity": "mi", "align": ("centre",)},
    "field, mass conserved": {"steps": 2, "conserve_mass": True, "fixed_modality": "ct", "moving_modality": "ct", "align": ()},
    "field after a network": {"like": "unigradicon", "refine": "field", "steps": 2},
    "velocity after constricon": {"like": "constricon", "refine": "field", "steps": 2},
    "fit of nephi": {"model": "nephi", "steps": 3, "align": ("centre",)},
    "fit of nephi, ncc": {"model": "nephi", "steps": 1, "similarity": "ncc", "align": ()},
}
SLOW = ("field, mi", "field, mind", "field, mass conserved", "fit of nephi", "fit of nephi, ncc")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in REFINEMENTS])
@pytest.mark.usefixtures("card")
def test_a_registration_is_that_of_the_cpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = dict(REFINEMENTS[name])
    if like := options.pop("like", None):
        small = small_card(like, shape=(24, 20, 22))
        install(monkeypatch, small)
        options |= {"model": small.name, "weights": random_weights(small, tmp_path / "weights")}
    if name == "field, lncc":
        one, other = heads()
        options |= {"fixed_labels": one.labels, "moving_labels": other.labels}
        options |= {"fixed_mask": one.labels > 0, "moving_mask": other.labels > 0}
    for constant in ("COARSE_STEPS", "FINE_STEPS"):
        monkeypatch.setattr(alignment, constant, 3)
    fixed, moving = (head.image for head in heads())
    with tf32(False):
        by_card, by_cpu = (register(fixed, moving, device=device, repeats=0, **options) for device in ("cuda", "cpu"))
    assert by_card.facts["device"] == "cuda"
    assert by_card.facts["peak_memory_mb"] > 0
    assert distance_mm(by_card, by_cpu) < REFINED_MM


@pytest.mark.parametrize("name", ["gradicon", pytest.param("constricon", marks=pytest.mark.slow)])
def test_the_refinement_of_a_network_is_that_of_the_cpu(name: str, card: Card) -> None:
    network, moving, fixed = case(name, card)
    small = card_named({"gradicon": "unigradicon", "constricon": "constricon"}[name])
    options = network_options(small, "lncc", steps=1)

    def refined(device: torch.device) -> Tensor:
        images = [image.to(device) for image in (moving, fixed)]
        directions = both_directions(Side(images[1]), Side(images[0]), options.directions(1.0))
        found = refine_network(network.to(device), directions, options, report=lambda _: None)
        return mapped_lattice(found.maps.moving_from_fixed, fixed.shape[2:], images[1]).detach().cpu()

    expected = refined(torch.device("cpu"))
    with tf32(False):
        assert float((refined(card.device) - expected).abs().max()) < TF32


# Out of memory. A network with few weights, so that features are what takes the memory of a stand-in too.


@pytest.fixture
def few_weights(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    if not card.is_real:
        monkeypatch.setattr(unet, "DOWN_CHANNELS", (8, 8, 8, 8, 8))
        monkeypatch.setattr(unet, "UP_CHANNELS", (8, 8, 8, 8, 8))


def peaks(card: Card, works: list[Callable[[], object]]) -> list[int]:
    """Of each of `works`."""
    found = []
    for work in works:
        gc.collect()
        card.forget_peak()
        work()
        found.append(card.peak())
    return found


@pytest.mark.usefixtures("few_weights")
def test_a_prediction_that_does_not_fit_is_made_in_half_precision(card: Card) -> None:
    network, *pair = case("gradicon", card)
    pair = list(smooth_pair(card.shape((175, 175, 175), (96, 88))))
    network, pair = network.to(card.device), [image.to(card.device) for image in pair]
    predict = partial(maps, network, *pair)
    full, half = peaks(card, [lambda way=way: sparingly((way,), card.device, predict, remedy="") for way in (FULL, HALF)])  # type: ignore[misc]
    assert half < full
    expected = predict()
    gc.collect()
    with card.limited((full + half) // 2):
        found, way = sparingly(prediction_ways(card.device), card.device, predict, remedy="")
    assert way == HALF
    assert float((found - expected).abs().max()) < HALF_PRECISION


@pytest.mark.slow
@pytest.mark.usefixtures("few_weights")
def test_a_refinement_that_does_not_fit_makes_steps_anew(card: Card) -> None:
    network, moving, fixed = case("gradicon", card)
    moving, fixed = smooth_pair(card.shape((128, 128, 128), (64, 56)))
    network, moving, fixed = network.to(card.device), moving.to(card.device), fixed.to(card.device)
    options = network_options(card_named("unigradicon"), "lncc", steps=1)

    def work() -> int:
        directions = both_directions(Side(fixed), Side(moving), options.directions(1.0))
        return refine_network(network, directions, options, report=lambda _: None).steps

    full, spared = peaks(card, [lambda way=way: sparingly((way,), card.device, work, remedy="") for way in (FULL, RECOMPUTED)])  # type: ignore[misc]
    assert spared < full
    gc.collect()
    with card.limited((full + spared) // 2):
        assert sparingly(refinement_ways(card.device), card.device, work, remedy="") == (1, RECOMPUTED)


def test_what_fits_in_no_way_is_told_with_a_remedy(card: Card) -> None:
    network, *pair = case("gradicon", card)
    network, pair = network.to(card.device), [image.to(card.device) for image in pair]
    gc.collect()
    with (
        card.limited(torch.cuda.memory_allocated() + 1000),
        pytest.raises(ResourceError, match=r"memory of cuda is not enough, not even for half precision\. Use less"),
    ):
        sparingly(prediction_ways(card.device), card.device, lambda: maps(network, *pair), remedy="Use less.")


def test_memory_that_torch_keeps_from_earlier_work_counts_as_free(card: Card) -> None:
    free = torch.cuda.mem_get_info(0)[0]
    kept = torch.empty(free // 8, dtype=torch.uint8, device=card.device) if card.is_real else torch.empty(0)
    del kept
    check_memory(0.95 * free / 2**20, card.device, "")
    with pytest.raises(ResourceError, match=r"GB on cuda; .* are free\. Use less"):
        check_memory(1.05 * free / 2**20, card.device, "Use less.")


@pytest.mark.usefixtures("card")
def test_a_card_that_is_not_there_is_refused() -> None:
    name = f"cuda:{torch.cuda.device_count()}"
    image = heads()[0].image
    with pytest.raises(InputError, match=f"has no {name} device. Choose auto or cpu"):
        register(image, image, device=name)
