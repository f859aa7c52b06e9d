"""The one pipeline from two images to transforms in millimetres (`pipeline.register`), and the methods that it runs.

In the order in which a pair meets them: `request` (what is asked for), `solving` (prepared, aligned, solved), a method of `methods`
(`direct`; for networks `network_run`), `delivery` (transforms in mm), `repeats` (evidence), `pipeline` (all of it).

Imports from every package before it in the plan: `geometry`, `losses`, `io`, `models`, `quality`.
"""
