"""The harness: measures freezing policies against each other, knowing nothing of how they work.

Specs become runs (`plan`), runs become run files (`runs`), run files become tables (`tables`).
"""
