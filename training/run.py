"""The folder of a training run. Work happens in ``DIRECTORY/.NAME.partial`` and takes the place of ``DIRECTORY/NAME`` when it
is complete, so an earlier result stays whole until a better one is there."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from casualty_ner.encoders import sha256
from casualty_ner.errors import ConfigError, OutputError
from training.config import Config, differences, load_config

CONFIG_FILE = "config.training.yaml"
DATA_FILE = "data.json"
CHECKPOINTS = "checkpoints"
_PACKAGES = ("casualty-ner", "torch", "transformers", "tokenizers", "accelerate", "datasets", "evaluate", "seqeval", "numpy")


class Run:
    """One run's places on disk."""

    def __init__(self, config: Config):
        self._config = config
        directory, name = Path(config.run.directory), config.run.name
        self.final = directory / name
        self.partial = directory / f".{name}.partial"
        self._previous = directory / f".{name}.previous"

    def begin(self, resume: bool, fingerprint: Mapping[str, object]) -> None:
        """Make the working folder, or take up the one that an interrupted run left.

        Raises:
            ConfigError: An interrupted run is there and `resume` is not asked for, or it had another config or other data.
            OutputError: The place cannot be written to.
        """
        try:
            self.final.parent.mkdir(parents=True, exist_ok=True)
            if self._previous.exists() and not self.final.exists():  # killed between the two renames of `complete`
                self._previous.rename(self.final)
            if (self.partial / DATA_FILE).exists():
                self._continue(resume, fingerprint)
                return
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir()
            (self.partial / CONFIG_FILE).write_text(self._config.to_yaml(), encoding="utf-8")
            (self.partial / "environment.json").write_text(_json(environment()), encoding="utf-8")
            (self.partial / DATA_FILE).write_text(_json(fingerprint), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{error.filename or self.partial}: cannot be written: {error.strerror}; set run.directory"
            ) from None

    def _continue(self, resume: bool, fingerprint: Mapping[str, object]) -> None:
        if not resume:
            raise ConfigError(
                f"{self.partial}: holds an interrupted run; pass --resume to continue it, or remove the folder to start anew"
            )
        changed = differences(self._config, load_config(self.partial / CONFIG_FILE))
        if changed:
            raise ConfigError(
                f"{self.partial}: was begun with another {', '.join(changed)}; restore that, or remove the folder to start anew"
            )
        if json.loads((self.partial / DATA_FILE).read_text(encoding="utf-8")) != fingerprint:
            raise ConfigError(
                f"{self.partial}: was begun with other data than {self._config.data.path} now holds; remove the folder to start anew"
            )

    def last_checkpoint(self) -> Path | None:
        """The newest complete training checkpoint. The Trainer writes its state last, so one without it is a torn one."""
        complete = [
            state.parent for state in (self.partial / CHECKPOINTS).glob("checkpoint-*/trainer_state.json") if _is_json(state)
        ]
        return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)

    def complete(self) -> Path:
        """Put the finished working folder in the place of the final one."""
        shutil.rmtree(self.partial / CHECKPOINTS, ignore_errors=True)
        shutil.rmtree(self._previous, ignore_errors=True)
        if self.final.exists():
            self.final.rename(self._previous)
        self.partial.rename(self.final)
        shutil.rmtree(self._previous, ignore_errors=True)
        return self.final


def environment() -> dict[str, object]:
    """What the run ran on: versions and processor, no host or user names."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    import torch

    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": versions,
    }


def data_fingerprint(files: Mapping[str, Path], articles: Mapping[str, int]) -> dict[str, dict[str, object]]:
    """The SHA-256 and the number of articles of each split's file."""
    return {split: {"file": path.name, "sha256": sha256(path), "articles": articles[split]} for split, path in files.items()}


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
