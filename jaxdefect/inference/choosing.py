"""Chooses a run's thresholds, on its validation images or others that are asked for."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxdefect.data import pipeline, readers
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import calibration_images, ensemble, logistic, policies, score_maps
from jaxdefect.inference.calibration import DEFAULT_PIXEL_THRESHOLD, Calibration, CalibrationImages
from jaxdefect.inference.calibration_images import Selection
from jaxdefect.inference.evaluation import BatchPredictor, score
from jaxdefect.inference.policies import Choice, Policy
from jaxdefect.inference.predictor import Predictor
from jaxdefect.inference.score_maps import ScoreMap
from jaxdefect.metrics.pixel import NUM_BINS, best_mean_iou_threshold, best_pixel_threshold, pixel_histogram
from jaxdefect.training import runs
from jaxdefect.types import InputError, Sample, Split

# (what is being done, number of images) -> a function to call with the number done so far
OnStage = Callable[[str, int], Callable[[int], None]]


def _silent(_: str, __: int) -> Callable[[int], None]:
    return lambda num_done: None


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is wanted of a calibration: the policy of its thresholds, and how scores become probabilities or None."""

    policy: Policy = policies.BEST_F1
    scores: score_maps.Method | None = None


DEFAULT_WISH = Wish()


def decide(
    images: CalibrationImages, wish: Wish, *, source: str, num_trained: int = 0
) -> tuple[Choice, ScoreMap | None]:
    """Thresholds, on calibrated scores where those are wanted, and what calibrates them.

    Raises:
      InputError: as `check_promise`; or no defective image, or only such where scores are to be calibrated.
    """
    check_promise(wish.policy, len(images.ids), sum(images.labels), source=source, num_trained=num_trained)
    labels, scores = np.array(images.labels), np.array(images.scores)
    score_map = None if wish.scores is None else score_maps.fit(wish.scores, labels, scores)
    choice = policies.choose(wish.policy, labels, scores if score_map is None else score_map(scores))
    return dataclasses.replace(choice, promise=None) if num_trained else choice, score_map


