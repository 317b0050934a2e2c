"""The network in OpenVINO: several single-threaded streams, each with a batch of its own.

Streams beat threads here: most of what lies between the matrix products is bound by memory and does not part well, while
two batches on two cores do not wait for each other.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from casualty_ner.batching import Batch, group_padded, pad, unpad
from casualty_ner.errors import CheckpointError, last_line
from casualty_ner.machine import cores, cpu_and_cores

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from casualty_ner.checkpoint import Checkpoint

MODEL_FILE = "openvino_model.xml"
FILES: tuple[str, ...] = (MODEL_FILE, "openvino_model.bin")
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """OpenVINO and NNCF report imports and conversions to their maker where this package is importable; here it is not."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's way to say: not installed
    try:
        yield
    finally:
        if sys.modules["openvino_telemetry"] is None:
            del sys.modules["openvino_telemetry"]


def openvino() -> ModuleType:
    """The package, imported without its telemetry: what is read here may be delicate, and so may be that it is read."""
    with _without_telemetry():
        import openvino.tools.ovc
    return openvino


def version() -> str:
    return str(openvino().__version__)


class OpenVinoRuntime:
    """Runs a model in OpenVINO on the CPU.

    Args:
        model: An ``openvino.Model`` with the inputs token ids and attention mask, and the logits as its output.
        precision: ``float32``, ``bfloat16``, or ``int8`` for a quantised model (what it leaves unquantised is computed in
            bfloat16 where the processor can, else in float32).
        pad_id: The id that fills a batch; the attention mask hides it.
        architecture: The model's family and size.
        workers: Streams; by default one a core.

    Raises:
        CheckpointError: OpenVINO cannot compile the model on this machine.
    """

    multiple = 16  # tokens; the rows of a matrix tile, and few different shapes to prepare kernels for

    def __init__(self, model: Any, precision: str, pad_id: int, architecture: str, workers: int | None = None):
        self._model, self.precision, self.pad_id, self.architecture = model, precision, pad_id, architecture
        self.machine, self.workers = cpu_and_cores(), workers or cores()
        self.name = f"openvino-{precision}"
        core = openvino().Core()
        has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        hint = _HINTS.get(precision, "bf16" if has_bfloat16 else "f32")
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "NUM_STREAMS": self.workers,
            "INFERENCE_NUM_THREADS": max(cores(), self.workers),
        }
        try:
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise CheckpointError(
                f"OpenVINO {version()} cannot run this model here: {last_line(error)}; try runtime='torch'"
            ) from None
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.workers):
            self._requests.put(compiled.create_infer_request())
        self.run(self.prepare([np.full(self.multiple, pad_id, dtype=np.int64)]))  # what is prepared at the first run, now

    def group(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        return group_padded(lengths, budget, self.multiple)

    def prepare(self, windows: Sequence[NDArray[np.int64]]) -> Batch:
        return pad(windows, self.pad_id, self.multiple)

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """The logits, shape ``[windows, padded, classes]``."""
        request = self._requests.get()
        try:
            request.infer([batch.ids, batch.mask], share_inputs=True)
            return np.array(request.get_output_tensor(0).data, dtype=np.float32)
        finally:
            self._requests.put(request)

    def finish(self, output: NDArray[np.float32], batch: Batch) -> list[NDArray[np.float32]]:
        return unpad(output, batch.lengths)

    def worker_choices(self) -> tuple[int, ...]:
        return tuple(sorted({1, max(1, cores() // 2), cores()}))

    def with_workers(self, workers: int) -> OpenVinoRuntime:
        return OpenVinoRuntime(self._model, self.precision, self.pad_id, self.architecture, workers)


def convert(checkpoint: Checkpoint) -> Any:
    """The checkpoint's model as an ``openvino.Model``, for any number of windows of any length.

    Raises:
        CheckpointError: OpenVINO does not know an operation of this architecture.
    """
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = checkpoint.model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, attention_mask=mask).logits

    package = openvino()
    example = tuple(torch.ones(2, 16, dtype=torch.int64) for _ in range(2))
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr), torch.no_grad():  # it prints where INFO is logged
            warnings.simplefilter("ignore")  # the tracer's, about branches that do not depend on the input here
            return package.convert_model(Logits().eval(), example_input=example, input=[package.PartialShape([-1, -1])] * 2)
    except Exception as error:  # the tracer and the converter raise what they like
        raise CheckpointError(
            f"{checkpoint.location}: OpenVINO cannot convert this architecture: {last_line(error)}; use runtime='torch'"
        ) from None


def quantize(model: Any, samples: Iterable[Batch]) -> Any:
    """The model with its matrix products in int8, scales taken from what flows through it for the samples.

    Raises:
        CheckpointError: NNCF, which does it, is not installed.
    """
    openvino()
    try:
        with _without_telemetry():
            import nncf
    except ImportError:
        raise CheckpointError("int8 for OpenVINO needs NNCF; install it with: pip install 'casualty-ner[openvino]'") from None
    logging.getLogger("nncf").setLevel(logging.ERROR)
    names = [one.get_any_name() for one in model.inputs]
    inputs = [dict(zip(names, (sample.ids, sample.mask), strict=True)) for sample in samples]
    with redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(model, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs))


def save(model: Any, folder: Path) -> None:
    """Write `FILES`. Weights stay float32, for a machine that computes in it."""
    openvino().save_model(model, str(folder / MODEL_FILE), compress_to_fp16=False)


def load(folder: Path) -> Any:
    """Read what `save` wrote.

    Raises:
        CheckpointError: A file is missing, damaged, or of a version that this OpenVINO does not read.
    """
    try:
        return openvino().Core().read_model(str(folder / MODEL_FILE))
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder / MODEL_FILE}: OpenVINO {version()} cannot read it: {last_line(error)}; export the checkpoint again"
        ) from None
