r"""What TF32 and bfloat16 cost in average precision, of inference alone and of training too.

    python -m benchmarks.precision --config=configs/kolektor_steel.py --config.data.root=KolektorSDD --workdir=DIR \
        [--folds=0,1,2 --seeds=0]

A network is trained in each dtype and judges the test images in it; the one of float32 judges them in the others as
well. Where there is no GPU TF32 is emulated: what convolutions and matrix products multiply, gradients included, loses
all but ten bits of its mantissa before; truncated as tensor cores do it, which is the most that it can cost. Emulated
trainings take XLA's own convolutions; their threshold is chosen in float32. Resumes where it was stopped.
"""

import dataclasses
import functools
import os
import unittest.mock
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import cli

if TYPE_CHECKING:  # decoding processes import this file, and need no JAX
    from jaxdefect.config import Config
    from jaxdefect.inference.predictor import Predictor
    from jaxdefect.training import runs

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the runs and of precision.json.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the trainings.")
_FOLDS = flags.DEFINE_list("folds", None, "Folds to test; all if not given.")

_TF32_MASK = 0xFFFFE000  # sign, exponent and ten bits of float32
_PRODUCTS = ("conv_general_dilated", "dot_general")


def with_tf32_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays whose convolutions and matrix products take float32 operands truncated to TF32."""
    import jax

    from jaxdefect.models import hoisting

    def step(equation: Any, operands: list[Any]) -> Sequence[Any]:
        name = equation.primitive.name
        if name in ("cond", "scan", "while") and any(product in str(equation) for product in _PRODUCTS):
            raise ValueError(f"{name}: what it multiplies would stay float32; wrap what is inside")
        return hoisting.bind(equation, list(map(_truncate, operands)) if name in _PRODUCTS else operands)

    def truncated(*arguments: Any) -> Any:
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        inputs = jax.tree.leaves(arguments)
        outputs = hoisting.walk(traced.jaxpr, traced.consts, inputs, platform="gpu", step=step)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return truncated


def _truncate(value: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    if value.dtype != jnp.float32:
        return value
    bits = lax.bitcast_convert_type(value, jnp.uint32) & jnp.uint32(_TF32_MASK)
    return lax.bitcast_convert_type(bits, jnp.float32)


def _train(config: "Config", workdir: Path, *, is_emulated: bool) -> int:
    from jaxdefect import system
    from jaxdefect.training import step, traced

    if not is_emulated:
        return system.train(config, workdir)
    function = step.step_function
    with (
        unittest.mock.patch.object(step, "step_function", lambda *settings: with_tf32_products(function(*settings))),
        unittest.mock.patch.dict(os.environ, {traced.FOLDER: ""}),  # else the next training in TF32 would take it
    ):
        return system.train(config, workdir)


def _judging_in(predictor: "Predictor", dtype: str, *, is_emulated: bool) -> "Predictor":
    """The same weights computing in another dtype."""
    from jaxdefect import models
    from jaxdefect.inference.predictor import compile_forward
    from jaxdefect.models import large_kernel

    module = models.build(dataclasses.replace(predictor.config.model, dtype=dtype))
    variables = {name: tree for name, tree in predictor.variables.items() if name != large_kernel.SPECTRA}
    apply = functools.partial(module.apply, train=False)
    wanted = with_tf32_products(apply) if is_emulated else apply
    forward = compile_forward(lambda variables, images, *, train: wanted(variables, images))  # `train` is False
    return dataclasses.replace(predictor, variables=variables, forward=forward)


def _judge(run: "runs.Run", dtype: str, *, is_emulated: bool) -> dict[str, float]:
    """AP, false positives and misses on the test images, by the run's own threshold."""
    from jaxdefect.data import readers
    from jaxdefect.inference import choosing, evaluation
    from jaxdefect.reports import evaluation as reports

    size = reports.batch_size_of(run)
    predictor = choosing.calibrated(run, checkpoint=None, calibration=None, batch_size=size)
    calibration = predictor.calibration
    assert calibration is not None
    samples = reports.select_samples(readers.read(run.config.data), split=run.split, part="test")
    changed = _judging_in(predictor, dtype, is_emulated=is_emulated)
    judged = evaluation.evaluate(changed, samples, calibration=calibration, batch_size=size)
    found = reports.evaluation_metrics(judged, calibration, part="test", workdir=run.workdir)
    return {name: found[name] for name in ("average_precision", "false_positives", "false_negatives")}


def main(argv: Sequence[str]) -> int:
    """Trains what is missing, judges, prints the table; the exit code."""
    import jax

    from jaxdefect.benchmark import environment, results
    from jaxdefect.benchmark.modes import DTYPES
    from jaxdefect.studies import folds, tables
    from jaxdefect.training import runs

    del argv
    config, workdir = cli.config(), Path(cli.required(_WORKDIR))
    is_emulated = {dtype: dtype == "tf32" and jax.default_backend() == "cpu" for dtype in DTYPES}
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for fold in folds.check_folds(config.split, cli.integers(_FOLDS)):
        for seed in folds.check_seeds(cli.integers(_SEEDS) or ()):
            of_run = figures.setdefault(f"fold {fold}, seed {seed}", {})
            for dtype in DTYPES:
                own = dataclasses.replace(
                    config,
                    model=dataclasses.replace(config.model, dtype=dtype),
                    split=dataclasses.replace(config.split, fold=fold),
                    training=dataclasses.replace(config.training, seed=seed),
                )
                place = workdir / dtype / f"fold_{fold}" / f"seed_{seed}"
                if code := _train(own, place, is_emulated=is_emulated[dtype]):
                    return code
                run = runs.load(place)
                of_run[f"{dtype}, trained in it"] = _judge(run, dtype, is_emulated=is_emulated[dtype])
                if dtype == "float32":
                    for other in DTYPES[1:]:
                        of_run[f"{other}, trained in float32"] = _judge(run, other, is_emulated=is_emulated[other])
            results.save(workdir / "precision.json", {"figures": figures, "environment": environment.describe()})
    rows = [(name, *(_cell(of_run[name]) for of_run in figures.values())) for name in next(iter(figures.values()), {})]
    caption = "AP in %, false positives and false negatives" + (", TF32 emulated" if any(is_emulated.values()) else "")
    cli.console().print(tables.terminal(("judged in", *figures), rows, title="Precision", caption=caption))
    return 0


def _cell(figures: dict[str, float]) -> str:
    return f"{100 * figures['average_precision']:.2f} ({figures['false_positives']}, {figures['false_negatives']})"


if __name__ == "__main__":
    cli.run(main, has_config=True)
