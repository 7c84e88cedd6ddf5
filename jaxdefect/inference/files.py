"""Which images a folder, a file or a pattern means, and names for their results that cannot collide."""

import glob
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from jaxdefect.data.images import IMAGE_SUFFIXES, SYSTEM_FOLDERS, is_hidden
from jaxdefect.types import InputError

MAP_FOLDER, OVERLAY_FOLDER = "maps", "overlays"
_RECORD_FOLDER = "results"
RESULT_FOLDERS = (MAP_FOLDER, OVERLAY_FOLDER, _RECORD_FOLDER)


def find_images(source: str | os.PathLike, *, out: Path) -> dict[str, Path]:
    """The images that `source` means, sorted, each under an id of its own.

    The id is the path below the folder searched, with its suffix and with "/" between its parts ("a/x.png"): no two
    images share one, and an image keeps its id whatever else stands in the folder. Hidden files are passed over, as are
    folders of the system (a network drive's thumbnails) and the results of an earlier run in `out`.

    Args:
      source: a folder (searched with its subfolders for the known image suffixes), one file, or a pattern with
        `*`, `?`, `[...]` and `**`; what exists under that very name is not taken for a pattern.
      out: the folder for the results.

    Returns:
      Paths by id.

    Raises:
      InputError: nothing is there, no image is in it, or it is the folder for the results itself.
    """
    text = os.fspath(source)
    if os.path.isdir(text):
        if os.path.realpath(text) == os.path.realpath(out):
            raise InputError(f"{text}: holds the images and cannot take the results too; give another output folder")
        root, paths = text, _below(text)
    elif os.path.exists(text):
        root, paths = os.path.dirname(text), [text]
    elif glob.has_magic(text):
        root, paths = _fixed_part(text), _matching(text)
    else:
        raise InputError(f"{text or '(empty)'}: no such file or folder; give a folder, an image, or a quoted pattern")
    if not paths:
        raise InputError(f"{text}: no image there; looked for files ending in {', '.join(IMAGE_SUFFIXES)}")
    images = _by_id(paths, root=root, out=out)
    if not images:
        raise InputError(f"{text}: holds only results of an earlier run in {out}; give the images themselves")
    return images


def images_below(folder: Path, *, out: Path, known: Collection[str]) -> dict[str, Path]:
    """`find_images` of a folder that may hold none yet, without those of the `known` ids.

    Raises:
      InputError: there is no such folder, or it is the one for the results.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder to watch; make it, or name the one that images are written into")
    if os.path.realpath(folder) == os.path.realpath(out):
        raise InputError(f"{folder}: holds the images and cannot take the results too; give another output folder")
    return _by_id(_below(os.fspath(folder), known=known), root=os.fspath(folder), out=out)


def _by_id(paths: Iterable[str], *, root: str, out: Path) -> dict[str, Path]:
    results = tuple(os.path.realpath(out / name) + os.sep for name in (MAP_FOLDER, OVERLAY_FOLDER))
    names = {}
    for path in sorted(paths):
        folder, name = os.path.split(path)
        names.setdefault(folder, []).append(name)
    images = {}
    for folder, inside in names.items():
        if os.path.join(os.path.realpath(folder), "").startswith(results):
            continue
        prefix = _prefix(folder, root)
        images |= {f"{prefix}{name}": os.path.join(folder, name) for name in inside}
    return {image_id: Path(path) for image_id, path in sorted(images.items())}


def _prefix(folder: str, root: str) -> str:
    """What the ids of a folder's images begin with."""
    relative = Path(os.path.relpath(folder or os.curdir, root or os.curdir)).as_posix()
    return "" if relative == "." else f"{relative}/"


def result_path(folder: str, image_id: str, suffix: str) -> str:
    """Where an image's result goes, below the output folder: the whole id with `suffix` appended.

    The image's own suffix stays in the name, so that the results of x.png and x.jpg are kept apart.
    """
    return f"{folder}/{image_id}{suffix}"


def record_path(image_id: str) -> str:
    """Where an image's own record goes in a watched folder's results, as `result_path`."""
    return result_path(_RECORD_FOLDER, image_id, ".json")


def _below(root: str, *, known: Collection[str] = frozenset()) -> list[str]:
    paths = []
    for folder, subfolders, names in os.walk(root, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not is_hidden(name)]
        prefix = _prefix(folder, root)
        # First of all, as a watched folder is listed again and again and may hold very many that were judged before.
        new = [name for name in names if f"{prefix}{name}" not in known]
        paths += [os.path.join(folder, name) for name in new if _is_image(name) and not is_hidden(name)]
    return paths


def _matching(pattern: str) -> list[str]:
    if os.pardir in pattern[len(_fixed_part(pattern)) :].split(os.sep):  # would lead out of the folder of the results
        raise InputError(f"{pattern}: '..' after a wildcard; write the pattern without it")
    paths = [path for path in glob.iglob(pattern, recursive=True) if _is_image(path) and os.path.isfile(path)]
    unwanted = SYSTEM_FOLDERS.difference(pattern.split(os.sep))
    return [path for path in paths if unwanted.isdisjoint(path.split(os.sep))]


def _fixed_part(pattern: str) -> str:
    """The leading folders of a pattern that hold no wildcard; "" for the current folder."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _refuse(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):  # a folder that went while the others were listed
        return
    raise InputError(f"{error.filename}: this folder cannot be read ({error.strerror}); check its permissions")
