"""Views: one window and one colour for a whole clip, sizes, probabilities, and what each distortion does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from interlace.tasks.frames import resize
from interlace.tasks.ssl import SslOptions
from interlace.tasks.ssl.views import LUMA, colour_matrix, distort, gaussian_blur, make_views

PLAIN = {"flip": 0.0, "colour_jitter": 0.0, "greyscale": 0.0, "blur": (0.0, 0.0, 0.0), "solarise": 0.0}


def options(**changes: object) -> SslOptions:
    return SslOptions(**{"frames": 4, "global_size": 32, "local_size": 16, "local_crops": 3, **changes})


def picture(frames: int, height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """Smooth colours that differ in every place, and a little from frame to frame."""
    y, x, t = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), np.arange(frames), indexing="ij")
    wave = np.stack([np.sin(5 * x + 3 * y + seed), np.cos(4 * y - 2 * x), np.sin(7 * x * y)], -1) + 0.05 * t[..., None]
    return np.clip(127 + 90 * wave, 0, 255).astype(np.uint8).transpose(2, 0, 1, 3)


@pytest.mark.parametrize(("length", "expected"), [(1, 1), (2, 4), (4, 4), (9, 4)])
def test_shapes(length: int, expected: int) -> None:
    views = make_views(picture(length), options(), np.random.default_rng(0))
    assert views.global_crops.shape == (2, expected, 3, 32, 32)
    assert views.local_crops.shape == (3, expected, 3, 16, 16)
    assert views.global_crops.dtype == views.local_crops.dtype == np.uint8


def test_a_clip_of_equal_frames_stays_one_with_every_distortion_on() -> None:
    still = np.repeat(picture(1), 4, axis=0)
    always = options(flip=0.5, colour_jitter=1.0, greyscale=0.3, blur=(1.0, 1.0, 1.0), solarise=1.0)
    for seed in range(10):
        views = make_views(still, always, np.random.default_rng(seed))
        for crops in (views.global_crops, views.local_crops):
            assert (crops == crops[:, :1]).all()


def test_crops_of_a_sample_differ_and_the_generator_decides_them() -> None:
    first, again, other = (make_views(picture(4), options(), np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first.global_crops, again.global_crops)
    assert np.array_equal(first.local_crops, again.local_crops)
    assert not np.array_equal(first.global_crops, other.global_crops)
    assert not np.array_equal(first.global_crops[0], first.global_crops[1])
    assert not np.array_equal(first.local_crops[0], first.local_crops[1])


def test_local_crops_show_less_than_global_ones() -> None:
    # red counts columns: the range of red in a crop is the share of the width that it shows
    frame = np.zeros((1, 100, 200, 3), np.uint8)
    frame[..., 0] = np.arange(200)
    shown = {"global_crops": [], "local_crops": []}
    for seed in range(40):
        views = make_views(frame, options(**PLAIN), np.random.default_rng(seed))
        for name, shares in shown.items():
            shares += [np.ptp(crop[0, 0].astype(float)) / 200 for crop in getattr(views, name)]
    assert np.mean(shown["local_crops"]) < 0.5 < np.mean(shown["global_crops"])


def test_without_distortions_a_full_crop_is_the_resized_frame() -> None:
    whole = options(**PLAIN, global_scale=(1.0, 1.0))
    square = picture(4, 48, 48)
    views = make_views(square, whole, np.random.default_rng(5))
    crop, expected = views.global_crops[0].astype(int), resize(square, (32, 32)).astype(int)
    # an aspect other than 1 cuts one side, so the crop is the frame up to a small shift
    assert np.abs(crop - expected).mean() < 25


def test_flip_mirrors_every_frame() -> None:
    never, always = options(**PLAIN), options(**{**PLAIN, "flip": 1.0})
    plain, mirrored = (make_views(picture(4), o, np.random.default_rng(3)).global_crops for o in (never, always))
    assert np.abs(plain[0][..., ::-1].astype(int) - mirrored[0].astype(int)).max() <= 1


def test_solarise_touches_the_second_global_crop_only() -> None:
    plain, solarised = (
        make_views(picture(1), options(**{**PLAIN, "solarise": p}), np.random.default_rng(0)) for p in (0.0, 1.0)
    )
    assert np.array_equal(plain.global_crops[0], solarised.global_crops[0])
    assert np.array_equal(plain.local_crops, solarised.local_crops)
    before, after = plain.global_crops[1], solarised.global_crops[1]
    assert np.array_equal(after, np.where(before >= 128, 255 - before, before))
    assert (before >= 128).any()


@pytest.mark.parametrize("name", ["flip", "colour_jitter", "greyscale"])
def test_probabilities_are_kept(name: str) -> None:
    half = options(**{**PLAIN, name: 0.5})
    pixels = picture(1, 24, 24).transpose(0, 3, 1, 2)
    if name == "flip":
        whole = options(**{**PLAIN, "flip": 0.5, "global_scale": (1.0, 1.0)})
        marked = np.zeros((1, 32, 32, 3), np.uint8)
        marked[:, :, :16] = 255
        changed = [
            make_views(marked, whole, np.random.default_rng(seed)).global_crops[0, 0, 0, :, 0].mean() < 128
            for seed in range(300)
        ]
    else:
        changed = [
            not np.array_equal(distort(pixels, half, np.random.default_rng(seed), blur=0, solarise=0), pixels)
            for seed in range(300)
        ]
    assert 0.4 < np.mean(changed) < 0.6


def test_greyscale_has_equal_channels_of_the_right_brightness() -> None:
    pixels = picture(2, 24, 24).transpose(0, 3, 1, 2)
    grey = distort(pixels, options(**{**PLAIN, "greyscale": 1.0}), np.random.default_rng(0), blur=0, solarise=0)
    assert (grey == grey[:, :1]).all()
    assert np.abs(grey[:, 0] - np.tensordot(LUMA, pixels.astype(np.float32), (0, 1))).max() <= 0.51


def test_colour_matrix_keeps_grey_grey() -> None:
    for seed in range(50):
        matrix, contrast = colour_matrix(np.random.default_rng(seed))
        mapped = matrix @ np.ones(3)
        assert np.ptp(mapped) < 1e-6
        assert 0.6 - 1e-6 <= mapped[0] <= 1.4 + 1e-6  # brightness alone
        assert 0.6 <= contrast <= 1.4


def test_contrast_moves_colours_around_the_mean_brightness_of_the_clip() -> None:
    pixels = picture(3, 24, 24).transpose(0, 3, 1, 2)
    jitter = options(**{**PLAIN, "colour_jitter": 1.0})
    matrix, contrast = None, None
    rng = np.random.default_rng(8)
    rng.random()
    matrix, contrast = colour_matrix(rng)
    x = np.einsum("ij,tjhw->tihw", matrix, pixels.astype(np.float32))
    centre = np.einsum("i,tihw->thw", LUMA, x).mean()
    expected = np.clip(centre + contrast * (x - centre), 0, 255)
    found = distort(pixels, jitter, np.random.default_rng(8), blur=0, solarise=0)
    assert np.abs(found - expected).max() <= 0.51


def test_blur_equals_a_gaussian_and_keeps_the_mean_of_a_flat_picture() -> None:
    impulse = np.zeros((1, 3, 21, 21), np.float32)
    impulse[:, :, 10, 10] = 1
    blurred = gaussian_blur(impulse, 1.5)
    offsets = np.arange(-3, 4)
    taps = np.exp(-0.5 * (offsets / 1.5) ** 2)
    taps /= taps.sum()
    np.testing.assert_allclose(blurred[0, 1, 7:14, 7:14], np.outer(taps, taps), atol=1e-6)
    np.testing.assert_allclose(gaussian_blur(np.full((2, 3, 9, 7), 80, np.float32), 2.0), 80, rtol=1e-5)


def test_blur_does_not_depend_on_threads() -> None:
    x = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = gaussian_blur(x, 1.0)
        torch.set_num_threads(2)
        assert np.array_equal(alone, gaussian_blur(x, 1.0))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("blurred", [0, 1, 2], ids=["first global crop", "second", "local crops"])
def test_each_crop_has_its_own_probability_of_blur(blurred: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    sharp = options(**{**PLAIN, "blur_sigma": (2.0, 2.0), "local_scale": (0.5, 0.5)})
    probabilities = tuple(float(place == blurred) for place in range(3))
    soft = sharp.model_copy(update={"blur": probabilities})
    crops = []
    for o in (sharp, soft):
        views = make_views(noise, o, np.random.default_rng(2))
        crops.append([*views.global_crops, views.local_crops])
    for place, (plain, other) in enumerate(zip(*crops, strict=True)):
        # windows are drawn after each other, so later ones move; a blur makes noise vary less
        assert (other.std() < 0.7 * plain.std()) == (place == blurred)


class Drawn:
    """A generator whose numbers are given."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def uniform(self, low: float, high: float) -> float:
        assert low <= self.numbers[0] <= high
        return self.numbers.pop(0)


