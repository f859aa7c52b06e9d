"""What the command `points` does. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

from argparse import Namespace

from ..io.image_files import read_transform
from ..io.landmarks import mapped, read_points, write_points
from ..io.outputs import check_file_name
from .console import warned
from .interruption import Interruption


def run_points(options: Namespace, interruption: Interruption) -> int:
    """Carry points by a transform."""
    check_file_name(options.out)
    transform = read_transform(options.transform)
    points = read_points(options.points, dim=transform.GetDimension(), warn=warned(options))
    interruption.check()
    write_points(points.moved(mapped(points.points_mm, transform)), options.out)
    interruption.too_late()
    return 0
