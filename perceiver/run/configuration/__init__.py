"""From the composed Hydra configuration to a plain, resolved one."""
