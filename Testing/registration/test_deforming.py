"""A field is kept where another measure confirms it, or nearly; what was decided is told."""

from __future__ import annotations

import pytest
import torch

from RegistrationNetLib.geometry.deformation import DisplacementField
from RegistrationNetLib.geometry.field_pair import FieldPair
from RegistrationNetLib.registration import deforming
from RegistrationNetLib.registration.measures import field_measure
from RegistrationNetLib.registration.prepare import Prepared

from .test_field_refinement import plain_grid

SHAPE = (16, 16)


@pytest.mark.parametrize(
    ("own", "other", "is_kept", "told"),
    [
        ((1.0, 0.5), (1.0, 0.8), True, ""),
        ((1.0, 0.95), (1.0, 0.8), False, ""),
        ((1.0, 0.5), (1.0, 1.05), True, "it was kept. Look closely"),
        ((1.0, 0.5), (1.0, 1.2), False, "it was left out"),
    ],
)
def test_what_another_measure_says_of_a_field_decides(
    own: tuple[float, float], other: tuple[float, float], is_kept: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses without the field and with it, by its own measure and by the other one."""
    losses = iter([*own, *other])
    monkeypatch.setattr(deforming, "_loss", lambda *_: next(losses))
    image = Prepared(torch.rand(1, 1, *SHAPE), plain_grid(SHAPE))
    field = DisplacementField(torch.full((1, 2, *SHAPE), 0.1))
    found, warnings = deforming._kept(FieldPair(image.grid, field, field), (image, image), field_measure("mind"))
    assert bool(found.moving_from_fixed.displacement.any()) == is_kept
    assert len(warnings) == bool(told)
    assert told in "".join(warnings)
