"""Several processes per run: launching, failures, interruption."""
