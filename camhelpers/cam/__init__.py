"""The engine: load a model, run it once, and turn what it did into heatmaps."""
