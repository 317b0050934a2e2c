"""Engines that run the network: windows of token ids in, scores of every token out.

========  ==========================  =====================================================================
runtime   precisions                  needs
========  ==========================  =====================================================================
native    bfloat16                    a CPU with AMX, Linux and a C++ compiler; BERT encoders; the fastest where it runs
torch     float32, bfloat16, float16  nothing more; the only one that runs on a GPU, and float16 only there
openvino  float32, bfloat16, int8     ``pip install 'casualty-ner[openvino]'``; fast on any x86 CPU
onnx      float32, int8               ``pip install 'casualty-ner[onnx]'``
========  ==========================  =====================================================================

``auto`` takes native on a CPU where machine and model allow it, else OpenVINO where it is installed, else torch; and of the
precisions float16 on a GPU, bfloat16 where the processor has units for it, else float32. float16 rounds an eighth as much as
bfloat16, and a GPU's matrix units are as fast in either; a network whose numbers are too large for it is an error that says so.
int8 changes the model more than rounding does, so it is only ever run from an export, whose
F1 was measured (`casualty_ner.export`).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from casualty_ner.errors import CheckpointError
from casualty_ner.machine import has_bfloat16

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AUTO = "auto"
PRECISIONS = {
    "native": ("bfloat16",),
    "torch": ("float32", "bfloat16", "float16"),
    "openvino": ("float32", "bfloat16", "int8"),
    "onnx": ("float32", "int8"),
}
"""The runtimes, and what each can compute in."""

EXPORTABLE = ("openvino", "onnx")
"""Those that a checkpoint can be exported for; the others read it as it is."""

_PACKAGES = {"native": ("numpy",), "torch": ("torch",), "openvino": ("openvino",), "onnx": ("onnxruntime", "onnxscript")}


class Runtime(Protocol):
    """An engine with a network loaded. Each batch goes through ``prepare``, ``run`` and ``finish``, in any thread."""

    name: str
    """Runtime and precision, such as ``openvino-bfloat16``."""
    architecture: str
    """The model's family and size, such as ``bert 6x384``."""
    machine: str
    """What it runs on: the processor and its cores, or the GPU."""
    workers: int
    """How many batches run at the same time best, each in a thread of its own."""

    def group(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        """Part windows of these lengths into batches of at most `budget` tokens, padding included: lists of indices."""
        ...

    def prepare(self, windows: Sequence[NDArray[np.int64]]) -> Any:
        """Make windows of token ids (special tokens included) one batch: `casualty_ner.batching.Batch` or `casualty_ner.packing.Packed`."""
        ...

    def run(self, batch: Any) -> Any:
        """Run the network; what it returns is the engine's own."""
        ...

    def finish(self, output: Any, batch: Any) -> list[NDArray[np.float32]]:
        """The logits of each window in the model's class order, shape ``[length, classes]``."""
        ...

    def worker_choices(self) -> tuple[int, ...]:
        """The values of ``workers`` that are worth trying on this machine."""
        ...

    def with_workers(self, workers: int) -> Runtime:
        """The same network set up to run `workers` batches at once."""
        ...


def choose(runtime: str, precision: str, on_cpu: bool) -> tuple[str, str]:
    """Resolve ``auto`` to a runtime, for any model, and a precision that this machine has.

    Raises:
        CheckpointError: There is no such runtime or precision, it is not installed, or the processor cannot do it.
    """
    if runtime == AUTO:
        runtime = "openvino" if on_cpu and installed("openvino") and precision != "int8" else "torch"
    if runtime not in PRECISIONS:
        raise CheckpointError(f"no runtime {runtime!r}; choose one of auto, {', '.join(PRECISIONS)}")
    if not on_cpu and runtime != "torch":
        raise CheckpointError(f"runtime {runtime!r} runs on the CPU only; use device='cpu', or runtime='torch' for the GPU")
    if precision == AUTO:
        has_units = on_cpu and has_bfloat16() and "bfloat16" in PRECISIONS[runtime]
        precision = "bfloat16" if has_units else "float32" if on_cpu else "float16"
    if precision not in PRECISIONS[runtime]:
        raise CheckpointError(
            f"runtime {runtime!r} has no precision {precision!r}; choose one of auto, {', '.join(PRECISIONS[runtime])}"
        )
    require(runtime)
    if on_cpu and precision == "float16":
        raise CheckpointError("float16 is for GPUs, a processor computes slowly in it; use precision='auto'")
    if on_cpu and precision == "bfloat16" and not has_bfloat16():
        raise CheckpointError(
            "this processor has no units for bfloat16 (AMX or AVX-512 BF16), it would be slower than float32; use precision='float32'"
        )
    return runtime, precision


def installed(runtime: str) -> bool:
    """Whether the packages of a runtime are there."""
    return all(find_spec(package) is not None for package in _PACKAGES[runtime])


def require(runtime: str) -> None:
    """Raise `CheckpointError`, naming the extra to install, if a runtime is not installed."""
    if not installed(runtime):
        raise CheckpointError(f"runtime {runtime!r} is not installed; install it with: pip install 'casualty-ner[{runtime}]'")
