"""The shipped corpus: loads as a Hugging Face dataset and passes its own check."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import datasets
import pytest
import regex

from casualty_ner.dataset import SPLIT_SHARES, load_articles, split_files
from casualty_ner.documents import Article
from casualty_ner.labels import LABELS
from casualty_ner.validation import Totals, check
from casualty_ner.words import word_bounds
from tests.tiny import CORPUS


@pytest.fixture(scope="module")
def articles() -> dict[str, list[Article]]:
    return {split: load_articles(path) for split, path in split_files(CORPUS).items()}


def test_it_is_clean() -> None:
    assert [str(finding) for finding in check(split_files(CORPUS), Totals())] == []


def test_it_loads_as_a_dataset_with_declared_features(articles: dict[str, list[Article]], tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(CORPUS), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {split: len(some) for split, some in articles.items()}
    row = loaded["train"][0]
    assert set(row) == {"id", "text", "spans", "genre", "region", "period", "damage"}
    assert loaded["test"].features["spans"].feature["label"].dtype == "string"
    assert row["spans"] == [span.to_dict() for span in articles["train"][0].spans]


def test_every_article_says_what_it_is(articles: dict[str, list[Article]]) -> None:
    for article in (article for some in articles.values() for article in some):
        assert set(article.fields) == {"genre", "region", "period", "damage"}, article.id
        assert all(isinstance(value, str) and value for value in article.fields.values()), article.id


def test_splits_keep_their_shares(articles: dict[str, list[Article]]) -> None:
    total = sum(map(len, articles.values()))
    assert {split: round(len(some) / total, 1) for split, some in articles.items()} == SPLIT_SHARES


def test_every_label_occurs_and_some_articles_have_none(articles: dict[str, list[Article]]) -> None:
    for some in articles.values():
        counts = Counter(span.label for article in some for span in article.spans)
        assert min(counts[label] for label in LABELS) > 100
        assert sum(not article.spans for article in some) >= 0.12 * len(some)


def test_no_span_splits_a_word(articles: dict[str, list[Article]]) -> None:
    for article in (article for some in articles.values() for article in some):
        bounds = word_bounds(article.text)
        starts, ends = set(bounds[:, 0].tolist()), set(bounds[:, 1].tolist())
        for span in article.spans:
            assert span.start in starts, (article.id, span)
            assert span.end in ends, (article.id, span)


def test_it_shares_no_wording_with_the_real_news_it_is_measured_on(articles: dict[str, list[Article]], real_news: Path) -> None:
    def runs(text: str) -> set[str]:
        words = regex.findall(r"\w+(?:['’]\w+)?", text.lower())
        return {" ".join(words[at : at + 8]) for at in range(len(words) - 7)}

    measured = {run for article in load_articles(real_news) for run in runs(article.text)}
    for article in (article for some in articles.values() for article in some):
        assert not runs(article.text) & measured, article.id
