"""The convolution of a doubled map against doubling and convolving, values and gradients."""

import jax
import numpy as np
import pytest

from jaxdefect.models import doubled


@pytest.mark.parametrize("many_channels", [4, 5])
def test_as_doubling_and_convolving(many_channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient by nine and by sixteen products."""
    monkeypatch.setattr(doubled, "_MANY_CHANNELS", many_channels)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 4, 6)).astype(np.float32)
    cotangent = rng.standard_normal((2, 6, 10, 6)).astype(np.float32)

    padded = np.pad(image.astype(np.float64).repeat(2, axis=1).repeat(2, axis=2), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(
        padded[:, i : i + 6, j : j + 10] @ kernel[i, j].astype(np.float64) for i in range(3) for j in range(3)
    )
    to_image, to_kernel = np.zeros_like(padded), np.zeros(kernel.shape)
    for i in range(3):
        for j in range(3):
            to_image[:, i : i + 6, j : j + 10] += cotangent @ kernel[i, j].T
            to_kernel[i, j] = np.einsum("bhwi,bhwo->io", padded[:, i : i + 6, j : j + 10], cotangent)
    to_image = to_image[:, 1:-1, 1:-1].reshape(2, 3, 2, 5, 2, 4).sum(axis=(2, 4))

    value, pull_back = jax.vjp(doubled.convolve_doubled, image, kernel)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-4)
    for found, wanted in zip(pull_back(cotangent), (to_image, to_kernel), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-3)
