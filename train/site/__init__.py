"""Adapting a detector to one clinic's microscope with few labelled fields."""
