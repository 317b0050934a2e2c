"""The encoder as a library: compiled from its source once per machine, and kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from casualty_ner.errors import UnsupportedError, first_line
from casualty_ner.machine import cache_folder, cpu_flags

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("encoder.cpp")
UNITS = {
    "avx512f": "-mavx512f",
    "avx512bw": "-mavx512bw",
    "avx512dq": "-mavx512dq",
    "avx512vl": "-mavx512vl",
    "avx512vbmi": "-mavx512vbmi",
    "avx512_bf16": "-mavx512bf16",
    "amx_tile": "-mamx-tile",
    "amx_bf16": "-mamx-bf16",
}
"""What the processor must have, as Linux calls it, and the compiler's flag for it."""
FLAGS = ("-std=c++17", "-O3", "-march=x86-64-v3", *UNITS.values(), "-shared", "-fPIC")
INSTEAD = "use runtime='openvino' or 'torch'"


class Shape(ctypes.Structure):
    """The network's sizes, as ``encoder_new`` takes them."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("layers", "width", "heads", "inner", "classes", "words", "positions")),
        ("epsilon", ctypes.c_float),
    ]


@cache
def library() -> ctypes.CDLL:
    """The library, ready to run in this process; the first time on a machine it is compiled, which takes some seconds.

    Raises:
        UnsupportedError: The processor, the system or the compiler lacks something.
    """
    missing = [unit for unit in UNITS if unit not in cpu_flags()]
    if missing:
        raise UnsupportedError(f"runtime 'native' needs a processor with AMX; this one lacks {', '.join(missing)}; {INSTEAD}")
    loaded = _load()
    loaded.encoder_new.restype = ctypes.c_void_p
    loaded.encoder_new.argtypes = [ctypes.POINTER(Shape), ctypes.POINTER(ctypes.c_void_p)]
    loaded.encoder_free.restype = None
    loaded.encoder_free.argtypes = [ctypes.c_void_p]
    loaded.encoder_run.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_int32, ctypes.c_void_p]
    refused = loaded.encoder_permit()
    if refused:
        raise UnsupportedError(
            f"runtime 'native': Linux does not give this process the AMX registers ({os.strerror(refused)}); "
            f"a kernel from 5.16 on is needed, and a sandbox must allow arch_prctl; {INSTEAD}"
        )
    return loaded


def _load() -> ctypes.CDLL:
    compiler = _compiler()
    source = SOURCE.read_bytes()
    digest = hashlib.sha256(source + " ".join([*compiler, *FLAGS]).encode()).hexdigest()[:16]
    kept = cache_folder() / f"native-{digest}.so"
    if kept.is_file():
        try:
            return ctypes.CDLL(str(kept))
        except OSError as error:  # damaged, or of another system that shares the folder
            logger.warning("%s: cannot be loaded (%s); compiling it again", kept, first_line(error))
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        where = tempfile.TemporaryDirectory(prefix=".native-", dir=kept.parent)
    except OSError as error:
        logger.warning(
            "%s: cannot be written (%s), so the encoder is compiled at every start; set CASUALTY_NER_CACHE", kept.parent, error
        )
        where = tempfile.TemporaryDirectory(prefix="casualty-ner-native-")
    with where as folder:
        made = Path(folder) / kept.name
        _compile(compiler, made)
        if made.parent.parent == kept.parent:
            made.replace(kept)  # whole or not at all, whoever else is compiling
            made = kept
        try:
            return ctypes.CDLL(str(made))
        except OSError as error:
            raise UnsupportedError(f"runtime 'native': {made} cannot be loaded: {first_line(error)}; {INSTEAD}") from None


def _compiler() -> list[str]:
    """The command of a C++ compiler: ``CXX`` where it is set, else what is installed."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in [chosen] if chosen else [["c++"], ["g++"], ["clang++"]]:
        if path := shutil.which(command[0]):
            return [path, *command[1:]]
    raise UnsupportedError(
        f"runtime 'native' needs a C++ compiler to compile it once, and there is {'no ' + chosen[0] if chosen else 'none'}; "
        f"install g++ (from 11 on) or set CXX, or {INSTEAD}"
    )


def _compile(compiler: list[str], target: Path) -> None:
    command = [*compiler, *FLAGS, str(SOURCE), "-o", str(target)]
    logger.info("compiling runtime native, once for this machine: %s", shlex.join(command))
    try:
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - the user's own compiler
    except OSError as error:
        raise UnsupportedError(
            f"runtime 'native': {compiler[0]} cannot be run: {error.strerror}; set CXX, or {INSTEAD}"
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [f"exit code {done.returncode}"]
        raise UnsupportedError(
            f"runtime 'native': {compiler[0]} cannot compile it: {lines[0].strip()}; g++ from 11 or clang++ from 12 on is needed, or {INSTEAD}"
        )
