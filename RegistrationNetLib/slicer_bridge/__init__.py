"""Between 3D Slicer and the library: the background process and its client, the scene, and the parts of the panel.

What Slicer's own process imports from here brings no torch; only the background process imports `registration`.
"""
