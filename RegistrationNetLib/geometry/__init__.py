"""Grids and coordinates, maps of the unit cube, sampling, splines and regularity; no images, files or networks.

Imports only from the library's own folder; everything else may import it.
"""
