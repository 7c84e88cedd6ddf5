r"""Times a config: python -m launch.benchmark --config=configs/kolektor_joint.py --mode=inference.

    --sizes=704x256,1408x512 --batch_sizes=4,8 --dtypes=float32,bfloat16 --devices=1,2,4 --layers --out=benchmark.json
    python -m launch.benchmark --compare before.json after.json

Every combination of batch size, image size, dtype and number of devices is a row: compilation, median, least and p99 of
a call, images per second and memory; of inference and train also how near that is to the device's own limits (a matrix
product and a copy of memory, measured in the run). Operations are those of the network's formulas; a CPU takes fewer
for its convolutions. A row that fails, as it needs too much memory, is left out and named at the end.
Modes: inference and train on random images that are on the device; input and end_to_end on the config's data
(`--config.data.root`), the latter with the share of the time for which the device waits for its input. What has been
shown before comes from memory (`--config.data.cache_mb`), so that a first pass is slower: the row says how many were.
Of an ensemble it is one member, of a training in stages the first.
"""

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxdefect import config as config_lib
from jaxdefect.model_config import Dtype
from jaxdefect.types import InputError
from launch import cli

if TYPE_CHECKING:
    from jaxdefect.benchmark import modes

_MODE = flags.DEFINE_enum("mode", "inference", ["inference", "train", "input", "end_to_end"], "What to time.")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", None, "Images per call; the config's if not given.")
_SIZES = flags.DEFINE_list("sizes", None, "Image sizes as HEIGHTxWIDTH; the config's if not given.")
_DTYPES = flags.DEFINE_list("dtypes", None, "Of the computation: float32, tf32, bfloat16; the config's if not given.")
_DEVICES = flags.DEFINE_list(
    "devices", None, "Numbers of local devices that share a batch, as 1,2,4; if not given as many as divide it."
)
_REPETITIONS = flags.DEFINE_integer(
    "repetitions",
    20,
    "Timed calls of each; of input and end_to_end at least five times what is read ahead.",
    lower_bound=2,
)
_LAYERS = flags.DEFINE_bool("layers", False, "Time every layer by itself too.")
_OUT = flags.DEFINE_string("out", None, "JSON file for all figures.")
_PLOT = flags.DEFINE_string("plot", None, "Picture of time and memory over the size of a batch.")
_COMPARE = flags.DEFINE_list("compare", None, "Two files of --out: print the ratios, and time nothing.")


def main(argv: Sequence[str]) -> int:
    """Times the rows, prints the table, writes the files; the exit code is 1 where a row had to be left out."""
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # compiling is one of the figures
    import jax  # not above: decoding processes import this file, and need no JAX

    from jaxdefect.benchmark import environment, modes, results
    from jaxdefect.reports import files, plots

    del argv
    console = cli.console()
    if _COMPARE.value is not None:
        if len(_COMPARE.value) != 2:
            raise InputError(f"--compare={','.join(_COMPARE.value)}: two files are wanted, --compare A.json B.json")
        console.print(results.comparison(*(results.load(Path(name)) for name in _COMPARE.value)))
        return 0
    config = cli.config()
    settings = _settings(config)
    for setting in settings:
        modes.check(config, setting)
    for name in filter(None, (_OUT.value, _PLOT.value)):
        if Path(name).is_dir():
            raise InputError(f"{name}: is a folder; name a file in it")
        if not Path(name).resolve().parent.is_dir():
            raise InputError(f"{name}: there is no such folder to write it in; make it first")
    found = environment.describe()
    rows, left_out = [], []
    for setting in settings:
        try:
            rows.append(modes.run(config, setting, repetitions=_REPETITIONS.value, with_layers=_LAYERS.value))
        except (jax.errors.JaxRuntimeError, MemoryError) as error:  # above all of too little memory: others may fit
            reason = str(error).partition("\n")[0] or "memory ended"
            left_out.append(f"left out: {setting}: {reason}")
            continue
        if rows[-1].get("layers"):
            console.print(results.layer_table(rows[-1]))
        if _OUT.value:  # after every row, as the next one may end the process
            results.save(Path(_OUT.value), {"environment": found, "config": config_lib.to_dict(config), "rows": rows})
    if rows:
        console.print(results.table(rows, title=f"{found['devices']} x {found['device']} ({found['processor']})"))
    if rows and _PLOT.value:
        files.write(Path(_PLOT.value), plots.to_png(results.plot(rows)))
    for line in left_out:
        console.print(line, soft_wrap=True)
    return 1 if left_out else 0


def _settings(config: config_lib.Config) -> list["modes.Setting"]:
    """The rows that the flags ask for.

    Raises:
      InputError: a flag that says nothing of the mode, an unknown dtype, or nothing to time.
    """
    from jaxdefect.benchmark import modes  # not above, as in `main`

    sizes = [cli.size(text, flag="sizes") for text in _SIZES.value or []] or [config.data.image_size]
    batch_sizes = cli.integers(_BATCH_SIZES) or (config.training.batch_size,)
    named = [config.model.dtype] if _DTYPES.value is None else _DTYPES.value
    if unknown := set(named) - set(modes.DTYPES):
        raise InputError(f"--dtypes={','.join(sorted(unknown))}: must be among {', '.join(modes.DTYPES)}")
    dtypes: list[Dtype] = [dtype for dtype in modes.DTYPES if dtype in named]
    unused = {"input": {"layers": _LAYERS, "dtypes": _DTYPES, "devices": _DEVICES}, "end_to_end": {"layers": _LAYERS}}
    for name, flag in unused.get(_MODE.value, {}).items():
        if flag.value:
            raise InputError(f"--{name} says nothing of --mode={_MODE.value}; leave it out")
    settings = [
        modes.Setting(_MODE.value, batch_size, size, dtype, num_devices)
        for size, batch_size, dtype, num_devices in itertools.product(
            sizes, batch_sizes, dtypes, cli.integers(_DEVICES) or (None,)
        )
    ]
    if not settings:
        raise InputError("--dtypes, --sizes and --batch_sizes: nothing is left to time; give at least one of each")
    return settings


if __name__ == "__main__":
    is_comparing = any(argument.partition("=")[0] in ("--compare", "-compare") for argument in sys.argv[1:])
    cli.run(main, has_config=not is_comparing, lists=("compare",))
