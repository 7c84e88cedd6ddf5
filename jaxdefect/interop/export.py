"""Exports a run: its networks as graph files of another runtime, each checked there, and a sidecar beside them.

The graphs compute in float32 and hold weights only. Whatever decides (thresholds, calibration, classes) stands in the
sidecar, `model.SUFFIX.json`. An ensemble is one graph with the outputs of all members; of a run with a classifier there
are two graphs. docs/export.md describes the files.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxdefect
from jaxdefect import config as config_lib
from jaxdefect.inference.exported import CLASSIFIER, MODEL, SIDECAR_VERSION, sidecar_path
from jaxdefect.interop import checking, runtimes, sources
from jaxdefect.interop.checking import Check
from jaxdefect.interop.runtimes import Format
from jaxdefect.interop.sources import Part, Source
from jaxdefect.types import InputError

_MEANINGS = {
    "probability": "map of the defects in [0, 1]",
    "classes": "logits; softmax gives probabilities, the first is 'no defect', then the classes in order",
}


class Export(NamedTuple):
    """What came of it. `graphs`: the files by part, empty where a check failed; `images`: what was compared on."""

    graphs: dict[str, Path]
    checks: dict[str, Check]
    images: str


def export(
    workdir: Path,
    *,
    kind: Format,
    out: Path,
    checkpoint: str | None = None,
    images: str | None = None,
    num_images: int = 8,
    batch: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda"),
) -> Export:
    """Writes the networks of a run in a format, and compares each with the original in the format's own runtime.

    Where they differ by more than 1e-4 (`checking.Check`), nothing is left of it. An earlier export of the same format
    in `out` is replaced only by one that passed.

    Args:
      workdir: the run's directory.
      kind: the format.
      out: the folder for the files, made where it is missing.
      checkpoint: "best", "last" or a step; None: as the run's config says.
      images: what to compare on, as `sources.find_check_images` has it.
      num_images: at most so many of them.
      batch: the number of images that the graph takes at a time; None: any.
      platforms: what a StableHLO file is to run on.

    Raises:
      InputError: the format's packages are missing; a platform as `runtimes.check_platforms` says; not a run; no such
        checkpoint or image; an operation that the format lacks; a folder that cannot be written.
    """
    runtimes.check_installed(kind)
    runtimes.check_platforms(platforms)
    checking.cpu()
    source = sources.load(workdir, checkpoint=checkpoint)
    pixels, description = sources.find_check_images(workdir, source.config, images, out=out, num_images=num_images)
    suffix = runtimes.RUNTIMES[kind].suffix
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".unchecked-") as folder:
            written = {name: Path(folder) / f"{name}{suffix}" for name in source.parts}
            checks = {}
            for name, part in source.parts.items():
                is_resized = name == MODEL and source.config.data.fit == "resize"
                chosen = [sources.fit_image(image, part.network, is_resized=is_resized) for image in pixels]
                runtimes.RUNTIMES[kind].write(part.network, written[name], batch, platforms)
                run = runtimes.RUNTIMES[kind].open(written[name])
                checks[name] = checking.check(part.network, run, np.stack(chosen), batch=batch)
            if not all(check.is_passed for check in checks.values()):
                return Export({}, checks, description)
            sidecar = _sidecar(source, Path(folder), kind=kind, batch=batch)
            sidecar["check"] = {"images": description, "tolerance": checking.TOLERANCE}
            sidecar["check"] |= {name: check._asdict() for name, check in checks.items()}
            _publish(Path(folder), out, sidecar, suffix=suffix)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
    return Export({name: out / path.name for name, path in written.items()}, checks, description)


def _sidecar(source: Source, folder: Path, *, kind: Format, batch: int | None) -> dict[str, Any]:
    data, model = source.config.data, source.config.model
    meanings = _MEANINGS | {"decision": _meaning_of_decision(source.decision)}
    return {
        "sidecar_version": SIDECAR_VERSION,
        "format": kind,
        "versions": {"jaxdefect": jaxdefect.__version__, **runtimes.versions(kind)},
        "input": {
            "name": "image",
            "dtype": "float32",
            "layout": "NHWC",
            "channels": "gray" if data.num_channels == 1 else "RGB",
            "value_range": [0.0, 1.0],
            "normalisation": "pixel / largest value of its type (255, 65535); any other is part of the graph",
            "fit": "tiles" if (source.decision["calibration"] or {}).get("tiling") else data.fit,
        },
        "map": {"cell_px": model.output_stride, "alignment_stride_px": model.alignment_stride},
        "graphs": {
            name: _describe(name, part, folder, batch=batch, meanings=meanings) for name, part in source.parts.items()
        },
        "checkpoint_step": source.parts[MODEL].checkpoint_step,
        **source.decision,
        "config": config_lib.to_dict(source.config),
    }


def _meaning_of_decision(decision: Mapping[str, Any]) -> str:
    """How what `sources` says of the decision is applied to the graph's outputs, for other software."""
    if decision["classes"]:
        text = "logits by class; sigmoid(decision[:, k]) >= class_thresholds[k]: a defect of classes[k]"
        is_joint = (decision["calibration"] or {}).get("images") is not None
        return f"{text}; of the whole image jaxdefect's joined score decides" if is_joint else text
    calibration = decision["calibration"] or {}
    score = "sigmoid(decision)"
    if calibration.get("logistic") is not None:
        score = "not this, but sigmoid(a * maximum + b * mean + c) of the map, with calibration.logistic = a, b, c,"
    if calibration.get("score_map") is not None:
        score += " through calibration.score_map"
    three_way = "" if calibration.get("reject_threshold") is None else ", below calibration.reject_threshold: inspect"
    return f"logit of the image's score; {score} >= threshold: defective{three_way}"


def _describe(name: str, part: Part, folder: Path, *, batch: int | None, meanings: Mapping[str, str]) -> dict[str, Any]:
    """What the sidecar says of one graph, its files with their SHA-256."""
    first = "batch" if batch is None else batch
    shape = part.network.image_shape
    outputs = jax.eval_shape(part.network, jax.ShapeDtypeStruct((1, *shape), np.float32))
    files = sorted(path for path in folder.iterdir() if path.stem == name)
    return {
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "input_shape": [first, *shape],
        "outputs": {
            output: {"shape": [first, *value.shape[1:]], "meaning": meanings[output]}
            for output, value in outputs.items()
        },
        "classes": list(part.classes),
        "checkpoint_step": part.checkpoint_step,
    }


def _publish(folder: Path, out: Path, sidecar: dict[str, Any], *, suffix: str) -> None:
    """Moves the checked files to where they belong; while they are being replaced there is no sidecar."""
    target = sidecar_path(out / f"{MODEL}{suffix}")
    target.unlink(missing_ok=True)
    (out / f"{CLASSIFIER}{suffix}").unlink(missing_ok=True)
    for path in list(folder.iterdir()):
        os.replace(path, out / path.name)
    text = folder / target.name
    text.write_text(json.dumps(sidecar, indent=2) + "\n")
    os.replace(text, target)
