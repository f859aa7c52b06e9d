"""The shapes of tensors at the edges of geometry, losses, models and registration, as declared here.

Each edge is called with tensors of the declared shapes, all of whose sizes differ, so that axes that are exchanged, lost or added
are noticed. Declarations are jaxtyping's: a letter is an axis of one size, `*shape` are several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from jaxtyping import Shaped, jaxtyped
from torch import Tensor

from RegistrationNetLib.geometry import (
    deformation,
    field_pair,
    interpolation,
    pyramid,
    regularity,
    separable,
    smooth_noise,
    space,
)
from RegistrationNetLib.geometry.deformation import Affine, Composition, DisplacementField, VelocityField
from RegistrationNetLib.losses import direction, overlap, patches
from RegistrationNetLib.losses.similarity import MEASURES, MINDSSC, NCC
from RegistrationNetLib.models import carl_equivariance, composition, constricon
from RegistrationNetLib.models.constricon import constricon_network
from RegistrationNetLib.models.gradicon import gradicon_network
from RegistrationNetLib.models.layers import attention, exponential, features, latent, layout, matrix, unet
from RegistrationNetLib.registration import network_lattice, prepare

# Sizes of the named axes, and of the several that stand for a lattice in 2-D and 3-D; no two are alike, nor 2 or 3.
SIZES = {"b": 4, "c": 5, "p": 6, "n": 7, "g": 11}
SHAPES = {"shape": (18, 17, 16), "out": (8, 9, 10), "any": (12, 13, 14), "double": (36, 34, 32)}

Returned = str | tuple[str, ...]


def sizes(declared: str, dim: int) -> list[int]:
    """`declared` in numbers, in `dim` dimensions."""
    result: list[int] = []
    for axis in declared.replace("dim", str(dim)).split():
        result += SHAPES[axis[1:]][:dim] if axis.startswith("*") else [SIZES[axis] if axis in SIZES else int(axis)]
    return result


def check(function: Callable[..., Any], given: Sequence[str], returned: Returned, dim: int) -> None:
    """Calls `function` with values in [0, 1] of the shapes `given`, and compares what comes back with `returned`."""
    torch.manual_seed(0)
    values = [torch.rand(sizes(declared, dim)) for declared in given]
    expected = (returned,) if isinstance(returned, str) else returned
    with torch.no_grad():
        result = function(*values)
    results = (result,) if isinstance(result, Tensor) else tuple(result)
    assert len(results) == len(expected)
    with jaxtyped("context"):
        # The arguments bind the letters.
        assert all(
            isinstance(value, Shaped[Tensor, one.replace("dim", str(dim))]) for value, one in zip(values, given, strict=True)
        )
        for value, one in zip(results, expected, strict=True):
            assert isinstance(value, Shaped[Tensor, one.replace("dim", str(dim))]), f"{one} expected, got {list(value.shape)}"


def grid(name: str, dim: int) -> space.Grid:
    return space.Grid(SHAPES[name][:dim], torch.eye(dim + 1).double().numpy())


def both(maps: composition.BothWays, like: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(
        composition.mapped_lattice(one, like.shape[2:], like) for one in (maps.moving_from_fixed, maps.fixed_from_moving)
    )  # type: ignore[return-value]


Edge = tuple[Callable[..., Any], Sequence[str], Returned]
IMAGE, FIELD, SCALAR = "b c *shape", "b dim *shape", ""

GEOMETRY: dict[str, Edge] = {
    "sample": (deformation.sample, (IMAGE, "b dim *out"), "b c *out"),
    "sample, nearest": (lambda image, points: deformation.sample(image, points, nearest=True), (IMAGE, "b dim *out"), "b c *out"),
    "sample, zeros": (lambda image, points: deformation.sample(image, points, outside="zeros"), (IMAGE, "b dim n"), "b c n"),
    "identity_points": (lambda like: deformation.identity_points(like.shape[2:], like), (IMAGE,), "1 dim *shape"),
    "derivatives": (lambda values: deformation.derivatives(values, 1), (IMAGE,), IMAGE),
    "jacobian_determinant": (deformation.jacobian_determinant, (FIELD,), "b 1 *shape"),
    "vector_length": (deformation.vector_length, (FIELD,), "b 1 *shape"),
    "Affine": (lambda points: Affine(torch.eye(points.shape[1], points.shape[1] + 1))(points), ("b dim *any",), "b dim *any"),
    "DisplacementField": (lambda field, points: DisplacementField(field)(points), (FIELD, "b dim *out"), "b dim *out"),
    "on_lattice": (lambda field: DisplacementField(field).on_lattice(), (FIELD,), FIELD),
    "VelocityField": (lambda velocity, points: VelocityField(velocity)(points), (FIELD, "b dim *out"), "b dim *out"),
    "Composition": (
        lambda one, two, points: Composition((DisplacementField(one), DisplacementField(two)))(points),
        (FIELD, "b dim *any", "b dim *out"),
        "b dim *out",
    ),
    "invert": (
        lambda field: deformation.invert(DisplacementField(0.01 * field), field.shape[2:], like=field).field.displacement,
        ("1 dim *shape",),
        "1 dim *shape",
    ),
    "interpolated": (interpolation.interpolated, (IMAGE, "b dim *out"), "b *out c"),
    "interpolated, smooth": (
        lambda values, points: interpolation.interpolated(values, points, smooth=True),
        (IMAGE, "b dim *out"),
        "b *out c",
    ),
    "reading_matrix": (lambda line: interpolation.reading_matrix(line, 5, False), ("p n",), "p n c"),
    "crossings": (lambda one, two: interpolation.crossings([one, two]), ("p n", "p g"), "p 2 n g"),
    "coarsened": (lambda image: pyramid.coarsened(image, sizes("*out", image.dim() - 2)), ("1 c *shape",), "1 c *out"),
    "pyramid": (lambda image: pyramid.pyramid(image, [sizes("*out", image.dim() - 2)]), ("1 c *shape",), ("1 c *out",)),
    "apply_along_axes": (
        lambda image: separable.apply_along_axes(
            image,
            separable.on(
                [
                    separable.resize_matrix(new, old)
                    for new, old in zip(sizes("*out", image.dim() - 2), image.shape[2:], strict=True)
                ],
                image,
            ),
        ),
        (IMAGE,),
        "b c *out",
    ),
    "smooth_noise": (
        lambda like: smooth_noise.smooth_noise(like.shape[2:], 2.0, torch.Generator(), channels=like.shape[1]),
        ("1 c *shape",),
        "1 c *shape",
    ),
    "jittered_lattice": (lambda like: regularity.jittered_lattice(like.shape[2:], like), ("b c *double",), "1 dim *shape"),
    "gradicon_on_lattice": (regularity.gradicon_on_lattice, (FIELD,), SCALAR),
    "diffusion": (regularity.diffusion, (FIELD,), SCALAR),
    "bending_energy": (regularity.bending_energy, (FIELD,), SCALAR),
    "icon_loss_both_ways": (
        lambda one, two, points: regularity.icon_loss_both_ways(DisplacementField(one), DisplacementField(two), points),
        (FIELD, FIELD, "b dim *out"),
        SCALAR,
    ),
    "values_on": (
        lambda image: space.values_on(image, grid("shape", image.dim() - 2), grid("out", image.dim() - 2)),
        ("1 c *shape",),
        "1 c *out",
    ),
    "is_inside": (
        lambda like: space.is_inside(grid("shape", like.dim() - 2), grid("out", like.dim() - 2), like),
        ("1 1 *shape",),
        "1 1 *out",
    ),
    "lies_inside": (lambda points: space.lies_inside(grid("shape", points.shape[1]), points), ("1 dim *out",), "1 1 *out"),
    "tensor_of": (
        lambda image: space.tensor_of(space.image_on(grid("shape", image.dim() - 2), image[0, 0].numpy())),
        ("1 1 *shape",),
        "1 1 *shape",
    ),
    "displacements": (
        lambda one, two: field_pair.FieldPair(
            grid("shape", one.shape[1]), DisplacementField(one), DisplacementField(two)
        ).displacements(),
        ("1 dim *shape", "1 dim *shape"),
        "2 dim *shape",
    ),
    "field_pair, on": (
        lambda one, two: (
            field_pair.FieldPair(grid("shape", one.shape[1]), DisplacementField(one), DisplacementField(two))
            .on(grid("out", one.shape[1]))
            .fixed_from_moving.displacement
        ),
        ("1 dim *shape", "1 dim *shape"),
        "1 dim *out",
    ),
}

LOSSES: dict[str, Edge] = {
    **{name: (measure().similarity, (IMAGE, IMAGE), SCALAR) for name, measure in MEASURES.items()},
    **{f"{name}, mask": (measure().similarity, (IMAGE, IMAGE, "b 1 *shape"), SCALAR) for name, measure in MEASURES.items()},
    "descriptor": (lambda image: MINDSSC().descriptor(image).unflatten(1, (image.shape[1], -1))[:, :, 0], (IMAGE,), IMAGE),
    "one_hot": (
        lambda image: overlap.one_hot((3 * image).round(), (3 * image).round()),
        ("b 1 *shape",),
        ("b 3 *shape", "b 3 *shape"),
    ),
    "dice_loss": (overlap.dice_loss, (IMAGE, IMAGE), SCALAR),
    "direction": (
        lambda fixed, moving, points: direction.both_directions(
            direction.Side(fixed), direction.Side(moving), direction.DirectionOptions(NCC())
        )[0].loss(points),
        ("1 c *shape", "1 c *out", "1 dim *shape"),
        SCALAR,
    ),
    "patches": (lambda like: pieces(like).points(), ("1 1 *shape",), ("p dim *out")),
    "inner": (lambda like: pieces(like).inner(), ("1 1 *shape",), ("p 1 *out")),
    "view": (lambda image, points: view(image).at(points), ("1 1 *shape", "b dim *any"), "b 1 *any"),
    "counts": (lambda image, points: view(image).counts(points), ("1 1 *shape", "b dim *any"), "b 1 *any"),
}


def pieces(like: Tensor) -> patches.Patches:
    dim = like.dim() - 2
    return patches.Patches(torch.zeros(SIZES["p"], dim, dtype=torch.long), tuple(sizes("*out", dim)), tuple(like.shape[2:]))


def view(image: Tensor) -> patches.View:
    dim = image.dim() - 2
    return patches.View(image, Affine(torch.eye(dim, dim + 1)))


def codes(of_pair: Tensor, local: Tensor) -> latent.LatentCodes:
    return latent.LatentCodes(of_pair, local)


MODELS: dict[str, Edge] = {
    "TallUNet": (
        lambda moving, fixed: unet.TallUNet(moving.dim() - 2).eval()(moving, fixed),
        ("b 1 *shape", "b 1 *shape"),
        FIELD,
    ),
    "TallUNet, training": (
        lambda moving, fixed: unet.TallUNet(moving.dim() - 2)(moving, fixed),
        ("b 1 *double", "b 1 *double"),
        "b dim *double",
    ),
    "halved": (unet.halved, ("b c *double",), IMAGE),
    "shuffled": (lambda fine: layout.shuffled(layout.unshuffled(fine), fine.shape[2:]), (IMAGE,), IMAGE),
    "gradicon, both ways": (
        lambda moving, fixed: both(composition.both_ways(gradicon_network(moving.dim() - 2).eval(), moving, fixed), moving),
        ("b 1 *shape", "b 1 *shape"),
        (FIELD, FIELD),
    ),
    "constricon, both ways": (
        lambda moving, fixed: both(composition.both_ways(constricon_network(moving.dim() - 2).eval(), moving, fixed), moving),
        ("b 1 *double", "b 1 *double"),
        ("b dim *double", "b dim *double"),
    ),
    "mapped_lattice": (
        lambda field, like: composition.mapped_lattice(Composition((DisplacementField(field),)), like.shape[2:], like),
        (FIELD, "b c *out"),
        "b dim *out",
    ),
    "warped": (
        lambda moving, field: composition.warped(moving, Composition((DisplacementField(field),))),
        (IMAGE, "b dim *out"),
        IMAGE,
    ),
    "flows": (lambda velocity: [one.displacement for one in exponential.flows(velocity)], (FIELD,), (FIELD, FIELD)),
    "velocity_diffusion": (constricon.velocity_diffusion, (FIELD,), SCALAR),
    "convolved_and_halved": (
        lambda values: matrix.convolved_and_halved(
            values, torch.rand(7, values.shape[1], *(3,) * (values.dim() - 2)), torch.rand(7)
        ),
        ("b c *double",),
        "b 7 *shape",
    ),
    "DilatedFeatures": (
        lambda image: features.DilatedFeatures(image.dim() - 2, channels=SIZES["c"]).eval()(image),
        ("b 1 *shape",),
        IMAGE,
    ),
    "coordinate_attention": (attention.coordinate_attention, ("b c n", "b c g", "dim g"), "b dim n"),
    "padded_lattice": (
        lambda like: attention.padded_lattice(like.shape[2:], 2, like)[(slice(None), *(slice(2, -2),) * (like.dim() - 2))],
        ("b 1 *shape",),
        "dim *shape",
    ),
    "codes at points": (
        lambda of_pair, local, points: codes(of_pair, local).at(points),
        ("b c", "b n *shape", "b dim *out"),
        "b *out 12",
    ),
    "codes, finer": (
        lambda of_pair, local: codes(of_pair, local).on(sizes("*any", local.dim() - 2)).local,
        ("b c", "b n *out"),
        "b n *any",
    ),
    "ExtrapolatedField": (
        lambda field, points: carl_equivariance.ExtrapolatedField(field)(2 * points),
        (FIELD, "b dim *out"),
        "b dim *out",
    ),
    "blurred_linearly_extended": (lambda values: carl_equivariance.blurred_linearly_extended(values, 2), (FIELD,), FIELD),
}


def seen(image: Tensor) -> prepare.Prepared:
    return prepare.Prepared(image, grid("shape", image.dim() - 2), image > 0.5)


REGISTRATION: dict[str, Edge] = {
    "affine_part": (
        lambda field: torch.as_tensor(network_lattice.affine_part(DisplacementField(0.01 * field))),
        ("1 dim *shape",),
        "{dim+1} {dim+1}",
    ),
    "resized": (
        lambda image: [getattr(prepare.resized(seen(image), 1.0), part) for part in ("values", "mask")],
        ("1 1 *shape",),
        ("1 1 *shape", "1 1 *shape"),
    ),
    "on_lattice": (
        lambda image: [
            getattr(prepare.on_lattice(seen(image), sizes("*out", image.dim() - 2)), part) for part in ("values", "mask")
        ],
        ("1 1 *shape",),
        ("1 1 *out", "1 1 *out"),
    ),
    "carried": (
        lambda image: [getattr(seen(image).carried(grid("out", image.dim() - 2)), part) for part in ("values", "mask")],
        ("1 1 *shape",),
        ("1 1 *out", "1 1 *out"),
    ),
}


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("edge", [*GEOMETRY.values(), *LOSSES.values(), *MODELS.values(), *REGISTRATION.values()],
                         ids=[*GEOMETRY, *LOSSES, *MODELS, *REGISTRATION])  # fmt: skip
def test_shapes_are_as_declared(edge: Edge, dim: int) -> None:
    check(*edge, dim)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_transposed_output_is_noticed(dim: int) -> None:
    def transposed(image: Tensor, points: Tensor) -> Tensor:
        return deformation.sample(image, points).transpose(-1, -2)

    with pytest.raises(AssertionError, match="expected, got"):
        check(transposed, (IMAGE, "b dim *out"), "b c *out", dim)


@pytest.mark.parametrize("wrong", [lambda image: image[0], lambda image: image[:, :1], lambda image: image.movedim(1, -1)])
def test_a_lost_axis_a_lost_channel_and_a_moved_axis_are_noticed(wrong: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError, match="expected, got"):
        check(wrong, (IMAGE,), IMAGE, 3)
