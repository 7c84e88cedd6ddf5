"""Windows over defects: all of the defect in each, inside the image; the vote by hand."""

import numpy as np
import pytest

from jaxdefect.data.sources import ArrayImage
from jaxdefect.inference.windows import cut_windows, defect_windows, vote
from jaxdefect.types import Window


def test_windows_slide_over_a_small_defect():
    windows = defect_windows(Window(100, 200, 10, 30), height=400, width=400, window_px=64, stride_px=32)
    # The defect is in the window for tops from 46 to 100 and lefts from 166 to 200: two steps fit each way.
    assert windows == [Window(top, left, 64, 64) for top in (57, 89) for left in (167, 199)]


@pytest.mark.parametrize("seed", range(40))
def test_every_window_holds_the_defect_and_lies_inside_an_image_that_is_large_enough(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 500, 2).tolist()
    tall, wide = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
    box = Window(int(rng.integers(0, height - tall + 1)), int(rng.integers(0, width - wide + 1)), tall, wide)
    windows = defect_windows(box, height=height, width=width, window_px=64, stride_px=16)
    side = next(64 * 2**doubling for doubling in range(9) if 64 * 2**doubling >= max(tall, wide))
    assert windows == sorted(set(windows))
    for window in windows:
        assert (window.height, window.width) == (side, side)
        assert window.top <= box.top
        assert window.left <= box.left
        assert window.top + side >= box.top + tall
        assert window.left + side >= box.left + wide
        for start, length in ((window.top, height), (window.left, width)):
            assert (start >= 0 and start + side <= length) if side <= length else start == 0
    # No place is left for one more: the room beyond the first and last window is less than a stride in all.
    stride = 16 * side // 64
    for begin, extent, length, starts in (
        (box.top, tall, height, [w.top for w in windows]),
        (box.left, wide, width, [w.left for w in windows]),
    ):
        if side < length:
            room = min(begin, length - side) - max(begin + extent - side, 0)
            assert room - (max(starts) - min(starts)) < stride
            assert set(np.diff(sorted(set(starts)))) <= {stride}


def test_doubled_windows_are_averaged_by_area_and_mirrored_beyond_the_image():
    image = np.random.default_rng(0).random((100, 200, 3)).astype(np.float32)
    cuts = cut_windows(ArrayImage(image), [Window(10, 20, 64, 64), Window(0, 72, 128, 128)], window_px=64)
    assert cuts.dtype == np.float32
    np.testing.assert_array_equal(cuts[0], image[10:74, 20:84])
    mirrored = np.pad(image, ((0, 28), (0, 0), (0, 0)), mode="reflect")[:, 72:]
    np.testing.assert_allclose(cuts[1], mirrored.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3)), rtol=1e-5)
    gray = cut_windows(ArrayImage(image[..., :1]), [Window(0, 72, 128, 128)], window_px=64)
    np.testing.assert_allclose(gray, cuts[1:, ..., :1], rtol=1e-6)


def test_the_majority_wins_and_a_tie_goes_to_the_more_probable():
    windows = np.array([[0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0.0, 1.0, 0.0]])
    assert vote(windows) == 0  # two votes of 0.4 against one of 1, although class 1 has the larger sum
    assert vote(windows[1:]) == 1  # one vote each
    assert vote(np.array([[0.5, 0.5 - 1e-3, 1e-3], [1e-3, 0.45, 0.549], [0.5, 0.49, 0.01], [0.0, 0.4, 0.6]])) == 2
    with pytest.raises(ValueError, match="no windows"):
        vote(np.zeros((0, 3)))
