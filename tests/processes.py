"""Processes that start at once: they fork from one that has imported what is slow to import."""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["scripts.table", "timm", "sklearn.datasets"])
