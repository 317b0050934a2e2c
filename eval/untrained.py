"""A checkpoint without training, so that a machine can be measured with nothing that must be downloaded."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertTokenizerFast,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from casualty_ner.checkpoint import WindowSize, max_positions, save_metadata
from casualty_ner.decoding import entities
from casualty_ner.documents import Article
from casualty_ner.encoders import lift_limits, resolve
from casualty_ner.errors import CheckpointError
from casualty_ner.extractor import Extractor
from casualty_ner.labels import OUTSIDE_ID, TAG_IDS, TAGS
from casualty_ner.runtimes.torch import TorchRuntime
from casualty_ner.windows import Windower

logger = logging.getLogger(__name__)

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
"""Of `ENCODER`."""
_VOCABULARY = 30_522
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WINDOW = 512
_SAMPLE = 24
_SPREAD = 3.0
_FAR, _HALVINGS = 100.0, 20


@contextmanager
def random_checkpoint(encoder: str, articles: Sequence[Article]) -> Iterator[str]:
    """The folder of a checkpoint with the encoder's architecture and tokenizer and with random weights, for as long as it is needed.

    It finds nonsense, but about as many entities as are annotated in the articles, for what is found costs time too. Where the
    default encoder is not to be had, its architecture is known here and a tokenizer is learnt from the articles.

    Raises:
        CheckpointError: There is no such encoder.
    """
    torch.manual_seed(0)
    config, tokenizer = _parts(encoder, articles)
    limit = max_positions(config)
    lift_limits(tokenizer, limit)
    size = min(_WINDOW, limit or _WINDOW)
    window = WindowSize(size, size // 4)
    model = AutoModelForTokenClassification.from_config(config, dtype=torch.float32).eval()
    _set_head(model, Windower(tokenizer, window.size, window.overlap), articles[:_SAMPLE])
    with tempfile.TemporaryDirectory(prefix="casualty-ner-random-") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_metadata(Path(folder), window)
        yield folder


def _parts(encoder: str, articles: Sequence[Article]) -> tuple[PretrainedConfig, PreTrainedTokenizerFast]:
    labels = {"id2label": dict(enumerate(TAGS)), "label2id": TAG_IDS}
    try:
        location = resolve(encoder).location
    except CheckpointError as error:
        if encoder != ENCODER:
            raise
        logger.warning("%s; its architecture is taken as known, and a tokenizer is learnt from the articles", error)
        tokenizer = _learnt_tokenizer([article.text for article in articles])
        return BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **_SHAPE, **labels), tokenizer
    return AutoConfig.from_pretrained(location, **labels), AutoTokenizer.from_pretrained(location)


def _learnt_tokenizer(texts: Sequence[str]) -> BertTokenizerFast:
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - no password
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=_VOCABULARY, special_tokens=_SPECIAL, show_progress=False)
    learner.train_from_iterator((text.lower() for text in texts), trainer)
    return BertTokenizerFast(vocab=learner.get_vocab(), do_lower_case=True)


def _set_head(model: PreTrainedModel, windower: Windower, articles: Sequence[Article]) -> None:
    """Spread the scores as those of a trained network are, and find as many entities as are annotated."""
    texts = [article.text for article in articles]
    tokens = windower.tokenize(texts)
    runtime = TorchRuntime(model, torch.device("cpu"), windower.tokenizer.pad_token_id or 0)
    logits = np.concatenate(Extractor(windower, runtime, range(len(TAGS))).logits(tokens))
    scale = _SPREAD / logits.std(axis=0).mean()
    shift = -scale * logits.mean(axis=0)
    wanted = sum(len(article.spans) for article in articles)
    low, high = -_FAR, _FAR
    for _ in range(_HALVINGS):
        shift[OUTSIDE_ID] = (low + high) / 2
        found = sum(map(len, entities(texts, tokens, scale * logits + shift)))
        low, high = (shift[OUTSIDE_ID], high) if found > wanted else (low, shift[OUTSIDE_ID])
    with torch.no_grad():
        model.classifier.weight *= float(scale)
        model.classifier.bias.mul_(float(scale)).add_(torch.from_numpy(shift).to(model.classifier.bias))
