"""The wandb workspace that compares methods, and a picture of what it shows."""