def test_brightness_and_saturation_are_pillows() -> None:
    colours = np.random.default_rng(1).integers(40, 150, (8, 8, 3), dtype=np.uint8)  # nothing is cut off at 255
    for brightness, saturation in ((1.3, 1.0), (0.7, 1.0), (1.0, 0.8), (1.0, 1.2), (1.2, 0.9)):
        matrix, contrast = colour_matrix(Drawn(brightness, 1.1, saturation, 0.0))  # type: ignore[arg-type]
        saturated = ImageEnhance.Color(Image.fromarray(colours)).enhance(saturation)
        expected = np.asarray(ImageEnhance.Brightness(saturated).enhance(brightness)).astype(float)
        assert np.abs(colours @ matrix.T - expected).max() <= 2.5  # it rounds twice, and cuts off decimals
        assert contrast == 1.1


def test_hue_turns_colours_around_grey() -> None:
    matrix, _ = colour_matrix(Drawn(1.0, 1.0, 1.0, 0.1))  # type: ignore[arg-type]
    turned = np.linalg.matrix_power(matrix.astype(np.float64), 10)
    np.testing.assert_allclose(turned, np.eye(3), atol=1e-5)  # ten are a whole turn
    np.testing.assert_allclose(matrix.sum(0), 1, atol=1e-6)  # R + G + B stays
    red = matrix @ np.array([1.0, 0, 0])
    assert red[1] > red[2]  # towards yellow, as a positive shift of hue does
    assert np.linalg.norm(red - [1, 0, 0]) > 0.3