def check_promise(policy: Policy, num_images: int, num_defective: int, *, source: str, num_trained: int) -> None:
    """Whether what the policy promises of new images can be had from these.

    Raises:
      InputError: too few defective ones, or the network was trained on some.
    """
    if not policy.promises:
        return
    if num_trained:
        raise InputError(
            f"--policy={policy.name}: promises something of new images, but the network was trained on {num_trained} "
            f"of the {num_images} calibration images ({source}), which it scores better than new ones. Calibrate on "
            "images that it has not seen: --on=validation, --on=FOLDER, --on=FILE_WITH_IDS, or --scores_csv with "
            "out-of-fold scores"
        )
    try:
        policies.allowed_misses(policy, num_defective)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def calibrate(
    predictor: BatchPredictor,
    *,
    selection: Selection,
    batch_size: int,
    wish: Wish = DEFAULT_WISH,
    on_progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Chooses the thresholds on a selection of images: of images as wished, of pixels by best F1.

    Without a mask on any positive the pixel threshold is 0.5.

    Args:
      predictor: gives raw scores, and maps.
      selection: at least one defective and, to be of use, good ones.
      batch_size: images per computation.
      wish: the policy, and whether scores shall be probabilities.
      on_progress: called with the number of images done after each.

    Raises:
      InputError: no defective image, an image or mask cannot be read, or what `decide` refuses.
    """
    if not any(sample.label for sample in selection.samples):
        raise InputError(
            f"no defective image among the {len(selection.samples)} of the {selection.source} set: no threshold can be "
            "chosen; give the split at least one"
        )
    ids, labels, scores = [], [], []
    histogram = np.zeros((2, NUM_BINS), np.int64)
    for scored in score(predictor, selection.samples, batch_size=batch_size, on_progress=on_progress):
        ids.append(scored.sample.id)
        labels.append(scored.sample.label)
        scores.append(scored.judgement.score)
        if scored.mask is not None:
            histogram += pixel_histogram(scored.upsampled, scored.mask)
    images = CalibrationImages(tuple(ids), tuple(labels), tuple(scores))
    choice, score_map = decide(images, wish, source=selection.source, num_trained=selection.num_trained)
    return Calibration(
        threshold=choice.threshold,
        pixel_threshold=best_pixel_threshold(histogram) if histogram[1].any() else DEFAULT_PIXEL_THRESHOLD,
        source=selection.source,
        checkpoint_step=predictor.checkpoint_step,
        reject_threshold=choice.reject_threshold,
        policy=wish.policy,
        promise=choice.promise,
        notes=selection.notes,
        score_map=score_map,
        images=images,
        num_trained=selection.num_trained,
    )


def calibrate_run(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    split: Split,
    batch_size: int,
    selection: Selection | None = None,
    wish: Wish = DEFAULT_WISH,
    on_stage: OnStage = _silent,
) -> Calibration:
    """All that a run's decisions need, in the order in which they build on each other.

    The logistic regression, if the config wants one, and the pixel threshold of best mean IoU are fitted on the
    training images; the thresholds are chosen on `selection`, by default the validation images or, where those hold no
    defect to choose by, the training images. Of the training images only the masks that the run was allowed to see are
    used. A classifier judges what lies above the pixel threshold, so it joins when that is known. Of an ensemble only
    the joined score gets thresholds: pixels and classes are decided by those of its members.
    """
    config = predictor.config
    detector = dataclasses.replace(predictor, calibration=None, classifier=None)
    weights, pixel_threshold = None, None
    if selection is None:
        selection = calibration_images.default_selection(samples, split, config.data)
    source, num_chosen = selection.source, len(selection.samples)
    num_defective = sum(sample.label for sample in selection.samples)  # before hours of computing
    check_promise(wish.policy, num_chosen, num_defective, source=source, num_trained=selection.num_trained)
    train = pipeline.training_samples(samples, split, calibration_images.whole_images(config.data))
    if config.inference.decision == "logistic":
        done = on_stage("Fitting the decision on train", len(train))
        scored = score(detector, train, batch_size=batch_size, on_progress=done)
        weights = logistic.fit((item.judgement.probability, item.sample.label) for item in scored)
    if predictor.classes:
        pixel_threshold = ensemble.THRESHOLD
    elif config.inference.pixel_criterion == "mean_iou":
        masked = [sample for sample in train if sample.label and sample.mask is not None]
        done = on_stage("Choosing the pixel threshold on train", len(masked))
        pixel_threshold = _mean_iou_threshold(detector, masked, batch_size=batch_size, on_progress=done)
    if predictor.classifier is not None and pixel_threshold is None:
        done = on_stage(f"Choosing the pixel threshold on {source}", num_chosen)
        first = calibrate(detector, selection=selection, batch_size=batch_size, on_progress=done)
        pixel_threshold = first.pixel_threshold
    before = Calibration(
        threshold=config.model.threshold,
        pixel_threshold=DEFAULT_PIXEL_THRESHOLD if pixel_threshold is None else pixel_threshold,
        source=source,
        checkpoint_step=predictor.checkpoint_step,
        logistic=weights,
    )
    judge = dataclasses.replace(predictor, calibration=before)
    done = on_stage(f"Choosing the threshold on {source}", num_chosen)
    calibration = calibrate(judge, selection=selection, batch_size=batch_size, wish=wish, on_progress=done)
    if pixel_threshold is not None:
        calibration = dataclasses.replace(calibration, pixel_threshold=pixel_threshold)
    return dataclasses.replace(
        calibration,
        logistic=weights,
        classifier_step=None if predictor.classifier is None else predictor.classifier.step,
        weights_sha256=predictor.weights_sha256,
        tiling=predictor.tiling,
    )


def calibrated(
    run: runs.Run,
    *,
    checkpoint: str | None = None,
    calibration: Path | None = None,
    batch_size: int,
    on_stage: OnStage = _silent,
) -> Predictor:
    """The run's predictor with the thresholds that belong to its weights, chosen now if there are none.

    Those that the run holds for other weights are chosen anew as they were, by the same policy on the same part of the
    split. What is chosen is kept with the run, unless `checkpoint` asked for other weights than the run selects. The
    members of an ensemble have thresholds of their own, and above them it may have a joint calibration. `calibration`:
    a file to decide by instead.

    Raises:
      InputError: thresholds for other weights that were chosen on images outside the split; no such file.
    """
    if calibration is not None:
        return Predictor.load(run.workdir, checkpoint=checkpoint, calibration=calibration).on_all_devices()
    if run.config.ensemble.kind != "none":
        predictor = calibrated_members(run, checkpoint=checkpoint, batch_size=batch_size, on_stage=on_stage)
        known = calibrations.load(run.workdir)
        if known is None:
            return predictor
    else:
        predictor = Predictor.load(run.workdir, checkpoint=checkpoint, is_calibrating=True).on_all_devices()
        known = predictor.calibration
    if known is not None and _belongs(known, predictor):
        return _with(known, predictor)
    samples = readers.read(run.config.data)
    selection, wish = (None, DEFAULT_WISH) if known is None else _as_before(known, run, samples)
    chosen = calibrate_run(
        predictor,
        samples,
        split=run.split,
        batch_size=batch_size,
        selection=selection,
        wish=wish,
        on_stage=on_stage,
    )
    if checkpoint is None:
        calibrations.save(chosen, run.workdir)
    return _with(chosen, predictor)


def _with(calibration: Calibration, predictor: Predictor) -> Predictor:
    if predictor.classes:
        return ensemble.with_joint(predictor, calibration, where=calibrations.calibration_path(predictor.workdir))
    return dataclasses.replace(predictor, calibration=calibration)


def calibrated_members(
    run: runs.Run, *, checkpoint: str | None = None, batch_size: int, on_stage: OnStage = _silent
) -> Predictor:
    """The ensemble whose members have the thresholds that belong to their weights (`calibrated`), and no joint one."""
    members = {
        name: calibrated(
            runs.load(ensemble.member_directory(run.workdir, name)),
            checkpoint=checkpoint,
            batch_size=batch_size,
            on_stage=on_stage,
        )
        for name in ensemble.member_classes(run.workdir)
    }
    return ensemble.combine(Predictor, run, members)


def defaults(run: runs.Run, *, checkpoint: str | None, batch_size: int) -> Calibration:
    """The run's calibration for these weights, or if it has none, what it would choose unasked; nothing is kept.

    Of an ensemble that of its members, who keep theirs.
    """
    if run.config.ensemble.kind != "none":
        joined = calibrated_members(run, checkpoint=checkpoint, batch_size=batch_size).calibration
        assert joined is not None
        return joined
    predictor = Predictor.load(run.workdir, checkpoint=checkpoint, is_calibrating=True).on_all_devices()
    known = predictor.calibration
    if known is not None and _belongs(known, predictor):
        return known
    return calibrate_run(predictor, readers.read(run.config.data), split=run.split, batch_size=batch_size)


def _belongs(calibration: Calibration, predictor: Predictor) -> bool:
    """Whether it was chosen for these weights."""
    steps = predictor.checkpoint_step, None if predictor.classifier is None else predictor.classifier.step
    is_same = calibration.weights_sha256 in (None, predictor.weights_sha256)
    return is_same and (calibration.checkpoint_step, calibration.classifier_step) == steps


def _as_before(known: Calibration, run: runs.Run, samples: Sequence[Sample]) -> tuple[Selection | None, Wish]:
    """What the run's calibration, for other weights, was chosen on and by."""
    if known.source not in calibration_images.PARTS:
        raise InputError(
            f"{calibrations.calibration_path(run.workdir)}: chosen for the checkpoint of step {known.checkpoint_step} "
            f"on {known.source}, and these weights are others; run launch.calibrate again, or delete the file"
        )
    wish = Wish(known.policy, None if known.score_map is None else score_maps.method_of(known.score_map))
    if wish == DEFAULT_WISH and known.source != "test":
        return None, wish
    return calibration_images.select(run, samples, known.source), wish


def _mean_iou_threshold(
    predictor: BatchPredictor,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    on_progress: Callable[[int], None],
) -> float:
    histograms = [
        pixel_histogram(scored.upsampled, scored.mask)
        for scored in score(predictor, samples, batch_size=batch_size, on_progress=on_progress)
        if scored.mask is not None and scored.mask.any()
    ]
    if not histograms:
        raise InputError(
            "config.inference.pixel_criterion = 'mean_iou': no training image has a mask to choose the threshold by"
        )
    return best_mean_iou_threshold(np.stack(histograms))
