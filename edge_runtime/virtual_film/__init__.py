"""The virtual microscope: a rendered blood film with ground truth, seen through optics.

Film coordinates are µm from the film's upper left corner, x to the right, y down. Serves
the demonstration, tests, benchmarks and the training of the detector; needs only NumPy and
OpenCV.
"""

from edge_runtime.virtual_film.film import FilmCell, VirtualFilm
from edge_runtime.virtual_film.hand_path import HandStep, hand_path
from edge_runtime.virtual_film.optics import Optics, WindowCell, truth_in_window
from edge_runtime.virtual_film.profiles import PROFILES, OpticalProfile
from edge_runtime.virtual_film.recipe import ARTEFACT_CLASSES, WHITE_CELL_CLASSES, FilmSpec
from edge_runtime.virtual_film.stain import Stain, draw_stain

__all__ = [
    "ARTEFACT_CLASSES",
    "PROFILES",
    "WHITE_CELL_CLASSES",
    "FilmCell",
    "FilmSpec",
    "HandStep",
    "OpticalProfile",
    "Optics",
    "Stain",
    "VirtualFilm",
    "WindowCell",
    "draw_stain",
    "hand_path",
    "truth_in_window",
]
