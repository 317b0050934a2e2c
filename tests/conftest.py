"""Fixtures that several rooms use: tiny encoders, a small corpus, a small trained checkpoint."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # the models are tiny; several threads only get into each other's way
_cache = tempfile.TemporaryDirectory(prefix="casualty-ner-tests-")
os.environ["CASUALTY_NER_CACHE"] = _cache.name  # no test runs as this machine was calibrated; native is compiled once
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import tests.tiny as tiny_models  # noqa: E402
from casualty_ner.dataset import read_articles  # noqa: E402
from casualty_ner.records import write_records  # noqa: E402

SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random encoder of a family; built once."""
    root = tmp_path_factory.mktemp("encoders")

    def get(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else tiny_models.build(family, folder)

    return get


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus folder cut from the shipped one: 24 training, 6 validation and 6 test articles."""
    folder = tmp_path_factory.mktemp("corpus")
    for split, count in (("train", 24), ("validation", 6), ("test", 6)):
        articles = islice(read_articles(tiny_models.CORPUS / f"{split}.jsonl"), count)
        write_records(folder / f"{split}.jsonl", (article.to_dict() for article in articles))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tiny: Callable[[str], Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that the training script wrote, of the tiny BERT."""
    from training.config import load_config
    from training.train import train

    runs = tmp_path_factory.mktemp("runs")
    folder = train(
        load_config(ROOT / "configs" / "minilm.yaml", [*tiny_overrides(tiny("bert"), corpus, runs), "training.epochs=15"])
    )
    assert folder is not None
    return folder


def tiny_overrides(encoder: Path, data: Path, runs: Path) -> list[str]:
    """Settings that make a run of seconds."""
    return [
        f"encoder.name={encoder}",
        f"data.path={data}",
        f"run.directory={runs}",
        "window.size=64",
        "window.overlap=16",
        "training.batch_tokens=512",
        "training.epochs=2",
        "training.learning_rate=3e-3",
        "encoder.freeze_embeddings=false",  # those of the tiny encoders are random
        "training.precision=fp32",
        "training.device=cpu",
    ]


@pytest.fixture(scope="session")
def real_news() -> Path:
    """Annotated real news, which lies beside the project at work and never in it."""
    path = SHARED / "real-news" / "dev.jsonl"
    if not path.exists():
        pytest.skip("../shared/real-news is not here; it is beside the project only where it is developed")
    return path
