"""From labelled films to a checkpoint, and a checkpoint's accuracy per domain.

Owns recipes, training data, models, losses and evaluation. Does not own quantisation or
bundles (see ``export``). Of this repository it imports ``edge_runtime`` alone, so that a
frame becomes a tensor in training exactly as it does on the device.
"""
