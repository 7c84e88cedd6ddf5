"""A trained run as a function from an image to a score, a decision and a defect map."""

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxdefect import models, overlay
from jaxdefect.config import Config
from jaxdefect.data.images import resize_image
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference.calibration import Calibration
from jaxdefect.training import checkpoint as checkpoints
from jaxdefect.training import runs
from jaxdefect.types import InputError, Prediction

# (variables, images [B, H, W, C]) -> decision logits [B] float32, probability maps [B, h, w] float32
Forward = Callable[[Any, np.ndarray], tuple[jax.Array, jax.Array]]

_DEFAULT_THRESHOLD = 0.5
_LOGGER = logging.getLogger(__name__)


def compile_forward(apply: Callable[..., Any]) -> Forward:
    """Compiles `apply(variables, image, train=False)` of a module into a `Forward`, one program per batch shape."""

    @jax.jit
    def forward(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = apply(variables, images, train=False)
        probability = jax.nn.sigmoid(outputs["segmentation"][..., 0].astype(jnp.float32))
        return outputs["decision"].astype(jnp.float32), probability

    return forward


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A model with its weights and thresholds, ready for images of any size.

    Attributes:
      config: of the run.
      variables: the module's variables.
      checkpoint_step: the training step that the variables come from.
      workdir: the run's folder.
      calibration: the thresholds chosen on validation data; None: 0.5 for both.
      forward: the compiled model.
    """

    config: Config
    variables: Any
    checkpoint_step: int
    workdir: Path
    calibration: Calibration | None
    forward: Forward

    @classmethod
    def load(
        cls, workdir: str | os.PathLike, *, checkpoint: str | None = None, is_calibrating: bool = False
    ) -> "Predictor":
        """Loads a run.

        Args:
          workdir: the folder that training wrote.
          checkpoint: "best", "last" or a step; None: what `config.training.select` says.
          is_calibrating: the caller will choose the thresholds, so do not warn of missing ones.

        Raises:
          InputError: no run there, no such checkpoint, or one of another architecture.
        """
        run = runs.load(Path(workdir))
        variables, step = checkpoints.restore_variables(run.workdir, config=run.config, which=checkpoint)
        calibration = calibrations.load(run.workdir)
        if not is_calibrating:
            _warn_of_thresholds(calibration, checkpoint_step=step, workdir=run.workdir)
        module = models.build(run.config.model)
        return cls(
            config=run.config,
            variables=jax.device_put(variables),
            checkpoint_step=step,
            workdir=run.workdir,
            calibration=calibration,
            forward=compile_forward(module.apply),
        )

    @property
    def threshold(self) -> float:
        """An image is defective from this score on."""
        return _DEFAULT_THRESHOLD if self.calibration is None else self.calibration.threshold

    @property
    def pixel_threshold(self) -> float:
        """A pixel is defective from this probability on."""
        return _DEFAULT_THRESHOLD if self.calibration is None else self.calibration.pixel_threshold

    def is_defective(self, score: float) -> bool:
        """The decision for a score, as `jaxdefect.inference.thresholds` means it: score >= threshold."""
        return bool(score >= self.threshold)

    def __call__(self, image: np.ndarray) -> Prediction:
        """Judges one image of any size.

        Args:
          image: [H, W], [H, W, 1] gray or [H, W, 3] RGB; uint8, uint16, or float in [0, 1].

        Raises:
          InputError: another shape, dtype or range.
        """
        normalised = normalise(image, num_channels=self.config.data.num_channels)
        height, width = normalised.shape[:2]
        scores, probability = self.predict_batch(self.prepare(normalised)[None])
        return Prediction(
            score=float(scores[0]),
            is_defective=self.is_defective(scores[0]),
            probability=self.to_image_size(probability[0], height, width),
        )

    def predict_batch(self, images: np.ndarray, *, pad_to: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores and maps of images at the network's input size.

        The batch is padded before it reaches the compiled model and cut back after, so that the number of compiled
        programs stays small: to `pad_to` images, or else to the next power of two.

        Args:
          images: [B, H, W, C] float32 in [0, 1], H x W and C as in `config.data`.
          pad_to: the size to pad to, at least B.

        Returns:
          Scores [B] float64 in [0, 1], the sigmoid taken in double precision so that strong scores are not tied;
          probability maps [B, h, w] float32 at the network's output resolution.

        Raises:
          InputError: another shape, or a model that returns NaN or infinity.
        """
        return self.collect(self.dispatch(images, pad_to=pad_to), num_images=len(images))

    def dispatch(self, images: np.ndarray, *, pad_to: int | None = None) -> tuple[jax.Array, jax.Array]:
        """Starts `predict_batch` without waiting for it; `collect` takes what this returns."""
        wanted = (*self.config.data.image_size, self.config.data.num_channels)
        if images.ndim != 4 or images.shape[1:] != wanted or len(images) == 0:
            raise InputError(
                f"a batch of shape {images.shape}: must be [B, {', '.join(map(str, wanted))}] with B of at least 1; "
                "call the predictor with single images of any size"
            )
        size = 1 << (len(images) - 1).bit_length() if pad_to is None else pad_to
        if size < len(images):
            raise InputError(f"pad_to = {pad_to}: must be at least the {len(images)} images of the batch")
        if size > len(images):
            images = np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
        return self.forward(self.variables, images)

    def collect(self, running: tuple[jax.Array, jax.Array], *, num_images: int) -> tuple[np.ndarray, np.ndarray]:
        """Waits for what `dispatch` started and returns the first `num_images` results, as `predict_batch` does."""
        decision, probability = jax.device_get(running)
        decision, probability = decision[:num_images].astype(np.float64), probability[:num_images]
        if not (np.isfinite(decision).all() and np.isfinite(probability).all()):
            raise InputError(
                f"{self.workdir}: the checkpoint of step {self.checkpoint_step} gives NaN or infinity; choose another"
            )
        return special.expit(decision), probability

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """[H, W, C] float32 in [0, 1] of any size as network input, [h, w, C]."""
        height, width = self.config.data.image_size
        return resize_image(image, height, width)

    def to_image_size(self, probability: np.ndarray, height: int, width: int) -> np.ndarray:
        """A map [h, w] of `predict_batch` at the image's own size, [height, width] float32."""
        stride = self.config.data.image_size[0] // probability.shape[0]
        return overlay.map_to_image_size(probability, height, width, stride=stride)


def _warn_of_thresholds(calibration: Calibration | None, *, checkpoint_step: int, workdir: Path) -> None:
    if calibration is None:
        _LOGGER.warning(
            "%s holds no calibration: the threshold is %s, chosen by nobody. "
            "`python -m launch.evaluate --workdir=%s` chooses one on the validation images.",
            workdir,
            _DEFAULT_THRESHOLD,
            workdir,
        )
    elif calibration.checkpoint_step != checkpoint_step:
        _LOGGER.warning(
            "The threshold of %s was chosen for the checkpoint of step %d, and this is step %d.",
            workdir,
            calibration.checkpoint_step,
            checkpoint_step,
        )


def normalise(image: np.ndarray, *, num_channels: int) -> np.ndarray:
    """An image array as float32 in [0, 1] with the channels that the network takes.

    Args:
      image: [H, W], [H, W, 1] gray or [H, W, 3] RGB; uint8, uint16, or float in [0, 1].
      num_channels: 1 (colour becomes ITU-R BT.601 luma) or 3 (gray is repeated).

    Returns:
      [H, W, num_channels] float32.

    Raises:
      InputError: another shape, dtype or range.
    """
    shape = image.shape
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.size == 0:
        raise InputError(f"an image of shape {shape}: must be [H, W], [H, W, 1] or [H, W, 3]")
    if image.dtype in (np.uint8, np.uint16):
        scaled = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    elif np.issubdtype(image.dtype, np.floating):
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):
            raise InputError(
                f"a float image with values from {low:g} to {high:g}: must be within [0, 1]; scale it first"
            )
        scaled = image.astype(np.float32)
    else:
        raise InputError(f"an image of type {image.dtype}: must be uint8, uint16, or float in [0, 1]")
    if scaled.shape[-1] == num_channels:
        return scaled
    if num_channels == 1:
        return cv2.cvtColor(scaled, cv2.COLOR_RGB2GRAY)[..., None]
    return np.repeat(scaled, num_channels, axis=-1)
