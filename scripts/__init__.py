"""Command-line interface of the harness."""
