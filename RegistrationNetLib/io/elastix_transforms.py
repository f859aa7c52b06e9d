"""Transforms of elastix: text files of parameters, each of which may begin with another. They map points of fixed to moving in LPS mm.

Source: the elastix manual, https://elastix.dev, and ITK, whose transforms these are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .native_paths import printable
from .transform_checks import LARGEST, are_sound

Parameters = Mapping[str, list[str]]
# By the name of elastix and the dimension: how to make the transform whose parameters these are.
LINEAR: Mapping[tuple[str, int], Callable[[], Any]] = {
    ("TranslationTransform", 2): lambda: sitk.TranslationTransform(2),
    ("TranslationTransform", 3): lambda: sitk.TranslationTransform(3),
    ("EulerTransform", 2): sitk.Euler2DTransform,
    ("EulerTransform", 3): sitk.Euler3DTransform,
    ("SimilarityTransform", 2): sitk.Similarity2DTransform,
    ("SimilarityTransform", 3): sitk.Similarity3DTransform,
    ("AffineTransform", 2): lambda: sitk.AffineTransform(2),
    ("AffineTransform", 3): lambda: sitk.AffineTransform(3),
}
SPLINES = ("BSplineTransform", "RecursiveBSplineTransform")
NONE = "NoInitialTransform"
# More in a chain are files that name each other.
LONGEST_CHAIN = 32


def is_elastix(text: str) -> bool:
    """Whether a text looks like a file of parameters of elastix."""
    return re.search(r'^\s*\(Transform\s+"', text, re.MULTILINE) is not None


def elastix_transform(path: Path) -> sitk.Transform:
    """A file TransformParameters.txt, with those that it begins with, as points of fixed → points of moving.

    Raises:
        InputError: it is damaged, its transform is of another kind, or a file that it begins with is missing.
    """
    chain: list[sitk.Transform] = []
    while path.name != NONE:
        if len(chain) == LONGEST_CHAIN:
            raise InputError(
                f"{printable(path)} begins with more than {LONGEST_CHAIN} other files; each must begin with one that comes earlier. They seem to "
                "name each other. Correct InitialTransformParameterFileName."
            )
        parameters = _read(path)
        chain.append(_one(path, parameters))
        path = _initial(path, parameters)
    # Of a composite the last is applied first.
    return chain[0] if len(chain) == 1 else sitk.CompositeTransform(chain)


def _read(path: Path) -> Parameters:
    if not path.is_file():
        raise InputError(
            f"There is no file {printable(path)}, with which another transform of elastix begins; all files of a chain are needed. Copy it "
            "beside that one."
        )
    text = path.read_text("utf-8", errors="replace")
    lines = re.findall(r"^\s*\((\w+)((?:\s+(?:\"[^\"\n]*\"|[^\s\"()]+))*)\s*\)", text, re.MULTILINE)
    return {name: [word.strip('"') for word in re.findall(r'"[^"\n]*"|[^\s"]+', words)] for name, words in lines}


def _initial(path: Path, parameters: Parameters) -> Path:
    """The file of the transform that is applied before, beside this one where it lies nowhere else."""
    named = (
        parameters.get("InitialTransformParameterFileName") or parameters.get("InitialTransformParametersFileName") or [NONE]
    )[0]
    if named == NONE:
        return Path(NONE)
    if parameters.get("HowToCombineTransforms", ["Compose"])[0] != "Compose":
        raise InputError(
            f"{printable(path)} adds its transform to that before it; only such are read that follow each other (Compose). Got "
            f'{parameters["HowToCombineTransforms"][0]}. Register again with (HowToCombineTransforms "Compose").'
        )
    given = path.parent / named
    return given if given.is_file() else path.parent / re.split(r"[\\/]", named)[-1]


def _one(path: Path, parameters: Parameters) -> sitk.Transform:
    kind = _words(path, parameters, "Transform")[0]
    dim = int(_numbers(path, parameters, "FixedImageDimension", 1)[0])
    if kind in SPLINES:
        return _spline(path, parameters, dim)
    if (kind, dim) not in LINEAR:
        known = ", ".join([*dict.fromkeys(name for name, _ in LINEAR), *SPLINES])
        raise InputError(
            f"{printable(path)} holds a transform {kind} in {dim} dimensions; read are {known} in two or three. Make a field of displacements by "
            "transformix -def all, and give that."
        )
    transform = LINEAR[kind, dim]()
    if kind != "TranslationTransform":
        transform.SetCenter(_numbers(path, parameters, "CenterOfRotationPoint", dim))
    if isinstance(transform, sitk.Euler3DTransform):
        transform.SetComputeZYX(parameters.get("ComputeZYX", ["false"])[0] == "true")
    transform.SetParameters(_numbers(path, parameters, "TransformParameters", transform.GetNumberOfParameters()))
    return transform


def _spline(path: Path, parameters: Parameters, dim: int) -> sitk.Transform:
    """Coefficients of B-splines on a lattice, whose direction is written axis by axis."""
    size = [int(one) for one in _numbers(path, parameters, "GridSize", dim)]
    if min(size) < 1:
        raise InputError(f"GridSize of {printable(path)} must be whole numbers from 1 on; got {size}. Copy or write it again.")
    spacing, origin, first = (
        np.array(_numbers(path, parameters, name, dim)) for name in ("GridSpacing", "GridOrigin", "GridIndex")
    )
    direction = np.reshape(_numbers(path, parameters, "GridDirection", dim * dim), (dim, dim)).T
    order = int(_numbers(path, parameters, "BSplineTransformSplineOrder", 1)[0])
    values = np.reshape(_numbers(path, parameters, "TransformParameters", dim * int(np.prod(size))), (dim, *size[::-1]))
    coefficients = []
    for one in values:
        image = sitk.GetImageFromArray(one)
        image.SetSpacing(spacing.tolist())
        image.SetDirection(direction.ravel().tolist())
        image.SetOrigin((origin + direction @ (spacing * first)).tolist())
        coefficients.append(image)
    return sitk.BSplineTransform(coefficients, order)


def _words(path: Path, parameters: Parameters, name: str) -> list[str]:
    if not parameters.get(name):
        raise InputError(
            f"{printable(path)} does not say its {name}; a file of parameters of elastix must. Its values may be in another file, or it was cut "
            "short. Copy or write it again."
        )
    return parameters[name]


def _numbers(path: Path, parameters: Parameters, name: str, count: int) -> list[float]:
    words = _words(path, parameters, name)
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not are_sound(numbers):
        raise InputError(
            f"{name} of {printable(path)} must be {count} finite numbers, none beyond {LARGEST:g}; got {len(words)} words. It may be cut short. Copy or write it again."
        )
    return numbers
