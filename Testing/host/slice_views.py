"""The application's three slice views, drawn off-screen with slicer-core's own displayable managers (stand-in for tests)."""

import slicer
import slicer_host
import vtk
from PySide6 import QtGui
from vtk.util.numpy_support import vtk_to_numpy

MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)


class SliceView:
    def __init__(self, name, orientation, color, application, size):
        self.size = size
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.renderer = vtk.vtkRenderer()
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application)
        for manager in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.managers = slicer.vtkMRMLDisplayableManagerGroup()
        self.managers.SetRenderer(self.renderer)
        self.managers.Initialize(factory, self.renderer)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        application.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(orientation)
        self.node.SetLayoutColor(*color)
        self.managers.SetMRMLDisplayableNode(self.node)
        self.mapper = vtk.vtkImageMapper()
        self.mapper.SetColorWindow(255)
        self.mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self.mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(actor)
        self.logic.ResizeSliceNode(*size)

    def sliceLogic(self):
        return self.logic

    def mrmlSliceNode(self):
        return self.node

    def mrmlSliceCompositeNode(self):
        return self.logic.GetSliceCompositeNode()

    def image(self):
        self.mapper.SetInputConnection(self.logic.GetImageDataConnection())
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        out = grab.GetOutput()
        w, h, _ = out.GetDimensions()
        pixels = vtk_to_numpy(out.GetPointData().GetScalars()).reshape(h, w, 3)[::-1].copy()
        return QtGui.QImage(pixels.data, w, h, 3 * w, QtGui.QImage.Format.Format_RGB888).copy()


class LayoutManager:
    VIEWS = {
        "Red": ("Axial", (0.95, 0.29, 0.25)),
        "Yellow": ("Sagittal", (0.93, 0.84, 0.3)),
        "Green": ("Coronal", (0.43, 0.69, 0.29)),
    }

    def __init__(self, size=(360, 360)):
        application = slicer.vtkSlicerApplicationLogic()
        application.SetMRMLScene(slicer.mrmlScene)
        application.GetColorLogic().SetMRMLScene(slicer.mrmlScene)
        application.GetColorLogic().AddDefaultColorNodes()
        application.SetSliceLogics(vtk.vtkCollection())
        application.SetViewLogics(vtk.vtkCollection())
        slicer.mrmlScene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(slicer.mrmlScene, True)
        slicer.app._applicationLogic = application
        self.views = {n: SliceView(n, o, c, application, size) for n, (o, c) in self.VIEWS.items()}
        slicer.app.layoutManager = lambda: self

    def sliceViewNames(self):
        return tuple(self.views)

    def sliceWidget(self, name):
        return self.views[name]

    def mrmlSliceLogics(self):
        return slicer.app._applicationLogic.GetSliceLogics()

    def resetSliceViews(self):
        for view in self.views.values():
            view.logic.FitSliceToBackground()
