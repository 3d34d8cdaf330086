"""Running: from a Hydra configuration to a trained or tested model in a run directory."""
