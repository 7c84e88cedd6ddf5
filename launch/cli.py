"""What all launchers share: `--config` with overrides, and errors of the user's as one line without a traceback.

`--config.model.architecture=NAME` with another architecture than the config file's drops the file's model settings: the
new architecture starts from its own defaults, and `--config.model.KEY=VALUE` overrides those. The file's other sections
stay; where they do not suit the new architecture, the error says what to override.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from rich.console import Console

from jaxdefect import config as config_lib
from jaxdefect import processor, user_files
from jaxdefect.types import InputError
from launch import memory

if TYPE_CHECKING:  # decoding processes import this file, and need no JAX
    from jaxdefect.inference.predictor import Predictor

_ARCHITECTURE = "config.model.architecture"
_TABLE_COLUMNS = 160


def run(
    main: Callable[[Sequence[str]], int | None],
    *,
    has_config: bool = False,
    lists: Collection[str] = (),
) -> None:
    """Runs `main(argv)` under absl; with `has_config`, `--config=FILE[:ARGUMENT]` and `--config.KEY=VALUE` are flags.

    The flags named in `lists` take their values as `--runs A B` besides absl's `--runs=A,B`.
    Exit code: what `main` returns; 2 after an `InputError` or a wrong flag.
    """
    spec = sys.modules["__main__"].__spec__
    if spec is not None and spec.name in sys.orig_argv:  # by python -m, not inside another program
        memory.start_with_settings()  # the benchmarks; a launcher already has
    sys.argv = _join(sys.argv, lists)
    _keep_compiled_programs()
    try:
        if has_config:
            _define_config(sys.argv)
        app.run(_guard(main), flags_parser=_parse)
    except InputError as error:
        _fail(error)


def _join(argv: Sequence[str], lists: Collection[str]) -> list[str]:
    """Arguments with `--flag A B` as `--flag=A,B` for the flags in `lists`."""
    joined: list[str] = []
    flag, values = "", []
    for argument in [*argv, "--"]:
        if flag and not argument.startswith("-"):
            values.append(argument)
            continue
        if flag:
            joined.append(f"{flag}={','.join(values)}")
        name, has_value, value = argument.partition("=")
        is_list = name.startswith("-") and name.lstrip("-") in lists
        flag, values = (name, [value] if has_value else []) if is_list else ("", [])
        if not flag:
            joined.append(argument)
    return joined[:-1]


def _keep_compiled_programs() -> None:
    """Keeps what is compiled, and training steps as traced, in a folder of the user's, so that the next start need not;
    set by environment variables, which JAX reads when it is imported, and which a user who set them keeps.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # A program for one processor can fail on another that shares the home folder.
    kind = hashlib.sha256(processor.features().encode()).hexdigest()[:12]
    programs = os.path.join(cache, "jaxdefect", f"xla-{kind}")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", programs)
    os.environ.setdefault("JAXDEFECT_TRACED_DIR", os.path.join(programs, "traced"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(4 * 2**30))  # bytes; what was not used longest goes


def _guard(main: Callable[[Sequence[str]], int | None]) -> Callable[[Sequence[str]], int | None]:
    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            _fail(InputError(f"unexpected argument {argv[1]!r}; every setting is a flag, as --workdir=DIR"))
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # of the libraries; --verbosity=0 shows all they say
        try:
            if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of `launch`, while it was imported
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return main(argv)
        except InputError as error:
            _fail(error)
        except (MemoryError, RuntimeError) as error:
            # JAX's own error is a RuntimeError; JAX itself is not imported here.
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            (first, *_) = str(error).splitlines() or [""]
            _fail(InputError(f"memory is at its end: {first}; a smaller batch or smaller images want less"))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 128 + signal.SIGINT

    return guarded


def _define_config(argv: Sequence[str]) -> None:
    """Defines the flags of the config that `--config` names, completed with all defaults."""
    source, rest = _take(argv, "config")
    architecture, _ = _take(rest, _ARCHITECTURE)
    sys.argv = rest  # config_flags looks for the overrides there
    if any(argument in ("--help", "-h", "--helpfull", "--helpshort") for argument in argv):
        text = "FILE or FILE:ARGUMENT; --config.KEY=VALUE overrides a setting of it."
        flags.DEFINE(flags.ArgumentParser(), "config", None, text, module_name=sys.argv[0])  # as if main defined it
        return
    if source is None:
        raise InputError("--config=FILE is missing; e.g. --config=configs/quickstart.py")
    values = read_config(source, architecture=architecture)
    _check_overrides(values, rest)
    with _override_errors():
        config_flags.DEFINE_config_dict("config", values)


def _check_overrides(values: ConfigDict, argv: Sequence[str]) -> None:
    """Raises InputError where an override names no setting, with the nearest one."""
    for argument in argv:
        flag, *keys = argument.partition("=")[0].split(".")
        section, path = values, "config"
        for key in keys if flag in ("--config", "-config") else ():
            if not isinstance(section, ConfigDict):  # a part of a value, which ml_collections judges
                break
            if key not in section:
                (nearest,) = difflib.get_close_matches(key, section, 1) or [""]
                hint = f"did you mean {path}.{nearest}?" if nearest else f"{path} has {', '.join(sorted(section))}"
                raise InputError(f"--{path}.{key}: no such setting; {hint}")
            section, path = section[key], f"{path}.{key}"


def _take(argv: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The last value given as --flag=value or --flag value, None if there is none, and the other arguments."""
    found, rest = None, []
    arguments = iter(argv)
    for argument in arguments:
        name, has_value, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            found = value if has_value else next(arguments, None)
        else:
            rest.append(argument)
    return found, rest


def _parse(argv: Sequence[str]) -> list[str]:
    with _override_errors():
        try:
            return flags.FLAGS(list(argv))
        except flags.Error as error:
            raise InputError(f"{error} (--help lists the flags)") from error
        except SystemExit:  # after --help; absl ends with 1
            raise SystemExit(0) from None


@contextlib.contextmanager
def _override_errors() -> Iterator[None]:
    """Turns ml_collections' complaints about an override, as of a wrong type, into ours."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"an override of the config: {' '.join(str(error).split())}") from error


def console() -> Console:
    """Standard output for results: as wide as a terminal; in a file or pipe tables are whole (Rich cuts at 80).

    Texts stand as they are, as names of classes, labels and folders may look like Rich's markup.
    """
    is_without_width = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    width = _TABLE_COLUMNS if is_without_width else None
    return Console(width=width, markup=False, highlight=False, emoji=False)


def config() -> config_lib.Config:
    """The checked config: the file that `--config` names, all defaults, and the overrides."""
    return config_lib.from_dict(flags.FLAGS.config.to_dict())


def required(flag: flags.FlagHolder[str | None]) -> str:
    """The value of a flag that must be given."""
    if not flag.value:
        raise InputError(f"--{flag.name}=… is missing: {flags.FLAGS[flag.name].help}")
    return flag.value


def integers(flag: flags.FlagHolder[list[str] | None]) -> tuple[int, ...] | None:
    """The value of a flag of numbers, as --seeds=0,1; None where it is not given."""
    if flag.value is None:
        return None
    try:
        return tuple(int(part) for part in flag.value)
    except ValueError as error:
        raise InputError(f"--{flag.name}={','.join(flag.value)}: whole numbers wanted, as --{flag.name}=0,1") from error


def size(text: str, *, flag: str, otherwise: str = "") -> tuple[int, int]:
    """Height and width from "HEIGHTxWIDTH", the value of a flag that may also be `otherwise`."""
    sides = re.fullmatch(r"(\d+)x(\d+)", text)
    if sides is None:
        choices = f"{otherwise} or HEIGHTxWIDTH" if otherwise else "HEIGHTxWIDTH"
        raise InputError(f"--{flag}={text}: must be {choices}, as --{flag}=1408x512")
    return int(sides[1]), int(sides[2])


def tile_size(tile: str | None) -> tuple[int, int] | None:
    """Height and width from the value of --tile; None where it is not given, or auto."""
    return None if tile in (None, "auto") else size(tile, flag="tile", otherwise="auto")


def in_tiles(predictor: "Predictor", *, tile: str | None, overlap: float | None) -> "Predictor":
    """The predictor with the tiles that --tile and --overlap ask for; as it is where neither is given."""
    if tile is None and overlap is None:
        return predictor
    if tile is None and predictor.config.data.fit != "patches":
        raise InputError("--overlap: of tiles; add --tile=auto or --tile=HEIGHTxWIDTH")
    return predictor.in_tiles(tile_size(tile), overlap=overlap)


def read_config(source: str, *, architecture: str | None = None) -> ConfigDict:
    """The config file `FILE` or `FILE:ARGUMENT` (what `get_config` is called with), all defaults filled in.

    Only the overridden config is checked as a whole, by `config`: an override may mend what the file alone lacks.

    Args:
      source: the file.
      architecture: another than the file's drops the file's model settings for the defaults of this one.

    Raises:
      InputError: no such file, argument or architecture; an error in the file; or a setting that does not exist or is
        of another type.
    """
    config = config_lib.complete(_read_values(source))
    if architecture not in (None, config.model.architecture):
        config = dataclasses.replace(config, model=config_lib.complete({"model": {"architecture": architecture}}).model)
    return ConfigDict(dataclasses.asdict(config))


def _read_values(source: str) -> dict[str, Any]:
    """What the config file sets."""
    name, has_argument, argument = source.partition(":")
    path = Path(name)
    if not path.is_file():
        choices = ", ".join(
            sorted(str(p) for p in (path.parent if path.parent.is_dir() else Path("configs")).glob("*.py"))
        )
        raise InputError(f"--config={source}: no such file; there are: {choices or 'none'}")
    with user_files.errors_of(path, flag=f"--config={source}"):
        namespace = runpy.run_path(str(path))
        if "get_config" not in namespace:
            raise InputError(f"--config={source}: {path} defines no get_config()")
        if not has_argument:
            values = namespace["get_config"]()
        else:
            try:
                values = namespace["get_config"](argument)
            except (TypeError, ValueError) as error:  # it takes no argument, or not this one
                if isinstance(error, TypeError) and error.__traceback__ and error.__traceback__.tb_next:
                    raise  # from within
                raise InputError(f"--config={source}: {error}") from error
        if isinstance(values, ConfigDict):
            values = values.to_dict()  # raises of a placeholder that is left
    if not isinstance(values, dict):
        raise InputError(f"--config={source}: get_config() must return a ConfigDict, not {values!r:.60}")
    return ConfigDict(values).to_dict()


def _fail(error: InputError) -> None:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)
