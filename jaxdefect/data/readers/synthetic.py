"""The procedural data set: written where it does not exist yet, then read like a real one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxdefect.config import DataConfig
from jaxdefect.data import synthetic
from jaxdefect.data.readers import folder, severstal
from jaxdefect.types import InputError, Sample


def read(config: DataConfig) -> list[Sample]:
    """Reads the data set of `config.synthetic` at `config.root`, and writes it first if there is none.

    Raises:
      InputError: no `root`, one that cannot be written to, or one that holds something else: other files, or a
        synthetic data set of other parameters (the text names the differences).
    """
    if not config.root:
        raise InputError("config.data.root is empty: name the folder that the synthetic data set is to lie in")
    root, parameters = Path(config.root), dataclasses.asdict(config.synthetic)
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        synthetic.write(root, **parameters)
    else:
        _check_same(root, synthetic.describe(**parameters))
    return {"severstal": severstal.read, "folder": folder.read}[config.synthetic.layout](root)


def _check_same(root: Path, wanted: dict[str, Any]) -> None:
    path = root / synthetic.PARAMETERS_FILE
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{root}: not a synthetic data set (it has no {path.name}); choose another config.data.root, "
            'or set config.data.reader to "severstal" or "folder" to read what is there'
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete the folder to have it written anew") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not an object of parameters; delete the folder to have it written anew")
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if names:
        lines = "; ".join(f"{name} is {found.get(name)!r}, wanted {wanted.get(name)!r}" for name in names)
        raise InputError(
            f"{root}: holds a synthetic data set of other parameters ({lines}); delete the folder to have it written "
            "anew, choose another config.data.root, or set config.data.synthetic to what is there"
        )
