"""The microscopes and cameras that the virtual film can be seen through.

Owns the optical profiles as numbers. Does not own what they do to a picture (``optics``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class OpticalProfile:
    """One microscope with one camera.

    Attributes:
        name: how users call it.
        pixel_size_um: µm on the film per frame pixel.
        resolution: frame width and height in pixels.
        frame_rate_hz: how many frames the camera gives per second.
        blur_sigma_um: Gaussian width of a point in focus.
        chromatic_aberration_px: how far red and blue lie apart in the frame's corners; the
            same fault also blurs red and blue more than green.
        vignetting: share of light lost in the corners, 0 to 1.
        white_balance: gains of red, green, blue.
        sensor_noise_sigma: grey levels.
        jpeg_quality: 1 to 100, or None for a camera that does not compress.
        illumination_tilt: how much brighter one side is than the other, 0 to 1.
        focus_spread: how much the focus varies from field to field; the blur is multiplied
            by up to about ``1 + 2 * focus_spread``.
    """

    name: str
    pixel_size_um: float
    resolution: tuple[int, int]
    frame_rate_hz: float
    blur_sigma_um: float
    chromatic_aberration_px: float = 0.0
    vignetting: float = 0.0
    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sensor_noise_sigma: float = 0.0
    jpeg_quality: int | None = None
    illumination_tilt: float = 0.0
    focus_spread: float = 0.0

    @property
    def field_um(self) -> tuple[float, float]:
        """Width and height of one field on the film in µm."""
        width, height = self.resolution
        return (width * self.pixel_size_um, height * self.pixel_size_um)


# HCM: a laboratory microscope with a 2-megapixel camera. LCM: a teaching microscope with a
# cheap 5-megapixel camera read out at 720p: softer, tinted, noisier, coloured edges. 100x is
# oil immersion (a 14 µm cell is a tenth of the field's width), 40x dry. The phone looks into
# the eyepiece.
PROFILES: Mapping[str, OpticalProfile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            OpticalProfile(
                "hcm_100x_c2",
                pixel_size_um=0.075,
                resolution=(1920, 1080),
                frame_rate_hz=30.0,
                blur_sigma_um=0.10,
                chromatic_aberration_px=0.6,
                vignetting=0.06,
                white_balance=(1.0, 1.0, 0.99),
                sensor_noise_sigma=1.5,
                focus_spread=0.25,
            ),
            OpticalProfile(
                "hcm_40x_c2",
                pixel_size_um=0.20,
                resolution=(1920, 1080),
                frame_rate_hz=30.0,
                blur_sigma_um=0.20,
                chromatic_aberration_px=0.8,
                vignetting=0.08,
                white_balance=(1.0, 1.0, 0.98),
                sensor_noise_sigma=1.5,
                focus_spread=0.25,
            ),
            OpticalProfile(
                "lcm_100x_c2",
                pixel_size_um=0.095,
                resolution=(1280, 720),
                frame_rate_hz=15.0,
                blur_sigma_um=0.20,
                chromatic_aberration_px=3.0,
                vignetting=0.25,
                white_balance=(1.0, 0.95, 0.86),
                sensor_noise_sigma=3.5,
                illumination_tilt=0.08,
                focus_spread=0.5,
            ),
            OpticalProfile(
                "lcm_40x_c2",
                pixel_size_um=0.24,
                resolution=(1280, 720),
                frame_rate_hz=15.0,
                blur_sigma_um=0.36,
                chromatic_aberration_px=3.5,
                vignetting=0.28,
                white_balance=(0.98, 0.97, 0.86),
                sensor_noise_sigma=3.5,
                illumination_tilt=0.10,
                focus_spread=0.5,
            ),
            OpticalProfile(
                "phone",
                pixel_size_um=0.085,
                resolution=(1280, 960),
                frame_rate_hz=30.0,
                blur_sigma_um=0.17,
                chromatic_aberration_px=2.0,
                vignetting=0.45,
                white_balance=(1.0, 0.97, 0.92),
                sensor_noise_sigma=2.5,
                jpeg_quality=88,
                illumination_tilt=0.12,
                focus_spread=0.4,
            ),
        )
    }
)
