"""Tables of methods at several computes: paired differences, claims, and the figure.

A row such as ``smartfrz 75%`` is a method at a percentage of full training's compute.
"""
