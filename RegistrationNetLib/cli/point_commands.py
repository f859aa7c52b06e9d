"""What the commands `points` and `convert` do. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

from argparse import Namespace

from ..io.image_files import read_image
from ..io.landmarks import mapped, read_points, write_points
from ..io.outputs import check_file_name, check_not_read
from ..io.transform_files import check_transform_name, write_transform_file
from .console import warned
from .given_transform import transform_of
from .interruption import Interruption


def run_points(options: Namespace, interruption: Interruption) -> int:
    """Carry points by a transform."""
    check_file_name(options.out)
    check_not_read(options.out, (options.points, options.transform))
    transform = transform_of(options)
    points = read_points(options.points, dim=transform.GetDimension(), warn=warned(options))
    interruption.check()
    write_points(points.moved(mapped(points.points_mm, transform)), options.out)
    interruption.too_late()
    return 0


def run_convert(options: Namespace, interruption: Interruption) -> int:
    """Write a transform in another format."""
    check_transform_name(options.out, has_grid=options.like is not None)
    check_not_read(options.out, (options.transform, *([options.like] if options.like else [])))
    transform = transform_of(options, fixed=options.like)
    like = None if options.like is None else read_image(options.like, warned(options))
    interruption.check()
    write_transform_file(transform, options.out, like)
    interruption.too_late()
    return 0
