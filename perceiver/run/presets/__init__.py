"""Presets: settings of a training chosen from the size and kind of its data, by rules."""
