"""Between 3D Slicer and the library: the background process and its client, the scene, and the parts of the panel.

What Slicer's own process imports from here brings no torch: of `registration` only what says what a method needs.
"""
