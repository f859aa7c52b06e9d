"""How results look in Slicer: the Jacobian's colours and legend, the deformed grid, the table of numbers, the histogram."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from ..errors import OutputError
from ..io.nrrd import Volume
from ..models.catalogue import resource_folder
from ..quality.colours import TABLE_WINDOW, difference_colour
from .mrml import set_voxels
from .scene_sampling import Node

JACOBIAN_TITLE = "Jacobian determinant"
# Which colour nodes are ours, so that a scene holds one of each.
COLOURS_ATTRIBUTE = "RegistrationNet.Colours"
LEGEND_LABELS = 11
GRID_LINES = 24
CHECKERS = 8
DIFFERENCE_COLOURS = 255


def jacobian_colours(scene: Node) -> Node:
    """The colour table of determinants; made on first use.

    Raises:
        OutputError: the table that is installed beside this library cannot be read.
    """
    path = resource_folder() / "Colors" / "JacobianDeterminant.ctbl"

    def fill(node: Node) -> None:
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
        scene.AddNode(storage)
        node.SetAndObserveStorageNodeID(storage.GetID())
        storage.SetFileName(str(path))
        if not storage.ReadData(node):
            raise OutputError(
                f"The colour table {path} cannot be read; the installation is incomplete. Install the extension again."
            )

    return _colours(scene, JACOBIAN_TITLE, fill)


def difference_colours(scene: Node) -> Node:
    """Blue where fixed is brighter, orange where warped is, black where they are equal; for differences from -1 to 1."""

    def fill(node: Node) -> None:
        colours = difference_colour(np.linspace(-1, 1, DIFFERENCE_COLOURS)) / 255.0
        node.SetTypeToUser()
        node.SetNumberOfColors(DIFFERENCE_COLOURS)
        for index, colour in enumerate(colours.tolist()):
            node.SetColor(index, f"{2 * index / (DIFFERENCE_COLOURS - 1) - 1:.2f}", *colour, 1.0)

    return _colours(scene, "Difference", fill)


def show_as_jacobian(node: Node) -> None:
    """Give a determinant volume its colours, its window and a legend (not yet visible). Call it before the voxels are set."""
    # A hair higher, so that a determinant of exactly 0 has the colour of what is folded.
    low, high = (bound + 1e-5 for bound in TABLE_WINDOW)
    _show_window(node, (low, high), jacobian_colours(node.GetScene()))
    legend_of(node).SetVisibility(False)


def legend_of(node: Node) -> Node:
    """The legend of a determinant volume; made if there is none, or none any more."""
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
    if legend is not None:
        return legend
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
    legend.SetTitleText(f"{JACOBIAN_TITLE}\n(below 0: folded)")
    legend.SetLabelFormat("%.1f")
    legend.SetNumberOfLabels(LEGEND_LABELS)
    legend.SetMaxNumberOfColors(jacobian_colours(node.GetScene()).GetNumberOfColors())
    return legend


def show_like(node: Node, other: Node) -> None:
    """Give a volume the display settings of another one. Call it before the voxels are set."""
    node.CreateDefaultDisplayNodes()
    display, model = node.GetDisplayNode(), other.GetDisplayNode()
    if model is None or model.GetClassName() != display.GetClassName():
        return
    display.CopyContent(model)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(model.GetWindow(), model.GetLevel())
    display.SetAndObserveColorNodeID(model.GetColorNodeID())


def show_as_grid(node: Node, lattice: Volume) -> None:
    """Let a transform be drawn as a deformed grid over a lattice (not yet visible)."""
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    steps = np.linalg.norm(lattice.world_from_index[:3, :3], axis=0)
    spacing_mm = float((steps * lattice.size).max()) / GRID_LINES
    display.SetVisualizationMode(display.VIS_MODE_GRID)
    display.SetGridSpacingMm(spacing_mm)
    display.SetGridResolutionMm(spacing_mm / 5)
    display.SetGridLineDiameterMm(spacing_mm / 20)
    display.SetVisibility2D(False)
    display.SetVisibility(False)


def set_quality(node: Node, report: Mapping[str, Any]) -> None:
    """Fill a table node: every mark with its rule, then what was done and what it took."""
    columns = ("Measure", "Value", "Mark", "Rule")
    rows = [(measure, mark["value"], mark["colour"], mark["rule"]) for measure, mark in report["marks"].items()]
    rows += [(what, value, "", "") for what, value in _facts(report)]
    table = vtk.vtkTable()
    for name, values in zip(columns, zip(*rows, strict=True), strict=True):
        column = vtk.vtkStringArray()
        column.SetName(name)
        for value in values:
            column.InsertNextValue(value)
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    node.SetLocked(True)


def set_histogram(node: Node, histogram: Mapping[str, Sequence[float]]) -> None:
    """Fill a table node with the histogram of determinants."""
    table = vtk.vtkTable()
    for name, values in histogram.items():
        column = numpy_to_vtk(np.array(values, dtype=np.float64), deep=True)
        column.SetName(name)
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    node.SetLocked(True)


def set_chart(chart: Node, series: Node, histogram: Node) -> None:
    """Let `chart` draw the histogram table as `series`."""
    series.SetAndObserveTableNodeID(histogram.GetID())
    series.SetXColumnName("determinant")
    series.SetYColumnName("voxels")
    series.SetPlotType(series.PlotTypeScatter)
    series.SetMarkerStyle(series.MarkerStyleNone)
    series.SetColor(0.1, 0.35, 0.8)
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetTitle(JACOBIAN_TITLE)
    chart.SetXAxisTitle("determinant (1: volume kept, 0 or less: folded)")
    chart.SetYAxisTitle("voxels")
    chart.SetLegendVisibility(False)


def set_difference(node: Node, fixed: tuple[Volume, Node], warped: tuple[Volume, Node]) -> None:
    """Fill a volume with warped - fixed, each in its display window as 0 to 1."""
    _show_window(node, (-1.0, 1.0), difference_colours(node.GetScene()))
    set_voxels(node, Volume(_windowed(*warped) - _windowed(*fixed), fixed[0].world_from_index))


def set_checkerboard(node: Node, fixed: tuple[Volume, Node], warped: tuple[Volume, Node]) -> None:
    """Fill a volume with fields of fixed and warped in turn, each in its display window as 0 to 1."""
    _show_window(node, (0.0, 1.0), None)
    shape = fixed[0].values.shape
    side = max(1, max(shape) // CHECKERS)
    place = sum(index // side for index in np.ogrid[tuple(slice(size) for size in shape)])
    set_voxels(node, Volume(np.where(place % 2 == 0, _windowed(*fixed), _windowed(*warped)), fixed[0].world_from_index))


def _windowed(volume: Volume, display: Node) -> Any:
    """The values from 0 to 1 within the window of a display node, float32."""
    low, width = display.GetLevel() - display.GetWindow() / 2, max(display.GetWindow(), 1e-12)
    return ((volume.values.astype(np.float32) - np.float32(low)) / np.float32(width)).clip(0, 1)


def _show_window(node: Node, window: tuple[float, float], colours: Node | None) -> None:
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*window)
    if colours is not None:
        display.SetAndObserveColorNodeID(colours.GetID())
        display.SetInterpolate(False)


def _colours(scene: Node, name: str, fill: Any) -> Node:
    nodes = scene.GetNodesByClass("vtkMRMLColorTableNode")
    nodes.UnRegister(None)
    for index in range(nodes.GetNumberOfItems()):
        if nodes.GetItemAsObject(index).GetAttribute(COLOURS_ATTRIBUTE) == name:
            return nodes.GetItemAsObject(index)
    node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", name)
    fill(node)
    node.SetName(name)
    node.SetAttribute(COLOURS_ATTRIBUTE, name)
    return node


def _facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Model", report["model"]
    yield "Refinement", report["refine"]
    yield "Device", report["device"]
    yield "Time", f"{report['seconds']['total']:.1f} s"
    yield "Peak memory", f"{report['peak_memory_mb']:.0f} MB"
