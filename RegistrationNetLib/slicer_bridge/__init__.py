"""Between 3D Slicer and the library: the background process and its client, the scene, and the parts of the panel.

Only `worker` and `worker_services` run in the background process; everything else runs in Slicer's own. What that imports from here
brings no torch: of `registration` only what says what a method needs.
"""
