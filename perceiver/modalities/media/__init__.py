"""Images and sound of any source brought to the size and sample rate of a model. Without torch."""
