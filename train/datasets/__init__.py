"""Labelled films for training and evaluation: readers, cut-outs and the composer."""
