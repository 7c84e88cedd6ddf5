"""A trained run as a function from an image to a score, a decision and a defect map."""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxdefect import models, overlay
from jaxdefect.config import Config
from jaxdefect.data import patches, pipeline
from jaxdefect.data.images import resize_image
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import ensemble, exported, four_stage, logistic
from jaxdefect.inference.calibration import Calibration
from jaxdefect.inference.components import Defect
from jaxdefect.training import checkpoint as checkpoints
from jaxdefect.training import runs
from jaxdefect.types import InputError, Prediction, Verdict, Window

# (variables, images [B, H, W, C]) -> {"decision": logits [B], "probability": maps [B, h, w]}, float32; of an ensemble
# of K detectors the decisions are [B, K].
Forward = Callable[[Any, np.ndarray], Mapping[str, jax.Array]]

_MAX_BATCH = 16  # where the caller does not say
_LOGGER = logging.getLogger(__name__)


def compile_forward(apply: Callable[..., Any]) -> Forward:
    """Compiles `apply(variables, image, train=False)` of a module into a `Forward`, one program per batch shape."""

    @jax.jit
    def forward(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        outputs = apply(variables, images, train=False)
        return {name: outputs[name].astype(jnp.float32) for name in ("decision", "probability")}

    return forward


class Prepared(NamedTuple):
    """An image as the network takes it: `tiles` [N, h, w, C], the whole image resized or its overlapping patches.

    `windows`: where the patches lie; empty for a resized image. `image` [H, W, C] float32: as it came.
    """

    tiles: np.ndarray
    windows: tuple[Window, ...]
    image: np.ndarray


class Running(NamedTuple):
    """Images that the device is computing; `Predictor.collect` waits for them."""

    prepared: Sequence[Prepared]
    outputs: Sequence[Mapping[str, jax.Array]]  # of one chunk of tiles each
    num_tiles: int


class Judgement(NamedTuple):
    """What a predictor says of one image.

    `score` in [0, 1], float64. `probability` [h, w] float32 in [0, 1]; its cells as `overlay.map_to_image_size` takes
    `stride`. `class_scores`: of an ensemble, by class. With a classifier, `defects` are those that it accepted, and
    `detected` the map before it rejected the others. `raw_score`: the score before its calibration made a probability
    of it; None where there is none.
    """

    score: float
    probability: np.ndarray
    stride: int
    class_scores: Mapping[str, float] = {}
    defects: tuple[Defect, ...] = ()
    detected: np.ndarray | None = None
    raw_score: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A model with its weights and thresholds, ready for images of any size.

    Attributes:
      config: of the run.
      variables: the module's variables.
      checkpoint_step: the training step that the variables come from.
      workdir: the run's folder.
      calibration: the thresholds chosen, and what turns a score into a probability; None: the model's default for
        images, 0.5 for pixels.
      forward: the compiled model.
      classes: of an ensemble, the classes of its members; their scores are bent so that each calls from 1/2 on.
      class_thresholds: theirs, [K].
      classifier: judges each detected defect; None: all are believed.
    """

    config: Config
    variables: Any
    checkpoint_step: int
    workdir: Path
    calibration: Calibration | None
    forward: Forward
    classes: tuple[str, ...] = ()
    class_thresholds: tuple[float, ...] = ()
    classifier: four_stage.Classifier | None = None

    @classmethod
    def load(
        cls,
        workdir: str | os.PathLike,
        *,
        checkpoint: str | None = None,
        calibration: str | os.PathLike | None = None,
        is_calibrating: bool = False,
        stages: Literal["all", "detector"] = "all",
    ) -> "Predictor":
        """Loads a run: a network, with its classifier where one was trained, or an ensemble of networks.

        Args:
          workdir: the folder that training wrote, or what launch.export wrote as StableHLO: the folder or the graph in
            it. That needs nothing of the run, neither checkpoint nor data.
          checkpoint: "best", "last" or a step; None: what `config.training.select` says. An export has only one.
          calibration: a file that launch.calibrate wrote; None: the run's own calibration.json.
          is_calibrating: the caller will choose the thresholds, so do not warn of missing ones.
          stages: "detector" leaves the classifier out.

        Raises:
          InputError: no run there, no such checkpoint, or one of another architecture; a classifier by itself; no such
            calibration, or one for an ensemble, whose members have their own; an export as `exported.load` says.
        """
        graph = exported.find(Path(workdir))
        if graph is not None:
            if checkpoint is not None:
                raise InputError(f"--checkpoint={checkpoint}: {graph} is an export and holds only one; leave it out")
            return exported.load(
                cls, graph, calibration=calibration, is_calibrating=is_calibrating, has_classifier=stages == "all"
            )
        run = runs.load(Path(workdir))
        if run.config.data.classes:
            raise InputError(f"{workdir}: a classifier of defects; load the detector that it belongs to")
        if run.config.ensemble.kind != "none":
            if calibration is not None:
                raise InputError(
                    f"--calibration={calibration}: {workdir} is an ensemble, whose members have thresholds of their "
                    f"own (`python -m launch.calibrate --workdir={workdir}` chooses them all)"
                )
            members = {
                name: cls.load(
                    ensemble.member_directory(run.workdir, name), checkpoint=checkpoint, is_calibrating=is_calibrating
                )
                for name in ensemble.member_classes(run.workdir)
            }
            return ensemble.combine(cls, run, members)
        module = models.build(run.config.model)
        variables, step = checkpoints.restore_variables(run.workdir, config=run.config, which=checkpoint)
        chosen = calibrations.load(run.workdir) if calibration is None else calibrations.read(Path(calibration))
        if not is_calibrating:
            _warn_of_thresholds(chosen, checkpoint_step=step, run=run)
        return cls(
            config=run.config,
            variables=jax.device_put(variables),
            checkpoint_step=step,
            workdir=run.workdir,
            calibration=chosen,
            forward=compile_forward(module.apply),
            classifier=four_stage.load_classifier(run)
            if run.config.classifier.is_enabled and stages == "all"
            else None,
        )

    @property
    def threshold(self) -> float:
        """An image is defective from this score on."""
        if self.classes:
            return ensemble.THRESHOLD
        return self.config.model.threshold if self.calibration is None else self.calibration.threshold

    @property
    def pixel_threshold(self) -> float:
        """A pixel is defective from this probability on."""
        if self.classes or self.calibration is None:
            return calibrations.DEFAULT_PIXEL_THRESHOLD
        return self.calibration.pixel_threshold

    def is_defective(self, score: float) -> bool:
        """The decision for a score, as `jaxdefect.inference.thresholds` means it: score >= threshold."""
        return bool(score >= self.threshold)

    def verdict(self, score: float) -> Verdict:
        """What to do with an image of this score; "inspect" only by a three-way calibration."""
        if self.calibration is not None:
            return self.calibration.verdict(score)
        return "reject" if self.is_defective(score) else "accept"

    def __call__(self, image: np.ndarray) -> Prediction:
        """Judges one image of any size.

        Args:
          image: [H, W], [H, W, 1] gray or [H, W, 3] RGB; uint8, uint16, or float in [0, 1].

        Raises:
          InputError: another shape, dtype or range.
        """
        normalised = normalise(image, num_channels=self.config.data.num_channels)
        (judgement,) = self.judge([normalised])
        return Prediction(
            class_scores=judgement.class_scores,
            defects=judgement.defects,
            score=judgement.score,
            is_defective=self.is_defective(judgement.score),
            verdict=self.verdict(judgement.score),
            probability=overlay.map_to_image_size(
                judgement.probability, *normalised.shape[:2], stride=judgement.stride
            ),
        )

    def judge(self, images: Sequence[np.ndarray], *, batch_size: int | None = None) -> list[Judgement]:
        """Judges images [H, W, C] float32 in [0, 1] of any size, C as in `config.data`.

        The network computes `batch_size` images or patches at a time, the last ones padded, so that the number of
        compiled programs stays small; by default a power of two of at most 16.

        Raises:
          InputError: another shape, or a model that returns NaN or infinity.
        """
        return self.collect(self.dispatch([self.prepare(image) for image in images], batch_size=batch_size))

    def prepare(self, image: np.ndarray) -> Prepared:
        """[H, W, C] float32 in [0, 1] of any size as network input."""
        data = self.config.data
        if image.ndim != 3 or image.shape[-1] != data.num_channels:
            raise InputError(f"an image of shape {image.shape}: must be [H, W, {data.num_channels}]")
        if data.fit == "resize":
            return Prepared(resize_image(image, *data.image_size)[None], (), image)
        stride_px = min(data.image_size) // 2
        windows = patches.windows(*image.shape[:2], size=data.image_size, stride_px=stride_px)
        return Prepared(np.stack([patches.cut(image, window) for window in windows]), tuple(windows), image)

    def dispatch(self, prepared: Sequence[Prepared], *, batch_size: int | None = None) -> Running:
        """Starts `judge` without waiting for it; `collect` takes what this returns."""
        tiles = np.concatenate([item.tiles for item in prepared])
        size = batch_size or min(_MAX_BATCH, 1 << (len(tiles) - 1).bit_length())
        outputs = []
        for start in range(0, len(tiles), size):
            outputs.append(self.forward(self.variables, pipeline.pad(tiles[start : start + size], size)))
        return Running(prepared, outputs, len(tiles))

    def collect(self, running: Running) -> list[Judgement]:
        """Waits for what `dispatch` started."""
        chunks = jax.device_get(list(running.outputs))
        rows = {name: np.concatenate([chunk[name] for chunk in chunks])[: running.num_tiles] for name in chunks[0]}
        if not all(np.isfinite(value).all() for value in rows.values()):
            raise InputError(
                f"{self.workdir}: the checkpoint of step {self.checkpoint_step} gives NaN or infinity; choose another"
            )
        judgements, start = [], 0
        for item in running.prepared:
            part = slice(start, start + len(item.tiles))
            judgements.append(self._judgement(item, {name: value[part] for name, value in rows.items()}))
            start = part.stop
        return judgements

    def _judgement(self, item: Prepared, rows: Mapping[str, np.ndarray]) -> Judgement:
        """One image from the outputs of its tiles, [N, ...] each."""
        model = self.config.model
        # The sigmoid in double precision, so that strong scores are not tied.
        scores = special.expit(rows["decision"].astype(np.float64))
        class_scores: dict[str, float] = {}
        if self.classes:
            scores = ensemble.bend(scores, np.array(self.class_thresholds))
            class_scores = dict(zip(self.classes, map(float, scores.max(axis=0)), strict=True))
        judgement = Judgement(float(scores.max()), rows["probability"][0], model.alignment_stride, class_scores)
        if item.windows:
            judgement = self._of_patches(item, rows["probability"], judgement)
        if self.calibration is not None and self.calibration.logistic is not None:
            score = logistic.score(judgement.probability, self.calibration.logistic)
            judgement = judgement._replace(score=score)
        if self.classifier is not None:
            judgement = self._with_classes(item.image, judgement)
        if self.calibration is None or self.calibration.score_map is None:
            return judgement
        return judgement._replace(score=self.calibration.calibrated(judgement.score), raw_score=judgement.score)

    def _of_patches(self, item: Prepared, maps: np.ndarray, judgement: Judgement) -> Judgement:
        """The judgement of a whole image from the maps [N, h, w] of its patches, its map at the image's own size."""
        model, (height, width) = self.config.model, item.image.shape[:2]
        cells = patches.blend(maps, item.windows, height=height, width=width, stride=model.output_stride)
        score = _score_of_map(cells, getattr(model, "score", None), judgement.score)
        # The last cells reach beyond an image whose side is no multiple of theirs.
        covered = (side * model.output_stride for side in cells.shape)
        full = overlay.map_to_image_size(cells, *covered, stride=model.alignment_stride)
        return judgement._replace(score=score, probability=full[:height, :width], stride=1)

    def _with_classes(self, image: np.ndarray, judgement: Judgement) -> Judgement:
        """The judgement after the classifier has rejected what it takes for false alarms."""
        assert self.classifier is not None
        detected = overlay.map_to_image_size(judgement.probability, *image.shape[:2], stride=judgement.stride)
        kept, defects = four_stage.classify_defects(
            image,
            detected,
            classifier=self.classifier,
            threshold=self.pixel_threshold,
            join_distance_px=self.config.inference.join_distance_px,
        )
        score = _score_of_map(kept, getattr(self.config.model, "score", None), float(kept.max()))
        return judgement._replace(score=score, probability=kept, stride=1, defects=tuple(defects), detected=detected)


def _score_of_map(probability: np.ndarray, kind: str | None, otherwise: float) -> float:
    """The mean or maximum of a whole map where that is the model's score, else `otherwise`."""
    reduce = {"mean": np.mean, "max": np.max}.get(kind or "")
    return otherwise if reduce is None else float(reduce(probability.astype(np.float64)))


def _warn_of_thresholds(calibration: Calibration | None, *, checkpoint_step: int, run: runs.Run) -> None:
    workdir = run.workdir
    if calibration is None:
        _LOGGER.warning(
            "%s holds no calibration: the threshold is the model's default, %.6g. "
            "`python -m launch.evaluate --workdir=%s` chooses one on the validation images.",
            workdir,
            run.config.model.threshold,
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
