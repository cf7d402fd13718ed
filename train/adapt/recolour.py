"""Colours of one picture given to another by mean and spread, after Reinhard et al. (2001).

Owns CIE Lab in torch and the transfer. Does not own when it is used (see ``confmix``).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Linear sRGB to XYZ under D65, rows already divided by the white point, so that white is
# (1, 1, 1): IEC 61966-2-1.
_WHITE = (0.95047, 1.0, 1.08883)
_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
# CIE 1976: where the cube root gives way to a line, and that line.
_EPSILON = 216 / 24389
_KAPPA = 24389 / 27
# A blank picture has no spread to scale.
_LEAST_SPREAD = 1e-3


def _matrix(like: Tensor) -> Tensor:
    matrix = torch.tensor(_XYZ, dtype=like.dtype, device=like.device)
    return matrix / torch.tensor(_WHITE, dtype=like.dtype, device=like.device)[:, None]


def rgb_to_lab(images: Tensor) -> Tensor:
    """CIE Lab, L in 0..100, of sRGB pictures in 0..1; float ``(B, 3, H, W)``."""
    low = images / 12.92
    linear = torch.where(images <= 0.04045, low, ((images.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,bjhw->bihw", _matrix(images), linear)
    root = torch.where(
        xyz > _EPSILON, xyz.clamp(min=_EPSILON) ** (1 / 3), (_KAPPA * xyz + 16) / 116
    )
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The way back, colours that no screen shows clipped to 0..1."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    root = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(root**3 > _EPSILON, root**3, (116 * root - 16) / _KAPPA)
    linear = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(_matrix(lab)), xyz).clamp(0, 1)
    curve = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, curve)


@torch.no_grad()
def reinhard(images: Tensor, like: Tensor) -> Tensor:
    """Pictures with the mean and spread of others in Lab, picture by picture.

    Args:
        images: float ``(B, 3, H, W)``, sRGB in 0..1.
        like: the same shape; the colours wanted.
    """
    lab, wanted = rgb_to_lab(images.float()), rgb_to_lab(like.float())
    over = (2, 3)
    spread = lab.std(over, keepdim=True).clamp(min=_LEAST_SPREAD)
    scaled = (lab - lab.mean(over, keepdim=True)) / spread * wanted.std(over, keepdim=True)
    return lab_to_rgb(scaled + wanted.mean(over, keepdim=True)).to(images.dtype)
