"""Uses of a trained model beyond one forward pass."""
