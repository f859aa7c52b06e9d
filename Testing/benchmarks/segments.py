"""What it takes to read a segmentation of many segments, as a mask and as labels.

    python -m Testing.benchmarks.segments --size 256 --segments 100

The segments share one array, as those of an automatic segmentation do. Seconds in all, and the longest piece between two turns of the
application.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "host"))

import slicer_host  # noqa: E402

slicer_host.start(ROOT / "Testing" / "host" / "slicer_layer")

import slicer  # noqa: E402

from RegistrationNetLib.io.nrrd import Volume  # noqa: E402
from RegistrationNetLib.slicer_bridge import mrml  # noqa: E402
from RegistrationNetLib.slicer_bridge.scene_sampling import Steps  # noqa: E402
from Testing.module.nodes import volume_node  # noqa: E402


def segmentation(size: int, segments: int) -> tuple[Any, Volume]:
    """A node whose segments are layers of a cube, and the cube."""
    values = np.zeros((size,) * 3, np.uint8)
    for number, layers in enumerate(np.array_split(np.arange(size), segments + 1)[:-1], start=1):
        values[layers] = number
    cube = Volume(values, np.eye(4))
    label_map = volume_node(slicer.mrmlScene, cube, kind="vtkMRMLLabelMapVolumeNode")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label_map, node)
    assert node.GetSegmentation().GetNumberOfSegments() == segments
    return node, cube


def taken(read: Callable[[], Steps[Any]]) -> tuple[float, float]:
    """Seconds in all, and of the longest piece."""
    times = [time.monotonic()]
    times += [time.monotonic() for _pause in read()]
    times.append(time.monotonic())
    return times[-1] - times[0], float(np.diff(times).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="voxels along each axis")
    parser.add_argument("--segments", type=int, default=100, help="at most 255")
    arguments = parser.parse_args()
    node, cube = segmentation(arguments.size, arguments.segments)
    reads: dict[str, Callable[[], Steps[Any]]] = {
        "the union as a mask": lambda: mrml.mask_of(node, cube),
        "one segment as a mask": lambda: mrml.mask_of(node, cube, segment=next(iter(mrml.segments_of(node)))),
        "labels of both images": lambda: mrml.labels_of(node, node, like=(cube, cube)),
    }
    for name, read in reads.items():
        whole, longest = taken(read)
        print(f"{name}: {whole:.2f} s, longest piece {1000 * longest:.0f} ms")


if __name__ == "__main__":
    main()
