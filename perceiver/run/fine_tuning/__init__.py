"""Starting a training from another model's weights."""
