"""How results look in Slicer: colours and legends, the deformed grid, the table of numbers, the histogram.

Green, amber and red are for verdicts; a grid is drawn from blue to white, a difference in blue and orange, and of a determinant
only its own colours are said in its legend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from ..errors import OutputError
from ..io.nrrd import Volume
from ..models.catalogue import resource_folder
from ..quality.colours import TABLE_WINDOW, difference_colour, error_colour, error_top_mm
from .mrml import set_voxels
from .scene_sampling import Node, at_once, displacements, interpolated

JACOBIAN_TITLE = "Jacobian determinant"
# Which colour nodes are ours, so that a scene holds one of each.
COLOURS_ATTRIBUTE = "RegistrationNet.Colours"
# Where legends lie: beside each other as a share of a view, so narrow and short that they fit a small one.
LEGEND_POSITION, LEGEND_SIZE, LEGEND_FONT_PX = (0.98, 0.45), (0.09, 0.45), 11
GRID_LINES = 24
# From where nothing moves to where the most does.
GRID_COLOURS = ((0.22, 0.42, 0.72), (0.30, 0.66, 0.86), (0.72, 0.90, 0.96), (1.0, 1.0, 1.0))
# Displacements are looked at on so many points along each axis; the colours end where all but one in a hundred lie below.
GRID_SAMPLES, GRID_PERCENTILE = 24, 99.0
CHECKERS = 8
# What the role of a volume ends in that shows another one within the body only.
OVERLAY = " overlay"
DIFFERENCE_COLOURS, ERROR_COLOURS = 255, 512


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


def error_colours(scene: Node, voxel_mm: float) -> Node:
    """From yellow to purple for expected errors of more than a voxel, whose largest edge is `voxel_mm`; clear below."""
    top_mm = error_top_mm(voxel_mm)

    def fill(node: Node) -> None:
        centres = (np.arange(ERROR_COLOURS) + 0.5) * top_mm / ERROR_COLOURS
        colours, weights = error_colour(centres, voxel_mm)
        node.SetTypeToUser()
        node.SetNumberOfColors(ERROR_COLOURS)
        for index, (colour, weight) in enumerate(zip((colours / 255.0).tolist(), weights.tolist(), strict=True)):
            node.SetColor(index, f"{centres[index]:.2f} mm", *colour, float(weight > 0))

    return _colours(scene, f"Expected error, voxel {voxel_mm:.3g} mm", fill)


def largest_edge_mm(volume: Volume) -> float:
    """The largest edge of its voxels."""
    return float(np.linalg.norm(volume.world_from_index[:3, :3], axis=0).max())


def show_as_error(node: Node, voxel_mm: float) -> None:
    """Give a volume of expected errors its colours, its window and a legend (not yet visible). Call it before the voxels are set."""
    _show_window(node, (0.0, error_top_mm(voxel_mm)), error_colours(node.GetScene(), voxel_mm))
    legend_of(node, "error")


def show_as_jacobian(node: Node) -> None:
    """Give a determinant volume its colours, its window and a legend (not yet visible). Call it before the voxels are set."""
    # A hair higher, so that a determinant of exactly 0 has the colour of what is folded.
    low, high = (bound + 1e-5 for bound in TABLE_WINDOW)
    _show_window(node, (low, high), jacobian_colours(node.GetScene()))
    legend_of(node, "jacobian")


@dataclass(frozen=True)
class Legend:
    """What a legend says: its title, how many numbers, and how they are written."""

    title: str
    labels: int
    number: str = "%.1f"


# By the role of the node that a legend explains. What lies beyond an end has the colour of the end.
LEGENDS: Mapping[str, Legend] = {
    "jacobian": Legend(_("Volume change\n≤ 0: folded\n≥ 4"), 6),
    "error": Legend(_("Expected error,\nmm\n≥"), 5),
    "difference": Legend(_("Warped − fixed\norange: warped\nis brighter"), 5),
    "grid": Legend(_("Deformation,\nmm\n≥"), 5),
}


def legend_kind(role: str) -> str:
    """Which of `LEGENDS` explains a node of this role; "" for none."""
    kind = role.removesuffix(OVERLAY)
    return kind if kind in LEGENDS else ""


def legend_of(node: Node, role: str) -> Node:
    """The legend of a volume or grid; made if there is none, or none any more."""
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
    if legend is not None:
        return legend
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
    words = LEGENDS[legend_kind(role)]
    legend.SetTitleText(words.title)
    legend.SetLabelFormat(words.number)
    legend.SetNumberOfLabels(words.labels)
    legend.SetPosition(*LEGEND_POSITION)
    legend.SetSize(*LEGEND_SIZE)
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        text.SetFontSize(LEGEND_FONT_PX)
    if legend_kind(role) == "jacobian":
        legend.SetMaxNumberOfColors(jacobian_colours(node.GetScene()).GetNumberOfColors())
    if role == "grid":
        legend.SetSaveWithScene(False)
    legend.SetVisibility(False)
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
    """Let a transform that is not saved be drawn as a deformed grid over a lattice (not yet visible), coloured by how far it moves."""
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetSaveWithScene(False)
    steps = np.linalg.norm(lattice.world_from_index[:3, :3], axis=0)
    spacing_mm = float((steps * lattice.size).max()) / GRID_LINES
    display.SetVisualizationMode(display.VIS_MODE_GRID)
    display.SetGridSpacingMm(spacing_mm)
    display.SetGridResolutionMm(spacing_mm / 5)
    display.SetGridLineDiameterMm(spacing_mm / 20)
    display.SetAndObserveColorNodeID(_grid_colours(node, _largest_mm(node, lattice)).GetID())
    display.SetVisibility2D(False)
    display.SetVisibility(False)


def _largest_mm(node: Node, lattice: Volume) -> float:
    """How far a transform moves the points of a lattice, but for the last hundredth of them."""
    sizes = [max(2, min(GRID_SAMPLES, size)) for size in lattice.size]
    coarse = lattice.world_from_index.copy()
    for axis, (size, all_of_them) in enumerate(zip(sizes, lattice.size, strict=True)):
        coarse[:3, axis] *= max(1, all_of_them - 1) / (size - 1)
    points = Volume(np.empty((*sizes[::-1], 0)), coarse)
    moved: Volume = at_once(displacements(node, points))
    return float(np.percentile(np.linalg.norm(moved.values, axis=-1), GRID_PERCENTILE))


def _grid_colours(node: Node, largest_mm: float) -> Node:
    """Colours for displacements from 0 to about `largest_mm`, as a node that is neither listed nor saved."""
    step = 10.0 ** np.floor(np.log10(max(largest_mm, 0.1)))
    end = float(np.ceil(max(largest_mm, 0.1) / step) * step)
    colours = node.GetScene().CreateNodeByClass("vtkMRMLProceduralColorNode")
    colours.UnRegister(None)
    colours.SetName("Deformation")
    colours.SetHideFromEditors(True)
    colours.SetSaveWithScene(False)
    node.GetScene().AddNode(colours)
    function = vtk.vtkDiscretizableColorTransferFunction()
    for index, colour in enumerate(GRID_COLOURS):
        function.AddRGBPoint(end * index / (len(GRID_COLOURS) - 1), *colour)
    colours.SetAndObserveColorTransferFunction(function)
    return colours


def set_quality(node: Node, report: Mapping[str, Any]) -> None:
    """Fill a table node: every mark with its rule, then what was done and what it took."""
    columns = ("Measure", "Value", "Mark", "Rule")
    rows = [(measure, mark["value"], mark["colour"], mark["rule"]) for measure, mark in report["marks"].items()]
    rows += [(what, value, "", "") for what, value in _facts(report)]
    set_words(node, columns, rows)


def set_words(node: Node, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Fill a table node with words, and keep them from being changed by hand."""
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


def set_within(node: Node, original: tuple[Volume, Node], body: Volume, neutral: float) -> None:
    """Fill a volume with another one where the body is, looking like it, and with the value `neutral` elsewhere."""
    volume, shown_like = original
    show_like(node, shown_like)
    body = Volume(body.values.astype(np.float32), body.world_from_index)
    inside = at_once(interpolated(body, volume)).values >= 0.5
    set_voxels(node, Volume(np.where(inside, volume.values, volume.values.dtype.type(neutral)), volume.world_from_index))


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
    yield "Resolution of the work", f"{' × '.join(f'{step:.3g}' for step in report['resolution_mm'])} mm"
