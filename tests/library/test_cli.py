from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from casualty_ner import Extractor
from casualty_ner.cli import main
from casualty_ner.records import read_records, write_records
from tests.tiny import texts


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    write_records(path, ({"id": f"n{number}", "text": text} for number, text in enumerate(texts(6))))
    return path


def extract(checkpoint: Path, *arguments: object) -> int:
    return main(["extract", "--checkpoint", str(checkpoint), "--device", "cpu", *map(str, arguments)])


def test_extract_writes_a_line_for_each_record(checkpoint: Path, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert extract(checkpoint, inputs) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == [f"n{number}" for number in range(6)]
    extractor = Extractor.from_pretrained(checkpoint, device="cpu")
    assert lines[0]["entities"] == [entity.to_dict() for entity in extractor.extract(texts(6))[0]]


def test_extract_reads_text_files_and_standard_input(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("Déjà vu: ten people were killed.")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Four were hurt.")))
    assert extract(checkpoint, tmp_path / "a.txt", "-") == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [str(tmp_path / "a.txt"), "-"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "Four were hurt."}\n')))
    assert extract(checkpoint, "-", "--input-format", "jsonl") == 0
    assert json.loads(capsys.readouterr().out)["id"] == "<stdin>:1"


def test_what_came_before_a_bad_line_is_written(
    checkpoint: Path, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(inputs, "a") as stream:
        stream.write('{"id": "broken"\n{"id": "after", "text": "Ten died."}\n')
    out = tmp_path / "out.jsonl"
    assert extract(checkpoint, inputs, "--output", out) == 2
    assert [record["id"] for _, record in read_records(out)] == [f"n{number}" for number in range(6)]
    assert "in.jsonl:7: not valid JSON" in capsys.readouterr().err
    assert extract(checkpoint, inputs, "--output", out, "--skip-bad") == 2
    assert [record["id"] for _, record in read_records(out)][-1] == "after"
    assert "skipped: " in capsys.readouterr().err


def test_html_escapes_a_hostile_text(checkpoint: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "page.html"
    write_records(
        path,
        [{"id": "<script>1</script>", "text": "<script>alert(1)</script> & ten \ud800 people were killed, police said." * 3}],
    )
    assert extract(checkpoint, path, "--format", "html", "--output", out) == 0
    page = out.read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.rstrip().endswith("</html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "x.txt", "--checkpoint", "/none"], "error: /none: no such folder"),
        (["check", "/none.jsonl"], "error: /none.jsonl: no such file"),
        (["add", "/none.jsonl", "--corpus", "/tmp"], "error: /none.jsonl: no such file"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"caf\xe9", "invalid UTF-8: byte 0xe9 at byte offset 3"), (b" \n", "is empty")],
)
def test_unusable_text_files(
    checkpoint: Path, tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert extract(checkpoint, tmp_path / "a.txt") == 2
    assert message in capsys.readouterr().err


def test_an_unwritable_output(checkpoint: Path, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert extract(checkpoint, inputs, "--output", "/proc/none/x") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error(checkpoint: Path, inputs: Path) -> None:
    command = [sys.executable, "-m", "casualty_ner.cli", "extract", "--checkpoint", str(checkpoint), *[str(inputs)] * 40]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    assert process.stdout is not None
    process.stdout.read(100)
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    assert process.wait() == 0


def test_check_prints_findings_and_tables(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(corpus)]) == 0
    assert "0 errors" in capsys.readouterr().out
    (tmp_path / "x.jsonl").write_text('{"id": "a", "text": "Ten died.", "spans": [{"start": 0, "end": 4, "label": "COUNT"}]}\n')
    assert main(["check", str(tmp_path / "x.jsonl")]) == 2
    assert "x.jsonl:1: error (id 'a'): span 0: 0:4 has a blank edge" in capsys.readouterr().out


def test_add_places_new_articles_and_refuses_known_ids(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, folder = tmp_path / "new.jsonl", tmp_path / "corpus"
    folder.mkdir()
    write_records(
        new, ({"id": f"a{number}", "text": text, "spans": [], "genre": "wire"} for number, text in enumerate(texts(10)))
    )
    assert main(["add", str(new), "--corpus", str(folder)]) == 0
    assert capsys.readouterr().out == "train: 8 added, 8 in all\nvalidation: 1 added, 1 in all\ntest: 1 added, 1 in all\n"
    assert main(["add", str(new), "--corpus", str(folder)]) == 2
    assert "is in the corpus already" in capsys.readouterr().err
