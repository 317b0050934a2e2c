"""Tiny random encoders of the families that the configs name, each with a tokenizer of the family's own kind."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DebertaV2Config,
    DebertaV2Model,
    DebertaV2TokenizerFast,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizerFast,
)

CORPUS = Path(__file__).resolve().parent.parent / "data" / "annotations"
FAMILIES = ("bert", "modernbert", "deberta-v3", "xlm-roberta")
_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_VOCABULARY = 600


def texts(count: int = 150) -> list[str]:
    """The first texts of the training split."""
    with open(CORPUS / "train.jsonl", encoding="utf-8") as stream:
        return [json.loads(line)["text"] for line, _ in zip(stream, range(count), strict=False)]


def build(family: str, folder: Path) -> Path:
    """Write a random encoder of `family` and its tokenizer into `folder`."""
    torch.manual_seed(0)
    tokenizer, model = {"bert": _bert, "modernbert": _modernbert, "deberta-v3": _deberta, "xlm-roberta": _xlm_roberta}[family]()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _bert() -> tuple[PreTrainedTokenizerFast, BertModel]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=_VOCABULARY, special_tokens=special)
    learner.train_from_iterator((text.lower() for text in texts()), trainer)
    tokenizer = BertTokenizerFast(vocab=learner.get_vocab(), do_lower_case=True)
    size = {**_SIZE, "num_attention_heads": 1}  # of 32 dimensions, which the runtime native takes
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id, **size)
    return tokenizer, BertModel(config)


def _modernbert() -> tuple[PreTrainedTokenizerFast, ModernBertModel]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator(texts(), trainer)
    learner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, learner.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learner, **names)
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        **_SIZE,
    )
    return tokenizer, ModernBertModel(config)


def _unigram(special: list[str], unknown: str) -> list[tuple[str, float]]:
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=_VOCABULARY, special_tokens=special, unk_token=unknown, show_progress=False)
    learner.train_from_iterator(texts(), trainer)
    return [(piece, score) for piece, score in json.loads(learner.to_str())["model"]["vocab"]]


def _deberta() -> tuple[PreTrainedTokenizerFast, DebertaV2Model]:
    vocabulary = _unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[UNK]")
    tokenizer = DebertaV2TokenizerFast(vocab=vocabulary)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        relative_attention=True,
        position_buckets=32,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        type_vocab_size=0,
        position_biased_input=False,
        **_SIZE,
    )
    return tokenizer, DebertaV2Model(config)


def _xlm_roberta() -> tuple[PreTrainedTokenizerFast, XLMRobertaModel]:
    vocabulary = _unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<unk>")
    tokenizer = XLMRobertaTokenizerFast(vocab=vocabulary)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=130, pad_token_id=tokenizer.pad_token_id, type_vocab_size=1, **_SIZE
    )
    return tokenizer, XLMRobertaModel(config)
