"""A trained model on disk: a plain transformers directory, and beside it what else is needed, as JSON.

Any transformers code loads such a directory. ``casualty_ner.json`` adds the window that the model was trained with and the calibration
of its scores; a checkpoint without it (a foreign one with the same label names) gets `DEFAULT_WINDOW` and the scores as they are. An export for another engine
(`casualty_ner.export`) has the same files, but that engine's model in place of the weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casualty_ner.calibration import Calibration
from casualty_ner.encoders import resolve
from casualty_ner.errors import CheckpointError, first_line
from casualty_ner.labels import TAGS, tag_order
from casualty_ner.windows import Windower

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

METADATA_FILE = "casualty_ner.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class WindowSize:
    """The window's length and the overlap of neighbours, in tokens."""

    size: int
    overlap: int


DEFAULT_WINDOW = WindowSize(size=256, overlap=64)


@dataclass(frozen=True, slots=True)
class Description:
    """What lies beside a model's weights.

    Attributes:
        tokenizer: Fast.
        window: What the model was trained with.
        tag_order: For each of `casualty_ner.labels.TAGS` its class index in the model's output.
        config: The architecture.
        calibration: Of the scores; ``None`` if it was never fitted.
        metadata: The content of ``casualty_ner.json``; under ``export`` what an export is and was measured to be.
        location: Where it was read from.
    """

    tokenizer: PreTrainedTokenizerFast
    window: WindowSize
    tag_order: tuple[int, ...]
    config: PretrainedConfig
    calibration: Calibration | None
    metadata: Mapping[str, Any]
    location: str

    @property
    def export(self) -> Mapping[str, Any] | None:
        return self.metadata.get("export")

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def windower(self) -> Windower:
        """For its tokenizer, with its window."""
        return Windower(self.tokenizer, self.window.size, self.window.overlap)


@dataclass(frozen=True, slots=True)
class Checkpoint(Description):
    """A loaded checkpoint.

    Attributes:
        model: In evaluation mode, on the CPU, float32.
    """

    model: PreTrainedModel


def load_checkpoint(name: str | Path) -> Checkpoint:
    """Load a checkpoint from a folder or the hub.

    Raises:
        CheckpointError: It is missing or unreachable, broken, of another task, has other labels, or comes without weights
            in the safetensors format.
    """
    return load_weights(load_description(name))


def load_description(name: str | Path) -> Description:
    """Load what lies beside the weights of a checkpoint or an export.

    Raises:
        CheckpointError: It is missing or unreachable, broken, of another task, or has other labels.
    """
    from transformers import AutoConfig, AutoTokenizer

    location = resolve(str(name)).location
    try:
        config = AutoConfig.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name}: config.json cannot be used: {first_line(error)}") from None
    order = tag_order(_class_names(config))
    if order is None:
        raise CheckpointError(
            f"{name}: its labels are {', '.join(_class_names(config))}, expected {', '.join(TAGS)}; "
            "use a checkpoint that training.train wrote"
        )
    metadata, window, calibration = _read_metadata(Path(location) / METADATA_FILE)
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
    except Exception as error:  # a damaged file can fail in any of several libraries, Rust ones included
        raise _unloadable(name, error) from None
    limit = max_positions(config)
    if limit is not None and window.size > limit:
        raise CheckpointError(f"{name}: a window of {window.size} tokens is longer than the {limit} positions of the model")
    return Description(tokenizer, window, tuple(order), config, calibration, metadata, location)


def load_weights(description: Description) -> Checkpoint:
    """Load the model that was described.

    Raises:
        CheckpointError: It is an export for another engine, or its weights are missing, damaged or not in the safetensors format.
    """
    from transformers import AutoModelForTokenClassification

    name = description.location
    if description.export is not None:
        raise CheckpointError(
            f"{name}: an export for runtime {description.export['runtime']!r}, without weights for torch; "
            "give the checkpoint that it was made from"
        )
    try:
        with _bar_on_a_terminal_only():
            model, report = AutoModelForTokenClassification.from_pretrained(
                name, use_safetensors=True, dtype="float32", output_loading_info=True
            )
    except Exception as error:  # as above
        raise _unloadable(name, error) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(f"{name}: the weights lack {len(missing)} tensors, {missing[0]} among them; the file is incomplete")
    facts = {one.name: getattr(description, one.name) for one in fields(description)}
    return Checkpoint(**facts, model=model.eval())


@contextmanager
def _bar_on_a_terminal_only() -> Iterator[None]:
    """transformers draws its loading bar into logs too."""
    from transformers.utils import logging as transformers_logging

    if sys.stderr.isatty() or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def save_metadata(folder: Path, window: WindowSize, **facts: Any) -> None:
    """Write ``casualty_ner.json`` into a checkpoint folder: the window, and whatever facts shall lie beside it."""
    metadata = {"format_version": FORMAT_VERSION, "window": asdict(window), **facts}
    (folder / METADATA_FILE).write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def max_positions(config: PretrainedConfig) -> int | None:
    """The longest input in tokens, special ones included, that the architecture has positions for; ``None`` if unlimited."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    return limit - first_position(config)


def first_position(config: PretrainedConfig) -> int:
    """The position of the first token: RoBERTa and its like count from after the padding index."""
    return (config.pad_token_id or 0) + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0


def architecture(config: PretrainedConfig) -> str:
    """The family and size, such as ``bert 6x384`` (layers and width)."""
    return f"{config.model_type} {getattr(config, 'num_hidden_layers', '?')}x{getattr(config, 'hidden_size', '?')}"


def _class_names(config: PretrainedConfig) -> list[str]:
    return [str(name) for _, name in sorted((config.id2label or {}).items())]


def _read_metadata(path: Path) -> tuple[dict[str, Any], WindowSize, Calibration | None]:
    if not path.is_file():
        return {}, DEFAULT_WINDOW, None
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        version, window = metadata["format_version"], WindowSize(**metadata["window"])
        calibration = Calibration.from_dict(metadata["calibration"]) if "calibration" in metadata else None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not readable as checkpoint metadata ({type(error).__name__}: {error}); train again"
        ) from None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version}, this package reads {FORMAT_VERSION}; update casualty_ner")
    return metadata, window, calibration


def _unloadable(name: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{name}: cannot be loaded: {type(error).__name__}: {first_line(error)}")
