"""Apple's device without one: every method runs there without double precision, and by operators that the installed torch has for it.

Numbers are worked out on the CPU; how exact and how fast Apple's kernels are, only a real device shows. The list of operators is torch's
own (`mps_operators.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib import register
from RegistrationNetLib.quality.phantom import Head, head_phantom
from RegistrationNetLib.registration import alignment
from Testing.small_network import install, narrow, random_weights, small_card

from .mps_operators import runs_on_mps
from .stand_in_card import CardTensor, stand_in_card

# The operators of three dimensions that came last; before, no method could run there.
pytestmark = pytest.mark.skipif(
    not runs_on_mps(torch.ops.aten.grid_sampler_3d_backward.default), reason="this torch has too few operators for Apple's device"
)
CASES: dict[str, dict[str, Any]] = {
    "direct": {"align": ("centre", "rigid"), "steps": 1},
    "direct, from anywhere": {"align": ("centre", "pose", "rigid", "similarity", "affine"), "steps": 0},
    "direct, mind": {"similarity": "mind", "align": ("centre",), "steps": 1},
    "direct, mi": {"similarity": "mi", "align": ("centre",), "steps": 1},
    "direct, mass conserved": {"conserve_mass": True, "fixed_modality": "ct", "moving_modality": "ct", "align": (), "steps": 1},
    "gradicon": {"like": "unigradicon", "refine": "network", "steps": 1},
    "gradicon, field": {"like": "unigradicon", "refine": "field", "steps": 1},
    "constricon": {"like": "constricon", "refine": "network", "steps": 1},
    "constricon, velocity": {"like": "constricon", "refine": "field", "steps": 1},
    "carl": {"like": "carl", "refine": "network", "steps": 1},
    "nephi": {"model": "nephi", "align": ("centre",), "steps": 1},
}
SIDES = {"carl": (32, 32, 32)}
SLOW = ("direct, from anywhere", "direct, mind", "direct, mass conserved", "gradicon", "constricon", "carl")


def heads() -> tuple[Head, Head]:
    first, second = (head_phantom((14, 15, 13), (15.0,) * 3, seed) for seed in (0, 1))
    return first, second


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES])
def test_a_method_runs_on_apples_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = dict(CASES[name])
    narrow(monkeypatch)
    if like := options.pop("like", None):
        small = small_card(like, shape=SIDES.get(like, (16, 16, 16)))
        install(monkeypatch, small)
        options |= {"model": small.name, "weights": random_weights(small, tmp_path / "weights"), "align": ()}
    for constant in ("COARSE_STEPS", "FINE_STEPS"):
        monkeypatch.setattr(alignment, constant, 1)
    one, other = heads()
    if name == "direct":
        options |= {f"{side}_{what}": part for side, head in (("fixed", one), ("moving", other)) for what, part in parts(head)}
    with stand_in_card("mps"):
        result = register(one.image, other.image, device="mps", repeats=0, **options)
        used = set(CardTensor.used)
    assert result.facts["device"] == "mps"
    assert len(used) > 20
    assert sorted(str(one) for one in used if not runs_on_mps(one)) == []


def parts(head: Head) -> list[tuple[str, sitk.Image]]:
    return [("labels", head.labels), ("mask", head.labels > 0)]


def test_what_apples_device_lacks_is_seen() -> None:
    assert not runs_on_mps(torch.ops.aten.linalg_matrix_exp.default)
    assert not runs_on_mps(torch.ops.aten._linalg_svd.default)
    assert runs_on_mps(torch.ops.aten.add.Tensor)
    with stand_in_card("mps"):
        there = torch.ones(1, 1, 2, 2, 2).to("mps")
        with pytest.raises(TypeError, match="doesn't support float64"):
            there.double()
        with pytest.raises(RuntimeError, match="Unsupported Nearest interpolation"):
            torch.nn.functional.grid_sample(there, torch.zeros(1, 1, 1, 1, 3).to("mps"), mode="nearest", align_corners=True)
        with pytest.raises(RuntimeError, match="ConvTranspose 3D with BF16 or FP16"):
            torch.nn.functional.conv_transpose3d(there.half(), there.half())
