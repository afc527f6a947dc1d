"""What freezing costs and saves, each figure a ratio measured side by side in one process."""
