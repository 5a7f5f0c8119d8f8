"""The ten subjects of the scenes, and the parts of which each is drawn."""

from collections.abc import Callable

import numpy as np

from .animals import bird, butterfly, cat, dog, fish
from .shapes import Coat, Shape
from .things import car, house, mushroom, ship, tree

SUBJECTS: dict[str, Callable[[np.random.Generator, Coat], list[Shape]]] = {
    f.__name__: f for f in (cat, dog, bird, fish, butterfly, car, ship, house, tree, mushroom)
}
PARTS: dict[str, tuple[str, ...]] = {
    "cat": ("tail", "body", "legs", "ears", "head", "face"),
    "dog": ("tail", "legs", "body", "collar", "head", "snout", "eye", "ears"),
    "bird": ("legs", "tail", "body", "beak", "head", "eye", "wing"),
    "fish": ("tail", "fins", "body", "eye"),
    "butterfly": ("hindwings", "forewings", "antennae", "body"),
    "car": ("cabin", "windows", "body", "lights", "wheels"),
    "ship": ("mast", "flag", "sails", "hull", "portholes"),
    "house": ("chimney", "walls", "roof", "door", "windows"),
    "tree": ("trunk", "branches", "crown", "fruit"),
    "mushroom": ("stem", "ring", "gills", "cap", "spots"),
}
"""The parts of each subject, from back to front; a fir has no branches and not every tree bears fruit."""
