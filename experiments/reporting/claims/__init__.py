"""Claims and their verdicts: of each table with all its tests, and of the paper one by one."""
