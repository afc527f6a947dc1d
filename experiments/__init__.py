"""The harness that runs the tables and figures of the paper, and what is made of its results."""
