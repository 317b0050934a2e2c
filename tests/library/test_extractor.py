from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from casualty_ner import Extractor
from casualty_ner.calibration import Calibration, Scale
from casualty_ner.checkpoint import load_checkpoint
from casualty_ner.errors import CheckpointError
from casualty_ner.labels import LABELS, TAG_IDS, TAGS
from tests.library.fakes import EndlessTexts, hash_extractor
from tests.tiny import FAMILIES, texts

unhurried = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
pieces = [*"aZ1é9 ,.'’-\n\t()“”ß한ก死अ\u0301\u200b\u00ad\ud83d\ufeff👩🏽", "killed ", "1,500 ", "Colombia's "]
news = st.lists(st.sampled_from(pieces), max_size=200).map("".join)
any_text = st.one_of(news, st.text(max_size=300))


@pytest.fixture(params=FAMILIES)
def extractor(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Extractor:
    return hash_extractor(AutoTokenizer.from_pretrained(tiny(request.param)))


@unhurried
@given(any_text)
def test_entities_are_exact_whole_words_in_order(extractor: Extractor, text: str) -> None:
    done = 0
    for entity in extractor.extract(text):
        assert text[entity.start : entity.end] == entity.text
        assert done <= entity.start < entity.end
        assert entity.text.strip() == entity.text
        assert 0 <= entity.score <= 1
        for edge in (entity.start, entity.end):
            assert not splits_word_or_number(text, edge), (text, entity)
        done = entity.end


def splits_word_or_number(text: str, at: int) -> bool:
    """An independent reading of the rule: no edge between two letters or digits of a spaced script, or inside a number."""
    before, after = text[at - 1 : at], text[at : at + 1]
    if not (before and after):
        return False
    if regex.fullmatch(r"[\p{Han}\p{Thai}]", before) or regex.fullmatch(r"[\p{Han}\p{Thai}]", after):
        return False
    if before.isalnum() and (after.isalnum() or regex.fullmatch(r"\p{M}", after)):
        return True
    return bool(regex.search(r"\p{Nd}[.,]$", text[:at]) and after.isdecimal()) or bool(
        regex.search(r"\p{Nd}$", text[:at]) and regex.match(r"[.,]\p{Nd}", text[at:])
    )


@unhurried
@given(st.lists(any_text, max_size=8), st.randoms())
def test_the_same_alone_or_in_any_batch(extractor: Extractor, some: list[str], random: object) -> None:
    alone = [extractor.extract(text) for text in some]
    order = list(range(len(some)))
    random.shuffle(order)
    shuffled = extractor.extract([some[index] for index in order])
    assert [shuffled[order.index(index)] for index in range(len(some))] == alone


def test_something_is_found_at_all(extractor: Extractor) -> None:
    assert sum(map(len, extractor.extract(texts(10)))) > 50


def test_empty_and_blank_texts(extractor: Extractor) -> None:
    assert extractor.extract("") == []
    assert extractor.extract([" \n", ""]) == [[], []]
    assert extractor.extract([]) == []


def test_the_end_of_a_long_text_is_read(extractor: Extractor) -> None:
    text = " ".join(texts(40))
    entities = extractor.extract(text)
    assert entities[-1].end > len(text) - 200
    assert max(second.start - first.end for first, second in itertools.pairwise(entities)) < 400


def test_batches_keep_the_budget(extractor: Extractor) -> None:
    extractor.extract(texts(20))
    assert all(max(batch) * len(batch) <= extractor.batch_tokens for batch in extractor.runtime.batches)


def test_stream_reads_ahead_only_a_bounded_stretch(extractor: Extractor) -> None:
    endless = EndlessTexts()
    stream = extractor.stream(iter(endless))
    for _ in range(3):
        next(stream)
    assert endless.read < 400


def test_a_real_network_gives_the_same_alone_or_in_a_batch(checkpoint: Path) -> None:
    extractor = Extractor.from_pretrained(checkpoint, device="cpu")
    some = texts(30)
    for alone, batched in zip(map(extractor.extract, some), extractor.extract(some), strict=True):
        assert [entity.span for entity in alone] == [entity.span for entity in batched]
        assert np.allclose([entity.score for entity in alone], [entity.score for entity in batched], atol=1e-4)


def test_entities_are_plain_python(checkpoint: Path) -> None:
    entities = Extractor.from_pretrained(checkpoint).extract(texts(5)[0])
    assert entities
    assert json.loads(json.dumps([entity.to_dict() for entity in entities]))[0]["text"] == entities[0].text


def test_stock_transformers_loads_the_checkpoint(checkpoint: Path) -> None:
    model = AutoModelForTokenClassification.from_pretrained(checkpoint)
    assert [model.config.id2label[index] for index in range(len(TAGS))] == list(TAGS)
    assert model.config.label2id == TAG_IDS
    found = pipeline("token-classification", model=str(checkpoint), aggregation_strategy="simple")(
        "At least 12 people were killed."
    )
    assert {entity["entity_group"] for entity in found} <= {"ACTOR", "COUNT", "CASUALTY_TYPE", "SOURCE"}


def test_other_label_order_is_followed(checkpoint: Path, tmp_path: Path) -> None:
    model = AutoModelForTokenClassification.from_pretrained(checkpoint)
    order = list(reversed(range(len(TAGS))))
    model.classifier.weight.data = model.classifier.weight.data[order]
    model.classifier.bias.data = model.classifier.bias.data[order]
    model.config.id2label = {index: TAGS[order[index]] for index in range(len(TAGS))}
    model.config.label2id = {name: index for index, name in model.config.id2label.items()}
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path)
    (tmp_path / "casualty_ner.json").write_bytes((checkpoint / "casualty_ner.json").read_bytes())
    text = texts(3)[2]
    expected = [entity.span for entity in Extractor.from_pretrained(checkpoint).extract(text)]
    assert [entity.span for entity in Extractor.from_pretrained(tmp_path).extract(text)] == expected != []


