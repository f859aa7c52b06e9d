"""The one pipeline from two images to transforms in millimetres (`pipeline.register`), and the methods that it runs.

Imports from every package before it in the plan: `geometry`, `losses`, `io`, `models`, `quality`.
"""
