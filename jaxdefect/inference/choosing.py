"""Chooses a run's thresholds, on its validation images or, without such, on its training images."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxdefect.config import Config
from jaxdefect.data import pipeline, readers
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import ensemble, logistic
from jaxdefect.inference.calibration import DEFAULT_PIXEL_THRESHOLD, Calibration
from jaxdefect.inference.evaluation import BatchPredictor, score
from jaxdefect.inference.predictor import Predictor
from jaxdefect.inference.thresholds import best_f1_threshold
from jaxdefect.metrics.pixel import NUM_BINS, best_mean_iou_threshold, best_pixel_threshold, pixel_histogram
from jaxdefect.training import runs
from jaxdefect.types import InputError, Sample, Split

# (what is being done, number of images) -> a function to call with the number done so far
OnStage = Callable[[str, int], Callable[[int], None]]


def _silent(_: str, __: int) -> Callable[[int], None]:
    return lambda num_done: None


def calibrate(
    predictor: BatchPredictor,
    samples: Sequence[Sample],
    *,
    source: str,
    batch_size: int,
    on_progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Chooses the thresholds of best F1, of images and of pixels, on `samples`.

    Without a mask on any positive the pixel threshold is 0.5.

    Args:
      predictor: gives scores and maps.
      samples: at least one defective and, to be of use, good ones.
      source: what the samples are, "validation" or "train"; goes into the calibration.
      batch_size: images per call of the predictor.
      on_progress: called with the number of images done after each batch.

    Raises:
      InputError: no defective image among the samples, or an image or mask cannot be read.
    """
    if not any(sample.label for sample in samples):
        raise InputError(
            f"no defective image among the {len(samples)} of the {source} set: no threshold can be chosen; "
            "give the split at least one"
        )
    labels, scores = [], []
    histogram = np.zeros((2, NUM_BINS), np.int64)
    for scored in score(predictor, samples, batch_size=batch_size, on_progress=on_progress):
        labels.append(scored.sample.label)
        scores.append(scored.judgement.score)
        if scored.mask is not None:
            histogram += pixel_histogram(scored.upsampled, scored.mask)
    return Calibration(
        threshold=best_f1_threshold(np.array(labels), np.array(scores)),
        pixel_threshold=best_pixel_threshold(histogram) if histogram[1].any() else DEFAULT_PIXEL_THRESHOLD,
        source=source,
        checkpoint_step=predictor.checkpoint_step,
    )


def calibrate_run(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    split: Split,
    batch_size: int,
    on_stage: OnStage = _silent,
) -> Calibration:
    """All that a run's decisions need, in the order in which they build on each other.

    The logistic regression, if the config wants one, and the pixel threshold of best mean IoU are fitted on the
    training images; the thresholds of best F1 are chosen on the validation images or, where those hold no defect to
    choose by, on the training images. Of the training images only the masks that the run was allowed to see are used.
    A classifier judges what lies above the pixel threshold, so it joins when that is known.
    """
    config = predictor.config
    detector = dataclasses.replace(predictor, calibration=None, classifier=None)
    weights, pixel_threshold = None, None
    train = pipeline.training_samples(samples, split, _whole_images(config).data)
    if config.inference.decision == "logistic":
        done = on_stage("Fitting the decision on train", len(train))
        scored = score(detector, train, batch_size=batch_size, on_progress=done)
        weights = logistic.fit((item.judgement.probability, item.sample.label) for item in scored)
    if config.inference.pixel_criterion == "mean_iou":
        masked = [sample for sample in train if sample.label and sample.mask is not None]
        done = on_stage("Choosing the pixel threshold on train", len(masked))
        pixel_threshold = _mean_iou_threshold(detector, masked, batch_size=batch_size, on_progress=done)
    labels = {sample.id: sample.label for sample in samples}
    source = "validation" if any(labels.get(id_) for id_ in split.validation) else "train"
    by_id = {sample.id: sample for sample in samples}
    chosen = train if source == "train" else [by_id[id_] for id_ in split.validation]
    if predictor.classifier is not None and pixel_threshold is None:
        done = on_stage(f"Choosing the pixel threshold on {source}", len(chosen))
        first = calibrate(detector, chosen, source=source, batch_size=batch_size, on_progress=done)
        pixel_threshold = first.pixel_threshold
    before = Calibration(
        threshold=config.model.threshold,
        pixel_threshold=DEFAULT_PIXEL_THRESHOLD if pixel_threshold is None else pixel_threshold,
        source=source,
        checkpoint_step=predictor.checkpoint_step,
        logistic=weights,
    )
    judge = dataclasses.replace(predictor, calibration=before)
    done = on_stage(f"Choosing the threshold on {source}", len(chosen))
    calibration = calibrate(judge, chosen, source=source, batch_size=batch_size, on_progress=done)
    if pixel_threshold is not None:
        calibration = dataclasses.replace(calibration, pixel_threshold=pixel_threshold)
    step = None if predictor.classifier is None else predictor.classifier.step
    return dataclasses.replace(calibration, logistic=weights, classifier_step=step)


def calibrated(
    run: runs.Run, *, checkpoint: str | None = None, batch_size: int, on_stage: OnStage = _silent
) -> Predictor:
    """The run's predictor with the thresholds that belong to its weights, chosen now if there are none.

    What is chosen is kept with the run, unless `checkpoint` asked for other weights than the run selects. The members
    of an ensemble have thresholds of their own.
    """
    if run.config.ensemble.kind != "none":
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
    predictor = Predictor.load(run.workdir, checkpoint=checkpoint, is_calibrating=True)
    steps = predictor.checkpoint_step, None if predictor.classifier is None else predictor.classifier.step
    known = predictor.calibration
    if known is not None and (known.checkpoint_step, known.classifier_step) == steps:
        return predictor
    samples = readers.read(run.config.data)
    calibration = calibrate_run(predictor, samples, split=run.split, batch_size=batch_size, on_stage=on_stage)
    if checkpoint is None:
        calibrations.save(calibration, run.workdir)
    return dataclasses.replace(predictor, calibration=calibration)


def _whole_images(config: Config) -> Config:
    """Thresholds are chosen on whole images, whatever the network was trained on."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, fit="resize"))


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
