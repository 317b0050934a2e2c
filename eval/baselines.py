"""What users would otherwise run: the stock pipeline, and a careful loop of their own. Text in, spans out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from casualty_ner.documents import Span

Spans = list[list[Span]]


def stock_pipeline(checkpoint: str, device: str, batch_size: int, dtype: str = "float32") -> Callable[[Iterable[str]], Spans]:
    """``transformers.pipeline`` as its documentation shows it. It reads 512 tokens of a text and drops the rest without a word."""
    tagger = pipeline(
        "token-classification", model=checkpoint, aggregation_strategy="simple", device=device, batch_size=batch_size, dtype=dtype
    )

    def run(texts: Iterable[str]) -> Spans:
        found = tagger(list(texts))
        return [[Span(one["start"], one["end"], one["entity_group"]) for one in entities] for entities in found]

    return run


def sorted_loop(
    checkpoint: str, device: str, size: int, overlap: int, batch_tokens: int = 4096, dtype: str = "float32"
) -> Callable[[Iterable[str]], Spans]:
    """What a careful engineer writes: overlapping windows by the tokenizer, sorted by length, batched, argmax, grouped."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForTokenClassification.from_pretrained(checkpoint, dtype=dtype).to(device).eval()
    names = model.config.id2label

    @torch.inference_mode()
    def run(texts: Iterable[str]) -> Spans:
        texts = list(texts)
        encoded = tokenizer(
            texts,
            truncation=True,
            max_length=size,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        order = sorted(range(len(encoded["input_ids"])), key=lambda row: len(encoded["input_ids"][row]))
        tags: list[dict[tuple[int, int], str]] = [{} for _ in texts]
        while order:
            longest = len(encoded["input_ids"][order[-1]])
            rows = [order.pop() for _ in range(min(len(order), max(1, batch_tokens // longest)))]
            padded = tokenizer.pad(
                {key: [encoded[key][row] for row in rows] for key in ("input_ids", "attention_mask")}, return_tensors="pt"
            )
            best = model(**padded.to(device)).logits.argmax(-1).cpu().tolist()
            for row, classes in zip(rows, best, strict=True):
                text = tags[encoded["overflow_to_sample_mapping"][row]]
                for (start, end), tag in zip(encoded["offset_mapping"][row], classes, strict=False):
                    if end > start:
                        text.setdefault((start, end), names[tag])
        return [_group(one) for one in tags]

    return run


def _group(tags: dict[tuple[int, int], str]) -> list[Span]:
    spans: list[Span] = []
    label = ""
    for (start, end), tag in sorted(tags.items()):
        if tag.startswith("I-") and tag[2:] == label:
            spans[-1] = Span(spans[-1].start, end, label)
        elif tag != "O":
            spans.append(Span(start, end, tag[2:]))
        label = tag[2:]
    return spans
