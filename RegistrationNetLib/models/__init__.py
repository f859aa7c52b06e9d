"""The published networks, one file per paper, with their layers (`layers`), cards, weights and checkpoints.

Imports from `geometry`, `losses` and `io`.
"""
