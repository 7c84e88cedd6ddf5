"""What of a run is exported: its networks, what decides beside them, and images to compare on."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdefect import models
from jaxdefect.config import Config
from jaxdefect.data import readers, surfaces
from jaxdefect.data.images import read_image, resize_image
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import ensemble, four_stage
from jaxdefect.inference.exported import CLASSIFIER, MODEL
from jaxdefect.inference.files import find_images
from jaxdefect.inference.predictor import Predictor
from jaxdefect.interop.runtimes import Network
from jaxdefect.model_config import ModelConfig
from jaxdefect.models import large_kernel
from jaxdefect.training import checkpoint as checkpoints
from jaxdefect.training import runs
from jaxdefect.types import InputError


class Part(NamedTuple):
    """One network of a run. `classes`: of a classifier, those of its outputs after "good"; else empty."""

    network: Network
    checkpoint_step: int
    classes: tuple[str, ...] = ()


class Source(NamedTuple):
    """A run: its networks by name, and what its sidecar says of the decision."""

    config: Config
    parts: dict[str, Part]
    decision: dict[str, Any]


def load(workdir: Path, *, checkpoint: str | None) -> Source:
    """Loads what is to be exported: a detector, one with its classifier, an ensemble, or a classifier by itself.

    The networks compute in float32, also those trained in TF32 or bfloat16, which not every runtime has.

    Raises:
      InputError: as `Predictor.load`.
    """
    config = runs.load(workdir).config
    if config.data.classes:
        classifier = _classifier(workdir, config, checkpoint=checkpoint)
        return Source(config, {MODEL: classifier}, _decision(None))
    predictor = Predictor.load(workdir, checkpoint=checkpoint)
    apply = _apply(config.model)

    def detect(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        outputs = apply(variables, images, train=False)
        return {name: outputs[name].astype(jnp.float32) for name in ("decision", "probability")}

    function, variables = detect, predictor.variables
    if predictor.classes:
        function, variables = functools.partial(ensemble.run_members, apply), variables[0]
    # Without the spectra of large kernels, with which JAX is faster on a CPU: they follow from the kernels.
    variables = jax.device_get({name: part for name, part in variables.items() if name != large_kernel.SPECTRA})
    network = Network(function, variables, (*config.data.image_size, config.data.num_channels))
    parts = {MODEL: Part(network, predictor.checkpoint_step)}
    if predictor.classifier is not None:
        directory = four_stage.classifier_directory(workdir)
        own = _classifier(directory, runs.load(directory).config, checkpoint=None)
        parts[CLASSIFIER] = own._replace(classes=predictor.classifier.classes)
    return Source(config, parts, _decision(predictor))


def _classifier(workdir: Path, config: Config, *, checkpoint: str | None) -> Part:
    variables, step = checkpoints.restore_variables(workdir, config=config, which=checkpoint)
    apply = _apply(config.model)

    def classify(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        return {"classes": apply(variables, images, train=False)["classes"].astype(jnp.float32)}

    network = Network(classify, jax.device_get(variables), (*config.data.image_size, config.data.num_channels))
    return Part(network, step, config.data.classes)


def _apply(model: ModelConfig) -> Any:
    return models.build(dataclasses.replace(model, dtype="float32")).apply


def _decision(predictor: Predictor | None) -> dict[str, Any]:
    """Thresholds, calibration and classes, as JSON has them; None: of a classifier by itself, which has none."""
    values: dict[str, Any] = {
        "threshold": None,
        "pixel_threshold": None,
        "calibration": None,
        "classes": [],
        "class_thresholds": [],
        "class_pixel_thresholds": [],
        "weights_sha256": None,
    }
    if predictor is None:
        return values
    values |= {"threshold": predictor.threshold, "pixel_threshold": predictor.pixel_threshold}
    values["weights_sha256"] = predictor.weights_sha256
    if predictor.calibration is not None:
        values["calibration"] = json.loads(calibrations.to_json(predictor.calibration))
    if predictor.classes:
        values["classes"] = list(predictor.classes)
        values["class_thresholds"] = list(predictor.class_thresholds)
        values["class_pixel_thresholds"] = np.asarray(predictor.variables[1], np.float64).tolist()
    return values


def find_check_images(
    workdir: Path, config: Config, source: str | None, *, out: Path, num_images: int
) -> tuple[list[np.ndarray], str]:
    """Images [H, W, C] float32 in [0, 1] to compare on, evenly spread over those that are there, and what they are.

    Args:
      workdir: the run's directory.
      config: its config.
      source: a folder, an image or a pattern; None: the run's data set, its test part if there is one. Where that is
        not at hand, synthetic surfaces; the text says why.
      out: the folder for the results, which is passed over.
      num_images: at most so many.

    Raises:
      InputError: no image at `source`, or one that cannot be read.
    """
    num_channels = config.data.num_channels

    def read(paths: list[Path]) -> list[np.ndarray]:
        places = np.linspace(0, len(paths) - 1, min(num_images, len(paths))).round().astype(int)
        return [read_image(paths[place], num_channels=num_channels) for place in places]

    if source is not None:
        return read(list(find_images(source, out=out).values())), source
    try:
        part, paths = _own_images(workdir, config)
        return read(paths), f"the run's own {part} images"
    except InputError as error:
        reason = str(error).splitlines()[0]
    height, width = config.data.image_size
    rendered = [
        surfaces.render(seed=0, index=index, is_positive=index % 2 == 0, height=height, width=width).image
        for index in range(num_images)
    ]
    images = [np.repeat(pixels[..., None].astype(np.float32) / 255, num_channels, axis=-1) for pixels in rendered]
    return images, f"synthetic surfaces, as the run's own images are not at hand: {reason}"


def _own_images(workdir: Path, config: Config) -> tuple[str, list[Path]]:
    split = runs.load(workdir).split
    paths = {sample.id: sample.image for sample in readers.read(config.data)}
    for part in ("test", "validation", "train"):
        if chosen := [paths[id] for id in getattr(split, part) if id in paths]:
            return part, chosen
    raise InputError(f"{config.data.root}: holds none of the images of {workdir}'s split")


def fit_image(image: np.ndarray, network: Network, *, is_resized: bool) -> np.ndarray:
    """An image [H, W, C] as a network takes it: resized, or its middle where the network sees patches."""
    height, width, _ = network.image_shape
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    if is_resized or top < 0 or left < 0:
        return resize_image(image, height, width)
    return image[top : top + height, left : left + width]
