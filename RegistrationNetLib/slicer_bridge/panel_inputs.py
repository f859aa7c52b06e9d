"""What the panel proposes before anybody has chosen (the volumes in view, the modality of each), and how it names what is chosen."""

from __future__ import annotations

from typing import Any

from .scene_results import NO_IMAGES, ROLE

Node = Any

# Air is -1000 in CT, and no other modality stores values far below 0.
CT_BELOW = -500.0
DICOM_MODALITIES = {"CT": "ct", "MR": "mr"}


def pair_in_view(scene: Node) -> tuple[Node, Node]:
    """The volumes of the slice views, background as fixed and foreground as moving; where two are not shown, the first others.

    None stands for what the scene does not have.
    """
    volumes = _plain_volumes(scene)
    shown = [node for node in _shown(scene) if node in volumes]
    both = [*dict.fromkeys([*shown, *volumes]), None, None][:2]
    return both[0], both[1]


def modality_of(node: Node) -> str:
    """ "ct", "mr" or "other": by what DICOM says, else by values that only CT has."""
    said = _dicom_modality(node)
    if said in DICOM_MODALITIES:
        return DICOM_MODALITIES[said]
    image = node.GetImageData()
    return "ct" if not said and image is not None and image.GetScalarRange()[0] < CT_BELOW else "other"


def name_in_tips(ui: Any) -> None:
    """Let a name that is wider than its selector be read whole in the selector's tip, above the usual words."""
    for selector in vars(ui).values():
        if selector.inherits("qMRMLNodeComboBox") and not selector.inherits("qMRMLCheckableNodeComboBox"):
            selector.connect(
                "currentNodeChanged(vtkMRMLNode*)",
                lambda node, selector=selector, usual=selector.toolTip: selector.setToolTip(
                    usual if node is None else f"{node.GetName()}\n{usual}"
                ),
            )


def hide(selector: Node, node_ids: list[str]) -> None:
    """Let a selector not offer these nodes."""
    model = selector.sortFilterProxyModel()
    if list(model.hiddenNodeIDs) != node_ids:
        model.hiddenNodeIDs = node_ids


def _plain_volumes(scene: Node) -> list[Node]:
    nodes = [
        scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode") for index in range(_count(scene, "vtkMRMLScalarVolumeNode"))
    ]
    return [
        node
        for node in nodes
        if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors() and not node.GetAttribute(ROLE)
    ]


def made_by_registration(scene: Node) -> list[str]:
    """The IDs of the volumes that a registration has made and that show no anatomy: nobody registers these."""
    nodes = [
        scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode") for index in range(_count(scene, "vtkMRMLScalarVolumeNode"))
    ]
    return [node.GetID() for node in nodes if node.GetAttribute(ROLE) in NO_IMAGES]


def _shown(scene: Node) -> list[Node]:
    kind = "vtkMRMLSliceCompositeNode"
    views = [scene.GetNthNodeByClass(index, kind) for index in range(_count(scene, kind))]
    ids = [one for view in views for one in (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID())]
    return [node for node in (scene.GetNodeByID(one) for one in ids if one) if node is not None]


def _count(scene: Node, kind: str) -> int:
    return int(scene.GetNumberOfNodesByClass(kind))


def _dicom_modality(node: Node) -> str:
    hierarchy = node.GetScene().GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    if hierarchy is None:
        return ""
    item = hierarchy.GetItemByDataNode(node)
    while item and item != hierarchy.GetSceneItemID():
        if said := hierarchy.GetItemAttribute(item, "DICOM.Modality"):
            return str(said)
        item = hierarchy.GetItemParent(item)
    return ""
