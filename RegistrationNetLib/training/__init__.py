"""Training and fine-tuning: pairs to learn from, the loop, checkpoints that resume exactly, and the model that comes out.

Imports from `registration` and what that imports; only `cli` imports it.
"""
