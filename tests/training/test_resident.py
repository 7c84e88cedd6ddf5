"""A training set on the device against the batches and the training that Grain feeds."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdefect import models
from jaxdefect.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    SplitConfig,
    SyntheticConfig,
    TrainingConfig,
    from_dict,
    to_dict,
)
from jaxdefect.data import pipeline, readers, splits
from jaxdefect.model_config import SegDecConfig
from jaxdefect.training import loop, resident, state, step
from jaxdefect.types import InputError, Sample, Targets

TARGETS = Targets(stride=8, undisputed_power=0.5)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("resident") / "surfaces"
    return Config(
        data=DataConfig(
            reader="synthetic",
            root=str(root),
            image_size=(64, 64),
            dilation_px=5,
            distance_power=2.0,
            distance_weight_max=3.0,
            synthetic=SyntheticConfig(layout="folder", num_images=20, height=128, width=128),
        ),
        split=SplitConfig(test_fraction=0.2, num_positives=5, num_masks=3),
        model=SegDecConfig(kernels="atrous", num_first_convs=1),
        loss=LossConfig(segmentation="bce", balance="linear"),
        optimizer=OptimizerConfig(learning_rate=0.05),
        training=TrainingConfig(epochs=2, batch_size=2, validate_every_epochs=2),
    )


def samples_of(config: Config) -> list[Sample]:
    samples = readers.read(config.data)
    return pipeline.training_samples(samples, splits.make(samples, config.split), config.data)


def drawn(config: Config, samples: list[Sample], num_steps: int) -> list[dict[str, np.ndarray]]:
    """The batches as the device makes them."""
    order = pipeline.training_draws(samples, config.data, batch_size=2, num_steps=num_steps, seed=0)
    elements = resident.load(samples, config, targets=TARGETS, mesh=step.device_mesh(2))
    return [
        jax.device_get(
            resident.augment(
                {name: values[which] for name, values in elements.items()},
                config,
                targets=TARGETS,
                key=jax.random.key(number),
            )
        )
        for number, which in enumerate(order)
    ]


@pytest.mark.parametrize("sampling", ["alternate", "rare_negatives"])
def test_without_augmentation_the_batches_are_grains_bit_for_bit(config: Config, sampling: str) -> None:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sampling=sampling))
    samples = samples_of(config)
    fed = pipeline.training_batches(samples, config.data, targets=TARGETS, batch_size=2, num_steps=12, seed=0)
    for number, batch in enumerate(drawn(config, samples, 12)):
        for name, values in batch.items():
            np.testing.assert_array_equal(values, fed[number][name], err_msg=f"{name} of batch {number}")


def test_flipped_images_have_the_targets_of_flipped_masks(config: Config) -> None:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, masks="soft"))
    flipping = dataclasses.replace(config, data=dataclasses.replace(config.data, augment=AugmentConfig(flip=True)))
    samples = samples_of(config)
    order = pipeline.training_draws(samples, config.data, batch_size=2, num_steps=8, seed=0)
    seen = set()
    for number, batch in enumerate(drawn(flipping, samples, 8)):
        for i in range(2):
            image, mask = pipeline.load(samples[order[number, i]], config.data)
            ways = {way: (np.flip(image, way), np.flip(mask, way)) for way in ((), (0,), (1,), (0, 1))}
            (way,) = [way for way, (moved, _) in ways.items() if np.array_equal(moved, batch["image"][i])]
            seen.add(way)
            target, weight = pipeline.make_target(*map(np.ascontiguousarray, ways[way]), config.data, TARGETS)
            np.testing.assert_allclose(batch["mask"][i], target, atol=1e-6)
            np.testing.assert_allclose(batch["weight"][i], weight, atol=1e-5)
    assert len(seen) == 4


def test_shading_has_the_distribution_that_was_asked_for(config: Config) -> None:
    """Mid-gray images: the mean moves by at most the brightness, and noise has at most the deviation."""
    augment = AugmentConfig(brightness=0.2, noise=0.1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, augment=augment))
    batch = {"image": np.full((256, 32, 32, 1), 0.5, np.float32), "mask": np.zeros(1), "weight": np.zeros(1)}
    image = resident.augment(batch, config, targets=TARGETS, key=jax.random.key(0))["image"]
    means, deviations = np.mean(image, axis=(1, 2, 3)) - 0.5, np.std(image, axis=(1, 2, 3))
    assert 0.19 < np.abs(means).max() < 0.21
    assert np.std(means) == pytest.approx(0.2 / np.sqrt(3), rel=0.15)  # uniform
    assert 0.09 < deviations.max() < 0.11
    assert np.mean(deviations) == pytest.approx(0.05, rel=0.15)


def test_a_training_gives_the_numbers_of_one_that_grain_feeds(config: Config, tmp_path: Path) -> None:
    scanned = dataclasses.replace(config, training=dataclasses.replace(config.training, scan_steps=3))
    for name, one in (("fed", config), ("scanned", scanned)):
        assert loop.train(one, tmp_path / name) == 0
    lines = {
        name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("fed", "scanned")
    }
    assert [line["step"] for line in lines["fed"] if line["kind"] == "train"] == list(range(1, 11))
    for fed, by_scan in zip(lines["fed"], lines["scanned"], strict=True):
        assert by_scan.pop("kind") == fed.pop("kind")
        assert by_scan == pytest.approx(fed, rel=1e-3, abs=1e-3)
    assert loop.train(scanned, tmp_path / "scanned") == 0  # nothing is left to do


def test_several_steps_in_one_call_are_the_steps_one_by_one(config: Config, tmp_path: Path) -> None:
    """The loop that accelerators run, and what the training makes of the figures of several steps."""
    samples, module, mesh = samples_of(config), models.build(config.model), step.device_mesh(1)
    stage = state.stages(config, steps_per_epoch=5)[0]
    order = pipeline.training_draws(samples, config.data, batch_size=1, num_steps=2, seed=0)
    elements = resident.load(samples, config, targets=TARGETS, mesh=mesh)
    chunk = resident.make_chunk(module, config, stage, targets=TARGETS, mesh=mesh)
    together, figures = chunk(state.initial_state(module, config, stage), elements, order, 0)
    current, rows = state.initial_state(module, config, stage), []
    for number in range(2):
        current, row = chunk(current, elements, order[number : number + 1], number)
        rows.append(row)
    for name, values in jax.device_get(figures).items():
        np.testing.assert_allclose(values, [float(row[name][0]) for row in rows], rtol=1e-3, atol=1e-5, err_msg=name)
    assert int(together.stage_step) == int(current.stage_step) == 2


def test_what_does_not_fit_or_must_be_resampled_is_refused(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_free_bytes", lambda mesh: 1000)
    with pytest.raises(InputError, match=r"decoded training images take .* GiB .* set config.training.scan_steps = 0"):
        resident.load(samples_of(config), config, targets=TARGETS, mesh=step.device_mesh(2))
    values = to_dict(config)
    values["training"]["scan_steps"] = 3
    values["data"]["augment"]["affine_degrees"] = 5.0
    with pytest.raises(InputError, match="affine_degrees"):
        from_dict(values)
