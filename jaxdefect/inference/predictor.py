"""A trained run as a function from an image to a score, a decision and a defect map."""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxdefect import models
from jaxdefect.config import Config
from jaxdefect.data import pipeline
from jaxdefect.data.images import as_stored
from jaxdefect.data.sources import ArrayImage, ImageSource
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import devices, ensemble, exported, four_stage, logistic, streaming, tiles
from jaxdefect.inference.calibration import Calibration
from jaxdefect.inference.components import defects_of, runs_of, runs_without
from jaxdefect.inference.judgement import Judgement, Result
from jaxdefect.inference.tiles import Assembly, Prepared, Tiling, check_tiling, make_tiling
from jaxdefect.models import hoisting
from jaxdefect.training import checkpoint as checkpoints
from jaxdefect.training import runs
from jaxdefect.types import InputError, Prediction, Verdict

# (variables, images [B, H, W, C]) -> {"decision": logits [B], "probability": maps [B, h, w]}, float32; of an ensemble
# of K detectors the decisions are [B, K], and "class_probability" [B, K, h, w] has the map of each.
Forward = Callable[[Any, Any], Mapping[str, jax.Array]]

_MAX_BATCH = 16  # where the caller does not say
_LOGGER = logging.getLogger(__name__)


@functools.lru_cache(maxsize=8)
def compile_forward(apply: Callable[..., Any]) -> Forward:
    """Compiles `apply(variables, image, train=False)` of a module into a `Forward`, one program per batch shape.

    The same `apply` gives the same programs, so that runs of one architecture share them.
    """

    @jax.jit
    def forward(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        outputs = models.apply_inference(apply, variables, images)
        return {name: outputs[name].astype(jnp.float32) for name in ("decision", "probability")}

    return forward


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
      tiling: how images are cut into tiles (`in_tiles`); None: as `config.data.fit` says.
      programs: what `_program` has made so far, shared by copies of this predictor.
      weights_sha256: the hash of the variables (`checkpoint.weights_sha256`), of an ensemble that of its members'
        variables and thresholds; None of an old export.
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
    tiling: Tiling | None = None
    weights_sha256: str | None = None
    programs: dict[tuple[int, int], tuple[Any, ...]] = dataclasses.field(default_factory=dict, repr=False)

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
          calibration: a file that launch.calibrate wrote, for an ensemble with --joint; None: the run's own
            calibration.json.
          is_calibrating: the caller will choose the thresholds, so do not warn of missing ones.
          stages: "detector" leaves the classifier out.

        Raises:
          InputError: no run there, no such checkpoint, or one of another architecture; a classifier by itself; no such
            calibration, one in tiles that do not suit the network, or for an ensemble, one as `ensemble.check_joint`
            says; an export as `exported.load` says.
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
            members = {
                name: cls.load(
                    ensemble.member_directory(run.workdir, name), checkpoint=checkpoint, is_calibrating=is_calibrating
                )
                for name in ensemble.member_classes(run.workdir)
            }
            joined = ensemble.combine(cls, run, members)
            where = calibrations.calibration_path(run.workdir) if calibration is None else Path(calibration)
            if calibration is None and (is_calibrating or not where.exists()):
                return joined
            return ensemble.with_joint(joined, calibrations.read(where), where=where)
        module = models.build(run.config.model)
        variables, step = checkpoints.restore_variables(run.workdir, config=run.config, which=checkpoint)
        sha256 = checkpoints.weights_sha256(variables)
        chosen = calibrations.load(run.workdir) if calibration is None else calibrations.read(Path(calibration))
        where = calibrations.calibration_path(run.workdir) if calibration is None else Path(calibration)
        if not is_calibrating:
            calibrations.warn_of_others(
                chosen, run.workdir, default=run.config.model.threshold, checkpoint_step=step, weights_sha256=sha256
            )
        variables = models.inference_variables(
            run.config.model,
            variables,
            image_size=run.config.data.image_size,
            large_kernel=run.config.inference.large_kernel,
        )
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
            tiling=None if chosen is None else check_tiling(chosen.tiling, run.config, where=where),
            weights_sha256=sha256,
        )

    @property
    def threshold(self) -> float:
        """An image is defective from this score on."""
        if self.calibration is not None:
            return self.calibration.threshold
        return ensemble.THRESHOLD if self.classes else self.config.model.threshold

    @property
    def pixel_threshold(self) -> float:
        """A pixel is defective from this probability on."""
        return calibrations.DEFAULT_PIXEL_THRESHOLD if self.calibration is None else self.calibration.pixel_threshold

    def is_defective(self, score: float) -> bool:
        """The decision for a score, as `jaxdefect.inference.thresholds` means it: score >= threshold."""
        return bool(score >= self.threshold)

    def verdict(self, score: float) -> Verdict:
        """What to do with an image of this score; "inspect" only by a three-way calibration."""
        if self.calibration is not None:
            return self.calibration.verdict(score)
        return "reject" if self.is_defective(score) else "accept"

    def in_tiles(self, size: tuple[int, int] | None = None, *, overlap: float | None = None) -> "Predictor":
        """The same predictor, which cuts every image into overlapping tiles instead of resizing it.

        Whatever the network normalises by the statistics of its input (norm "feature" of a SegDecNet, not batch norm)
        it normalises in each tile by that tile alone: they are those of an image of the size it was trained with. The
        score is the largest of the tiles', or where the model's score is the mean or maximum of its map, that of the
        whole map. A threshold chosen on images of one tile is met more often by an image of many: a calibration is for
        the tiles it was chosen with (`launch.calibrate --tile=…`), and a loaded predictor cuts images as it says.

        Args:
          size: of a tile (height, width) in pixels of the image, resized to the network's input; give the size of the
            training images where these were resized. None: the network's input size.
          overlap: the share of a tile's side that neighbours have in common; None: `config.inference.tile_overlap`.

        Raises:
          InputError: as `tiles.make_tiling`.
        """
        tiling = make_tiling(self.config, size=size, overlap=overlap)
        if self.calibration is not None and self.calibration.tiling != tiling:
            _LOGGER.warning(
                "The threshold was chosen on images judged without these tiles (%s): what it promises holds for such "
                "images only. launch.calibrate with the same --tile chooses one for them.",
                self.calibration.policy,
            )
        return dataclasses.replace(self, tiling=tiling)

    def on_all_devices(self) -> "Predictor":
        """The same predictor with its weights on every local device: batches are divided among them."""
        return dataclasses.replace(self, variables=devices.spread(self.variables))

    def __call__(self, image: np.ndarray) -> Prediction:
        """Judges one image of any size.

        Args:
          image: [H, W], [H, W, 1] gray or [H, W, 3] RGB; uint8, uint16, or float in [0, 1].

        Raises:
          InputError: another shape, dtype or range.
        """
        stored = as_stored(image, num_channels=self.config.data.num_channels)
        (result,) = self.stream([self.prepare(stored)], batch_size=None)
        if isinstance(result, InputError):
            raise result
        result = self.with_defects(result)
        return Prediction(
            class_scores=result.class_scores,
            defects=result.defects,
            score=result.score,
            is_defective=self.is_defective(result.score),
            verdict=self.verdict(result.score),
            probability=result.map.whole(),
        )

    def judge(self, images: Sequence[np.ndarray], *, batch_size: int | None = None) -> list[Judgement]:
        """Judges images of any size as `prepare` takes them.

        The network computes `batch_size` images or tiles at a time, the last ones padded, so that the number of
        compiled programs stays small; by default a power of two of at most 16.

        Raises:
          InputError: another shape, or a model that returns NaN or infinity.
        """
        results = self.stream([self.prepare(image) for image in images], batch_size=batch_size)
        return [self._judgement(result) for result in results]

    def judge_each(self, images: Iterable[np.ndarray], *, batch_size: int) -> Iterator[Judgement]:
        """As `judge`, one image after the other: while the device computes a batch, the next is taken, and what came
        of the last can be used.
        """
        yield from map(self._judgement, self.stream(map(self.prepare, images), batch_size=batch_size))

    def prepare(self, image: np.ndarray | ImageSource) -> Prepared:
        """An image of any size as network input: [H, W, C] uint8, uint16 or float in [0, 1], or a source of windows;
        C as in `config.data`.
        """
        data = self.config.data
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[-1] != data.num_channels:
                raise InputError(f"an image of shape {image.shape}: must be [H, W, {data.num_channels}]")
            is_integer = image.dtype in (np.uint8, np.uint16)
            image = ArrayImage(image if is_integer else image.astype(np.float32, copy=False))
        tiling = self.tiling
        if tiling is None and data.fit == "patches":
            tiling = make_tiling(self.config)
        return tiles.prepare(image, tiling, input_size=data.image_size)

    def stream(
        self, items: Iterable[Prepared | InputError], *, batch_size: int | None
    ) -> Iterator["Result | InputError"]:
        """Judges prepared images one after the other, each as soon as all its tiles are computed.

        An error among the items comes back in its place, as does that of an image that breaks half-way.

        Args:
          items: what `prepare` gives.
          batch_size: tiles per computation; on several devices rounded up to a multiple of their number. None (for
            few items): a power of two of at most 16.

        Raises:
          InputError: the model returns NaN or infinity.
        """
        if batch_size is None:
            items = list(items)
            num_tiles = sum(item.num_tiles for item in items if isinstance(item, Prepared))
            batch_size = min(_MAX_BATCH, 1 << (max(num_tiles, 1) - 1).bit_length())
        forward, weights = self._program
        num_devices = devices.num_devices(self.variables)
        size = -(-batch_size // num_devices) * num_devices

        def start(tiles: np.ndarray) -> Mapping[str, jax.Array]:
            images = devices.to_unit_range(devices.place(pipeline.pad(tiles, size), self.variables))
            return forward(weights, images)

        assembled = streaming.assemble(
            items, model=self.config.model, batch_size=size, start=start, finish=self._scores_and_maps
        )
        for assembly in assembled:
            yield assembly if isinstance(assembly, InputError) else self._result(assembly)

    @property
    def _program(self) -> tuple[Forward, Any]:
        """What computes a batch, and the weights that it takes; made once for all copies of a predictor."""
        key = id(self.forward), id(self.variables)
        if key not in self.programs:
            shape = (*self.config.data.image_size, self.config.data.num_channels)
            parted = hoisting.for_inference(self.forward, self.variables, image_shape=shape)
            self.programs[key] = (*parted, self.forward, self.variables)  # the last two so that their ids stay theirs
        forward, weights, *_ = self.programs[key]
        return forward, weights

    def _scores_and_maps(self, outputs: Mapping[str, jax.Array], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Waits for a batch: of its first `count` tiles the scores [n, K] float64 and maps [n, P, h, w]."""
        rows = {name: np.asarray(value)[:count] for name, value in jax.device_get(dict(outputs)).items()}
        if not all(np.isfinite(value).all() for value in rows.values()):
            raise InputError(
                f"{self.workdir}: the checkpoint of step {self.checkpoint_step} gives NaN or infinity; choose another"
            )
        # The sigmoid in double precision, so that strong scores are not tied.
        scores = special.expit(rows["decision"].astype(np.float64)).reshape(count, -1)
        if self.classes:
            scores = ensemble.bend(scores, np.array(self.class_thresholds))
        maps = rows["probability"][:, None]
        if "class_probability" in rows:
            maps = np.concatenate([maps, rows["class_probability"]], axis=1)
        return scores, maps

    def _result(self, assembly: Assembly) -> Result:
        assert assembly.scores is not None
        score, pixel_map = float(assembly.scores.max()), assembly.pixel_map()
        if assembly.item.grid is not None:
            score = assembly.statistics.get(getattr(self.config.model, "score", ""), score)
        if self.calibration is not None and self.calibration.logistic is not None:
            features = assembly.statistics if assembly.item.grid is None else pixel_map.statistics()
            score = logistic.score_of(features["max"], features["mean"], self.calibration.logistic)
        class_scores = dict(zip(self.classes, map(float, assembly.scores), strict=True)) if self.classes else {}
        result = Result(score, pixel_map, assembly.item.source, class_scores)
        return self._calibrated(result) if self.classifier is None else result

    def _calibrated(self, result: Result) -> Result:
        """The result with its score as a probability, where the calibration makes one of it."""
        if self.calibration is None or self.calibration.score_map is None:
            return result
        return result._replace(score=self.calibration.calibrated(result.score), raw_score=result.score)

    def with_defects(self, result: Result) -> Result:
        """The result with the image's defects: the parts of the map at or above the pixel threshold.

        Those of an ensemble are found in the map of each class, and may overlap. A classifier names each defect, or
        rejects it, and then the map and the score are without it.
        """
        settings, threshold = self.config.inference, self.pixel_threshold
        find = functools.partial(
            defects_of, join_distance_px=settings.join_distance_px, min_area_px=settings.min_area_px
        )
        if self.classes:
            named = []
            for plane, name in enumerate(self.classes, start=1):
                runs = runs_of(result.map.bands(plane=plane, reaching=threshold), threshold=threshold)
                named += [dataclasses.replace(defect, class_name=name) for defect in find(runs)]
            numbered = (dataclasses.replace(defect, label=label) for label, defect in enumerate(named, start=1))
            return result._replace(defects=tuple(numbered))
        runs = runs_of(result.map.bands(reaching=threshold), threshold=threshold)
        found = find(runs)
        if self.classifier is None:
            return result._replace(defects=tuple(found))
        accepted = four_stage.classify_defects(result.source, found, classifier=self.classifier)
        kept = dataclasses.replace(result.map, erased=runs_without(runs, accepted))
        score = kept.statistics()[getattr(self.config.model, "score", "max")]
        return self._calibrated(result._replace(score=score, map=kept, defects=tuple(accepted)))

    def _judgement(self, result: "Result | InputError") -> Judgement:
        """The result in memory: the map as the network gave it where the image was resized, else at its own size."""
        if isinstance(result, InputError):
            raise result
        detected = None
        if self.classifier is not None:
            detected = result.map.whole()
            result = self.with_defects(result)
        if self.classifier is None and self.tiling is None and self.config.data.fit == "resize":
            cells, stride = result.map.cells.read(0, result.map.num_rows, plane=0), self.config.model.alignment_stride
        else:
            cells, stride = result.map.whole(), 1
        return Judgement(result.score, cells, stride, result.class_scores, result.defects, detected, result.raw_score)
