"""What all launchers share: `--config` with overrides, and errors of the user's as one line without a traceback."""

import contextlib
import dataclasses
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxdefect import config as config_lib
from jaxdefect.types import InputError


def run(main: Callable[[Sequence[str]], int | None], *, has_config: bool = False) -> None:
    """Runs `main(argv)` under absl; with `has_config`, `--config=FILE[:ARGUMENT]` and `--config.KEY=VALUE` are flags.

    Exit code: what `main` returns; 2 after an `InputError` or a wrong flag.
    """
    try:
        if has_config:
            _define_config(sys.argv)
        app.run(_guard(main), flags_parser=_parse)
    except InputError as error:
        _fail(error)


def _guard(main: Callable[[Sequence[str]], int | None]) -> Callable[[Sequence[str]], int | None]:
    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            _fail(InputError(f"unexpected argument {argv[1]!r}; every setting is a flag, as --workdir=DIR"))
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # of the libraries; --verbosity=0 shows all they say
        try:
            return main(argv)
        except InputError as error:
            _fail(error)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 128 + signal.SIGINT

    return guarded


def _define_config(argv: Sequence[str]) -> None:
    """Defines the flags of the config that `--config` names, completed with all defaults."""
    rest, source = [], None
    arguments = iter(argv)
    for argument in arguments:
        name, has_value, value = argument.partition("=")
        if name in ("--config", "-config"):
            source = value if has_value else next(arguments, None)
        else:
            rest.append(argument)
    sys.argv = rest  # config_flags looks for the overrides there
    if source is None:
        if any(argument in ("--help", "-h", "--helpfull", "--helpshort") for argument in argv):
            return
        raise InputError("--config=FILE is missing; e.g. --config=configs/quickstart.py")
    with _override_errors():
        config_flags.DEFINE_config_dict("config", read_config(source))


def _parse(argv: Sequence[str]) -> list[str]:
    with _override_errors():
        try:
            return flags.FLAGS(list(argv))
        except flags.Error as error:
            raise InputError(f"{error} (--help lists the flags)") from error


@contextlib.contextmanager
def _override_errors() -> Iterator[None]:
    """Turns ml_collections' complaints about an override (unknown key: it names the nearest; wrong type) into ours."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"an override of the config: {' '.join(str(error).split())}") from error


def config() -> config_lib.Config:
    """The checked config: the file that `--config` names, all defaults, and the overrides."""
    return config_lib.from_dict(flags.FLAGS.config.to_dict())


def required(flag: flags.FlagHolder[str | None]) -> str:
    """The value of a flag that must be given."""
    if not flag.value:
        raise InputError(f"--{flag.name}=… is missing: {flags.FLAGS[flag.name].help}")
    return flag.value


def read_config(source: str) -> ConfigDict:
    """The config file `FILE` or `FILE:ARGUMENT` (what `get_config` is called with), all defaults filled in."""
    name, has_argument, argument = source.partition(":")
    path = Path(name)
    if not path.is_file():
        choices = ", ".join(
            sorted(str(p) for p in (path.parent if path.parent.is_dir() else Path("configs")).glob("*.py"))
        )
        raise InputError(f"--config={source}: no such file; there are: {choices or 'none'}")
    try:
        namespace = runpy.run_path(str(path))
    except SyntaxError as error:
        raise InputError(f"--config={source}: {error.filename}, line {error.lineno}: {error.msg}") from error
    if "get_config" not in namespace:
        raise InputError(f"--config={source}: {path} defines no get_config()")
    if not has_argument:
        values = namespace["get_config"]()
    else:
        try:
            values = namespace["get_config"](argument)
        except (TypeError, ValueError) as error:  # it takes no argument, or not this one
            raise InputError(f"--config={source}: {error}") from error
    return ConfigDict(dataclasses.asdict(config_lib.from_dict(ConfigDict(values).to_dict())))


def _fail(error: InputError) -> None:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)
