from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from casualty_ner import Extractor, extractor, hosts
from casualty_ner.errors import CasualtyNerError
from casualty_ner.reading import Reading
from casualty_ner.windows import Tokens, Windower
from tests.conftest import ROOT
from tests.library.fakes import EndlessTexts, HashRuntime, hash_extractor
from tests.tiny import texts


@pytest.fixture
def with_hosts(tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Extractor]:
    """Two processes, from the second chunk on, and chunks of a few texts."""
    monkeypatch.setattr(extractor, "_CHUNK_CHARS", 2000)
    monkeypatch.setattr(extractor, "_CHUNKS_HERE", 1)
    made = hash_extractor(AutoTokenizer.from_pretrained(tiny("bert")))
    made.processes = 2
    yield made
    if made._hosts is not None:
        made._hosts.close()


def test_entities_do_not_depend_on_where_a_text_is_read(with_hosts: Extractor) -> None:
    some = [*texts(60), "", " \n", "été 12 killed 👩🏽", " ".join(texts(10))]
    expected = hash_extractor(with_hosts.windower.tokenizer).extract(some)
    assert with_hosts.extract(some) == expected
    first = with_hosts._hosts
    assert first is not None
    assert with_hosts.extract(some) == expected
    assert with_hosts._hosts is first  # they are kept
    assert with_hosts.extract(["", ""] * 2000) == [[]] * 4000


def test_a_process_forgets_when_it_is_told(tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    windower = hash_extractor(AutoTokenizer.from_pretrained(tiny("bert"))).windower
    some = texts(3)
    source, target = BytesIO(), BytesIO()
    scores = np.zeros((sum(map(len, Reading(windower, range(9), windower.tokenize(some)).inputs)), 9), np.float32)
    for said in ((windower, range(9), None), some, scores, hosts._FORGET, some, scores):
        hosts._send(source, said)
    source.seek(0)
    held: list[int] = []
    tokenize = Windower.tokenize

    def spy(windower: Windower, some: list[str]) -> list[Tokens]:
        held.append(windower._lexicon.characters)
        return tokenize(windower, some)

    monkeypatch.setattr(Windower, "tokenize", spy)
    hosts.serve(source, target)
    assert held == [0, 0]


def test_all_processes_are_told_to_forget(with_hosts: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = with_hosts.extract(texts(60))
    told: list[int] = []
    extract = hosts._Host.extract

    def spy(host: hosts._Host, some: list[str], run: hosts.Run, forgotten: int) -> list:
        told.append(forgotten - host._forgotten)
        return extract(host, some, run, forgotten)

    monkeypatch.setattr(hosts._Host, "extract", spy)
    with_hosts.forget()
    assert with_hosts.extract(texts(60)) == expected
    assert 1 <= told.count(1) <= 2  # each of the two processes that got texts, once
    assert set(told) <= {0, 1}
    assert told.count(0) > 2


def test_a_short_input_starts_nothing(with_hosts: Extractor) -> None:
    assert with_hosts.extract(texts(1))
    assert with_hosts._hosts is None


def test_a_stream_reads_ahead_only_a_bounded_stretch_and_may_be_left(with_hosts: Extractor) -> None:
    endless = EndlessTexts()
    stream = with_hosts.stream(iter(endless))
    for _ in range(20):
        next(stream)
    assert endless.read < 100
    stream.close()
    assert with_hosts._hosts is not None
    assert with_hosts._hosts.alive
    assert len(with_hosts.extract(texts(30))) == 30


def test_a_process_that_dies_is_a_clear_error_and_others_take_its_place(with_hosts: Extractor) -> None:
    expected = with_hosts.extract(texts(40))
    for process in processes_of(with_hosts):
        process.send_signal(signal.SIGKILL)
        process.wait()
    with pytest.raises(CasualtyNerError, match=r"has ended \(exit code -9\).* give processes=0"):
        with_hosts.extract(texts(40))
    assert with_hosts.extract(texts(40)) == expected


def test_what_fails_in_the_network_is_raised_and_ends_the_conversations(
    with_hosts: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = with_hosts.extract(texts(40))

    def fail(runtime: HashRuntime, batch: object) -> None:
        raise MemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(extractor, "_CHUNKS_HERE", 0)
        patch.setattr(HashRuntime, "run", fail)
        with pytest.raises(MemoryError):
            with_hosts.extract(texts(40))
    assert with_hosts._hosts is not None
    assert not with_hosts._hosts.alive
    assert with_hosts.extract(texts(40)) == expected


def test_processes_end_with_their_caller(tiny: Callable[[str], Path]) -> None:
    """A script without a main guard, whose process is killed."""
    script = (
        "import os, sys; from casualty_ner import extractor; extractor._CHUNKS_HERE = 0; extractor._CHUNK_CHARS = 500\n"
        "from transformers import AutoTokenizer; from tests.library.fakes import EndlessTexts, hash_extractor; from tests.tiny import texts\n"
        f"made = hash_extractor(AutoTokenizer.from_pretrained({str(tiny('bert'))!r})); made.processes = 2\n"
        "found = made.extract(texts(20)); assert sum(map(len, found)) > 20\n"
        "print([made._hosts._idle.get().process.pid for _ in range(2)], flush=True); sys.stdin.read()"
    )
    caller = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    pids = [int(pid) for pid in caller.stdout.readline().strip("[]\n").split(",")]
    assert all(map(running, pids))
    caller.kill()
    caller.communicate()
    deadline = time.monotonic() + 20
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(running, pids))


def processes_of(made: Extractor) -> list[subprocess.Popen[bytes]]:
    assert made._hosts is not None
    held = [made._hosts._idle.get() for _ in range(made.processes)]
    for host in held:
        made._hosts._idle.put(host)
    return [host.process for host in held]


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc").exists() else True


def test_a_small_machine_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 0), (2, 0), (4, 3), (16, 15)):
        monkeypatch.setattr(hosts, "cores", lambda cores=cores: cores)
        assert hosts.spare_processes() == expected
