"""The real worker, but `register` answers at once: with a bent map, an affine and images of full size, made before.

python -m Testing.benchmarks.answering_worker SIZE [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from RegistrationNetLib.progress import Progress, ProgressCallback
from RegistrationNetLib.registration.pipeline import Registration, register
from RegistrationNetLib.slicer_bridge import worker, worker_services
from Testing.worker_input import ball


def prepared(size: int) -> Registration:
    """A registration of `size`³ voxels: the report of a small one, everything else as large as asked."""
    small = [sitk.GetImageFromArray(ball(centre, 16).values) for centre in ((0, 0, 0), (3, -4, 0))]
    result = register(*small, steps=1, align=[])
    wave = np.sin(np.linspace(0, 6, size))
    bent = np.empty((size, size, size, 3))
    for axis in range(3):
        bent[..., axis] = wave.reshape([-1 if one == axis else 1 for one in range(3)])

    def transform() -> sitk.CompositeTransform:
        affine = sitk.AffineTransform(3)
        affine.Rotate(0, 1, 0.05)
        return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(sitk.GetImageFromArray(bent, isVector=True))])

    values = np.random.default_rng(0).integers(0, 1000, (size,) * 3, dtype=np.int16)
    return replace(
        result,
        moving_from_fixed=transform(),
        fixed_from_moving=transform(),
        warped=sitk.GetImageFromArray(values),
        jacobian=sitk.GetImageFromArray(1 + values.astype(np.float32) / 4000),
    )


def main() -> None:
    result = prepared(int(sys.argv[1]))

    def answered(fixed: sitk.Image, moving: sitk.Image, *, progress: ProgressCallback, **_: object) -> Registration:
        progress(Progress("prepare", 0.0, None))
        return replace(result, fixed=fixed, moving=moving)

    def loaded() -> Mapping[str, Any]:
        worker_services.register = answered  # type: ignore[assignment]
        return worker_services.SERVICES

    worker._services = loaded  # type: ignore[assignment]
    worker.main(sys.argv[2:])


if __name__ == "__main__":
    main()