def test_calibrated_scores_leave_the_entities_and_thresholds_only_take_away(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    assert loaded.calibration is not None
    some = texts(20)
    plain = Extractor.from_checkpoint(replace(loaded, calibration=None), "cpu").extract(some)
    calibrated = Extractor.from_checkpoint(loaded, "cpu", thresholds=False).extract(some)
    assert [[one.span for one in found] for found in plain] == [[one.span for one in found] for found in calibrated]
    assert calibrated != plain
    for found, scaled in zip(plain, calibrated, strict=True):
        labels = np.array([LABELS.index(one.label) for one in found], dtype=np.int64)
        scores, _ = loaded.calibration.apply(np.array([one.score for one in found]), labels)
        assert [one.score for one in scaled] == pytest.approx(scores.tolist())
    scales = {label: Scale(1.0, 0.0, threshold=0.2) for label in LABELS}
    cut = Extractor.from_checkpoint(replace(loaded, calibration=Calibration(scales)), "cpu")
    for found, kept in zip(plain, cut.extract(some), strict=True):
        assert [one.span for one in kept] == [one.span for one in found if one.score >= 0.2]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json here"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be used"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"broken"), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "casualty_ner.json").write_text("{}"), "not readable as checkpoint metadata"),
        (lambda folder: _edit(folder / "casualty_ner.json", format_version=99), "format version 99"),
        (lambda folder: _edit(folder / "casualty_ner.json", calibration={"ACTOR": {}}), "not readable as checkpoint metadata"),
        (lambda folder: _edit(folder / "casualty_ner.json", window={"size": 999, "overlap": 8}), "longer than the 128 positions"),
        (
            lambda folder: _edit(folder / "config.json", id2label={"0": "PER", "1": "O"}),
            "its labels are PER, O, expected O, B-ACTOR",
        ),
    ],
)
def test_a_spoilt_checkpoint_is_one_clear_error(
    checkpoint: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    for file in checkpoint.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        Extractor.from_pretrained(tmp_path)


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("name", "message"), [("no/such", "the hub did not give"), ("/no/such/folder", "no such folder"), ("nosuch", "hub")]
)
def test_a_missing_checkpoint_and_an_unreachable_hub(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Extractor.from_pretrained(name)


def test_an_unknown_device(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="device 'warp' cannot be used"):
        Extractor.from_pretrained(checkpoint, device="warp")


def test_importing_the_package_loads_no_framework() -> None:
    code = "import sys, casualty_ner; print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
