"""From what was asked for to an engine with the model loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casualty_ner.checkpoint import architecture, load_weights
from casualty_ner.encoders import sha256
from casualty_ner.errors import CheckpointError, UnsupportedError, first_line
from casualty_ner.runtimes import AUTO, PRECISIONS, Runtime, choose

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from casualty_ner.checkpoint import Description

logger = logging.getLogger(__name__)


def load_runtime(description: Description, device: str, runtime: str, precision: str) -> Runtime:
    """Load the model of a checkpoint or an export into an engine.

    Raises:
        CheckpointError: The device, runtime or precision is not available here, an export was made for another, or the
            model cannot be read.
    """
    if description.export is not None:
        return _load_export(description, description.export, device, runtime, precision)
    from casualty_ner.runtimes.torch import TorchRuntime, choose_device

    chosen = choose_device(device)
    on_cpu = chosen.type == "cpu"
    if runtime == AUTO and on_cpu and precision in (AUTO, "bfloat16") and _native_runs(description):
        runtime = "native"
    runtime, precision = choose(runtime, precision, on_cpu)
    if precision == "int8":
        raise CheckpointError(
            f"{description.location}: int8 changes a model enough to be measured first; make an export with "
            f"'casualty-ner export --runtime {runtime} --precision int8 …' and load that"
        )
    if runtime == "native":
        from casualty_ner.runtimes import native

        native.require(description.config)
        return native.NativeRuntime(load_weights(description))
    checkpoint = load_weights(description)
    if runtime == "openvino":
        from casualty_ner.runtimes import openvino

        return openvino.OpenVinoRuntime(
            openvino.convert(checkpoint), precision, description.pad_id, architecture(description.config)
        )
    if runtime == "onnx":
        from casualty_ner.runtimes import onnx

        return onnx.OnnxRuntime(onnx.convert(checkpoint), precision, description.pad_id, architecture(description.config))
    import torch

    model = checkpoint.model.to(chosen, getattr(torch, precision))
    if chosen.type == "cuda" and precision != "float32":
        return _on_cuda(model, chosen, description)
    return TorchRuntime(model, chosen, description.pad_id)


def _on_cuda(model: PreTrainedModel, device: torch.device, description: Description) -> Runtime:
    """The fastest that this GPU, these libraries and this architecture allow."""
    from casualty_ner.runtimes import packed
    from casualty_ner.runtimes.cuda import CudaRuntime
    from casualty_ner.runtimes.torch import TorchRuntime

    reason = packed.missing(model.config, device)
    if reason is None:
        network = packed.PackedNetwork(model)
        try:
            return CudaRuntime(network, device)
        except RuntimeError as error:
            reason = f"windows cannot be packed here ({first_line(error)})"
            network.release()
    logger.warning("%s: %s; running padded batches, which is slower", description.location, reason)
    return TorchRuntime(model, device, description.pad_id)


def _native_runs(description: Description) -> bool:
    from casualty_ner.runtimes import native

    try:
        native.require(description.config)
    except UnsupportedError as error:
        logger.info("%s: taking another than the fastest: %s", description.location, error)
        return False
    return True


def _load_export(description: Description, export: Mapping[str, Any], device: str, runtime: str, precision: str) -> Runtime:
    where = description.location
    try:
        made_for, computes_in, files = export["runtime"], export["precision"], dict(export["files"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{where}: casualty_ner.json does not say what the export is; export the checkpoint again"
        ) from None
    if made_for not in PRECISIONS or computes_in not in PRECISIONS[made_for]:
        raise CheckpointError(f"{where}: an export for {made_for} in {computes_in}, unknown to this package; update casualty_ner")
    # An OpenVINO model that is not quantised has float32 weights and is compiled for either precision.
    either = made_for == "openvino" and computes_in != "int8"
    possible = {AUTO, "float32", "bfloat16"} if either else {AUTO, computes_in}
    if runtime not in (AUTO, made_for) or precision not in possible:
        raise CheckpointError(
            f"{where}: an export for {made_for} in {computes_in}; for {runtime} in {precision} load the checkpoint that it was made from"
        )
    if precision != AUTO:
        computes_in = precision
    choose(made_for, computes_in, device in (AUTO, "cpu"))
    for name, expected in files.items():
        path = Path(where) / name
        found = sha256(path) if path.is_file() else "no such file"
        if found != expected:
            raise CheckpointError(
                f"{path}: SHA-256 is {found}, expected {expected}; the file is damaged, export the checkpoint again"
            )
    if made_for == "openvino":
        from casualty_ner.runtimes import openvino

        return openvino.OpenVinoRuntime(
            openvino.load(Path(where)), computes_in, description.pad_id, architecture(description.config)
        )
    from casualty_ner.runtimes import onnx

    return onnx.OnnxRuntime(onnx.load(Path(where)), computes_in, description.pad_id, architecture(description.config))
