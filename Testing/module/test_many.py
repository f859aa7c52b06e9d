"""Several pairs of nodes, one after the other, with a real worker and the real MRML."""

from typing import Any

import pytest
import slicer

from RegistrationNetLib.errors import Cancelled, InputError

from .nodes import pair_nodes
from .test_logic import logic, module

__all__ = ["logic", "module"]

QUICK: dict[str, Any] = {"steps": 0, "align": [], "repeats": 0}


@pytest.mark.slow
def test_several_are_registered_and_one_that_fails_ends_no_other(logic: Any, scene: Any) -> None:
    fixed, moving = pair_nodes(scene)
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    heard: list[int] = []
    many = logic.registerMany([(fixed, moving), (fixed, empty), (moving, fixed)], lambda one: heard.append(one.done), **QUICK)
    assert many.isFinished
    assert [result is not None for result in many.results] == [True, False, True]
    assert [error is not None for error in many.errors] == [False, True, False]
    assert isinstance(many.errors[1], InputError)
    assert many.results[2].warpedNode is not None
    assert heard == [1, 2, 3]


def test_what_has_not_begun_is_cancelled_and_what_is_done_stays(logic: Any, scene: Any) -> None:
    fixed, moving = pair_nodes(scene)

    def stop(many: Any) -> None:
        many.cancel()

    many = logic.registerMany([(fixed, moving)] * 3, stop, **QUICK)
    assert many.results[0] is not None
    assert many.results[1:] == [None, None]
    assert [type(error) for error in many.errors] == [type(None), Cancelled, Cancelled]


def test_the_volumes_of_a_folder_are_registered_to_the_fixed_one(logic: Any, scene: Any) -> None:
    fixed, moving = pair_nodes(scene)
    other, _ = pair_nodes(scene)
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "several")
    inner = hierarchy.CreateFolderItem(folder, "inner")
    for node, parent in ((other, inner), (fixed, folder), (moving, folder), (labels, folder)):
        hierarchy.SetItemParent(hierarchy.CreateItem(parent, node), parent)
    assert logic.pairsOfFolder(fixed, folder) == [(fixed, other), (fixed, moving)]
    empty = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "empty")
    with pytest.raises(InputError, match="The folder holds no scalar volume beside the fixed one"):
        logic.pairsOfFolder(fixed, empty)
