"""The network in ONNX Runtime, on the CPU."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casualty_ner.batching import Batch, group_padded, pad, unpad
from casualty_ner.errors import CheckpointError, last_line
from casualty_ner.machine import cores, cpu_and_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casualty_ner.checkpoint import Checkpoint

MODEL_FILE = "model.onnx"
FILES: tuple[str, ...] = (MODEL_FILE,)
_INPUTS = ("input_ids", "attention_mask")


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


class OnnxRuntime:
    """Runs a model in ONNX Runtime on the CPU.

    Args:
        model: The serialised model, with the inputs ``input_ids`` and ``attention_mask``, and the logits as its output.
        precision: What it computes in (``float32`` or ``int8``; the model itself says so, this is for its name).
        pad_id: The id that fills a batch; the attention mask hides it.
        architecture: The model's family and size.
        workers: Batches run at once, the cores parted among them; by default one batch a core.

    Raises:
        CheckpointError: ONNX Runtime cannot read the model.
    """

    multiple = 1

    def __init__(self, model: bytes, precision: str, pad_id: int, architecture: str, workers: int | None = None):
        import onnxruntime

        self._model, self.precision, self.pad_id, self.architecture = model, precision, pad_id, architecture
        self.machine, self.workers = cpu_and_cores(), workers or cores()
        self.name = f"onnx-{precision}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, cores() // self.workers)
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise CheckpointError(
                f"ONNX Runtime {version()} cannot read the model: {last_line(error)}; export the checkpoint again"
            ) from None
        self.run(self.prepare([np.full(16, pad_id, dtype=np.int64)]))  # what is prepared at the first run, now

    def group(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        return group_padded(lengths, budget, self.multiple)

    def prepare(self, windows: Sequence[NDArray[np.int64]]) -> Batch:
        return pad(windows, self.pad_id)

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """The logits, shape ``[windows, padded, classes]``."""
        return self._session.run(None, dict(zip(_INPUTS, (batch.ids, batch.mask), strict=True)))[0]

    def finish(self, output: NDArray[np.float32], batch: Batch) -> list[NDArray[np.float32]]:
        return unpad(output, batch.lengths)

    def worker_choices(self) -> tuple[int, ...]:
        return tuple(sorted({1, max(1, cores() // 2), cores()}))

    def with_workers(self, workers: int) -> OnnxRuntime:
        return OnnxRuntime(self._model, self.precision, self.pad_id, self.architecture, workers)


def convert(checkpoint: Checkpoint) -> bytes:
    """The checkpoint's model serialised as ONNX, for any number of windows of any length.

    Raises:
        CheckpointError: The exporter does not know an operation of this architecture, or the model is larger than the 2 GB
            that one ONNX file may have.
    """
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = checkpoint.model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    ids, mask = (torch.ones(2, 16, dtype=torch.int64) for _ in _INPUTS)  # two tensors: of one, the exporter makes one input
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations between torch and its own exporter
            program = torch.onnx.export(
                Logits().eval(),
                (ids, mask),
                dynamo=True,
                dynamic_shapes=dict.fromkeys(_INPUTS, axes),
                input_names=list(_INPUTS),
                output_names=["logits"],
                verbose=False,
            )
            assert program is not None
            return program.model_proto.SerializeToString()
    except Exception as error:  # the exporter raises what it likes
        raise CheckpointError(
            f"{checkpoint.location}: cannot be exported to ONNX: {last_line(error)}; use runtime='torch'"
        ) from None


def quantize(model: bytes) -> bytes:
    """The model with its matrix products in int8: weights by channel, activations by what each batch holds."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / MODEL_FILE
        quantize_dynamic(onnx.load_from_string(model), target, per_channel=True, weight_type=QuantType.QInt8)
        return target.read_bytes()


def save(model: bytes, folder: Path) -> None:
    """Write `FILES`."""
    (folder / MODEL_FILE).write_bytes(model)


def load(folder: Path) -> bytes:
    """Read what `save` wrote.

    Raises:
        CheckpointError: The file is missing.
    """
    try:
        return (folder / MODEL_FILE).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder / MODEL_FILE}: cannot be read: {error.strerror}; export the checkpoint again") from None
