"""The networks' layers as published, free of dimension; their parameters bear the names of the published files.

Imports from `geometry` only.
"""
