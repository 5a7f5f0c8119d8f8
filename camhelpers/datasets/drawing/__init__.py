"""Shapes, animals, things and landscapes: what the scenes are painted with."""
