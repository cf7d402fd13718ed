"""How a field can look: stain, background, illumination, focus, sensor.

Owns photometric augmentation of RGB fields. Does not own geometry (see ``compose``).
Works in optical density (Beer-Lambert: I = I0 exp(-OD)), where a stain is a direction
and its strength a length, so that thin red cells and dense nuclei can be re-coloured
separately and the background chosen freely.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from edge_runtime.types import Float32Array, UInt8Image


def background_colour(pixels: UInt8Image) -> Float32Array:
    """Colour of the empty film, RGB float32 ``(3,)``: median of the brightest tenth."""
    small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    brightness = small.astype(np.float32).sum(axis=1)
    chosen = small[brightness >= np.quantile(brightness, 0.9)]
    return np.asarray(np.median(chosen, axis=0), np.float32).clip(40, 255)


def restain(pixels: UInt8Image, rng: Generator, strength: float) -> UInt8Image:
    """A new stain and background for a field.

    Args:
        pixels: RGB uint8 ``(H, W, 3)``.
        rng: source of chance.
        strength: 0 leaves the field nearly as it is, 1 allows any stain seen in practice.

    Returns:
        RGB uint8 of the same shape.
    """
    old_background = background_colour(pixels)
    table = np.log(np.arange(256, dtype=np.float32) + 1.0)
    density = np.log(old_background + 1.0) - table[pixels]
    thin = _colour_mix(rng, strength, spread=0.30)
    dense = _colour_mix(rng, strength, spread=0.18)
    if rng.random() < 0.35 * strength:
        # Blue-grey red cells: pull the colour of thin stain towards neutral.
        grey = rng.uniform(0.3, 0.95)
        thin = thin @ ((1 - grey) * np.eye(3, dtype=np.float32) + grey / 3).astype(np.float32)
        tint = np.array([1.0 + 0.25 * rng.random(), 1.0, 1.0 - 0.2 * rng.random()], np.float32)
        thin = (thin * tint).astype(np.float32)
    total = density.sum(axis=2, keepdims=True)
    middle, width = rng.uniform(0.9, 1.5), 0.18
    dense_share = 1.0 / (1.0 + cv2.exp(-(total - middle) / width).reshape(total.shape))
    flat = density.reshape(-1, 3)
    share = dense_share.reshape(-1, 1)
    mixed = (flat @ thin) * (1 - share) + (flat @ dense) * share
    new_background = _new_background(old_background, rng, strength)
    image = cv2.exp(-mixed.astype(np.float32)).reshape(density.shape) * new_background
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def _colour_mix(rng: Generator, strength: float, spread: float) -> Float32Array:
    """A 3x3 map of optical density: identity, plus cross-talk, times channel gains."""
    cross = rng.normal(0, spread * 0.4 * strength, (3, 3))
    gains = np.exp(rng.normal(0, spread * strength, 3)) * np.exp(rng.normal(0, 0.25 * strength))
    return ((np.eye(3) + cross) * gains).astype(np.float32)


def _new_background(old: Float32Array, rng: Generator, strength: float) -> Float32Array:
    choices = np.array(
        [
            (252, 250, 248),  # bright white
            (240, 225, 200),  # beige
            (235, 215, 120),  # yellow filter
            (225, 210, 235),  # lilac
            (205, 222, 214),  # grey-green
            (230, 200, 205),  # pink
            (190, 195, 205),  # blue-grey
            (170, 165, 160),  # dim lamp
        ],
        np.float32,
    )
    target = choices[rng.integers(len(choices))] + rng.normal(0, 10, 3).astype(np.float32)
    share = strength * rng.random()
    return np.asarray(np.clip((1 - share) * old + share * target, 60, 255), np.float32)


def light_and_lens(pixels: UInt8Image, rng: Generator, strength: float) -> UInt8Image:
    """Illumination gradient, vignetting, hue and gain, defocus or motion, noise, JPEG.

    Each happens with its own probability, growing with ``strength`` in [0, 1].
    """
    image = pixels.astype(np.float32)
    height, width = image.shape[:2]
    if rng.random() < 0.5 * strength:
        image *= _illumination(height, width, rng)[:, :, None]
    if rng.random() < 0.7 * strength:
        gain = np.exp(rng.normal(0, 0.12, 3)) * np.exp(rng.normal(0, 0.12))
        image = 255.0 * np.clip(image * gain.astype(np.float32) / 255.0, 0, 1) ** np.float32(
            np.exp(rng.normal(0, 0.2))
        )
    result = np.asarray(np.clip(image, 0, 255), np.uint8)
    if rng.random() < 0.4 * strength:
        result = _rotate_hue(result, rng)
    if rng.random() < 0.5 * strength:
        result = _soften(result, rng)
    if rng.random() < 0.15 * strength:
        blurred = cv2.GaussianBlur(result, (0, 0), 1.2)
        result = np.asarray(cv2.addWeighted(result, 1.8, blurred, -0.8, 0), np.uint8)
    if rng.random() < 0.4 * strength:
        noise = rng.normal(0, rng.uniform(2, 10), (height, width, 3)).astype(np.float32)
        result = np.asarray(np.clip(result + noise, 0, 255), np.uint8)
    return result


def eyepiece_stop(pixels: UInt8Image, rng: Generator) -> tuple[UInt8Image, Float32Array]:
    """The eyepiece's round stop: black outside a disc, as phones on microscopes see it.

    Returns:
        The darkened picture and the lit share of every pixel, float32 ``(H, W)``.
    """
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    centre = rng.normal(0.5, 0.1, 2)
    distance = np.sqrt((columns / width - centre[0]) ** 2 + (rows / height - centre[1]) ** 2)
    lit = np.clip((rng.uniform(0.45, 0.7) - distance) / 0.03, 0.02, 1).astype(np.float32)
    return (pixels * lit[:, :, None]).astype(np.uint8), lit


def _illumination(height: int, width: int, rng: Generator) -> Float32Array:
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = columns / width - 0.5, rows / height - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    field = 1 + rng.uniform(0, 0.45) * (x * np.cos(angle) + y * np.sin(angle))
    centre = rng.normal(0, 0.15, 2)
    radius2 = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    field = field * (1 - rng.uniform(0, 0.9) * radius2)
    return np.asarray(np.clip(field, 0, 1.6), np.float32)


def _rotate_hue(pixels: UInt8Image, rng: Generator) -> UInt8Image:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    # 180 hue steps a turn: up to 24 degrees either way keeps nuclei blue to magenta.
    hsv[:, :, 0] = (hsv[:, :, 0].astype(np.int16) + int(rng.normal(0, 6))) % 180
    saturation = hsv[:, :, 1].astype(np.float32) * rng.uniform(0.5, 1.5)
    hsv[:, :, 1] = np.clip(saturation, 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def _soften(pixels: UInt8Image, rng: Generator) -> UInt8Image:
    choice = rng.random()
    if choice < 0.6:
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 2.0)), np.uint8)
    if choice < 0.8:
        length = int(rng.integers(3, 8))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1 / length
        turn = cv2.getRotationMatrix2D((length / 2 - 0.5, length / 2 - 0.5), rng.uniform(0, 180), 1)
        kernel = np.asarray(cv2.warpAffine(kernel, turn, (length, length)), np.float32)
        kernel /= max(float(kernel.sum()), 1e-6)
        return np.asarray(cv2.filter2D(pixels, -1, kernel), np.uint8)
    height, width = pixels.shape[:2]
    factor = rng.uniform(0.4, 0.9)
    small = cv2.resize(
        pixels,
        (max(8, int(width * factor)), max(8, int(height * factor))),
        interpolation=cv2.INTER_AREA,
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
