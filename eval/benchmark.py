"""How fast each way from text to entities is on this machine.

    python -m eval.benchmark --checkpoint runs/minilm --device cpu --out DIR

runs the stock pipeline, a careful loop over the same model, and every runtime of this package over the same annotated
articles; interleaved, so that what else the machine does falls on all of them alike. A system that is soon through with the
articles runs over them several times in one timing. Ours remembers the words that it has tokenised, and is made to forget them
before each pass and each single text, so that no figure holds for text it has read before. It writes ``benchmark.json``,
``benchmark.md`` and ``benchmark.png`` into DIR and prints the table.

    python -m eval.benchmark --device cuda --random-weights --profile --out DIR

does so on a GPU, with a row for each step from padded batches to what `Extractor` does there.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from casualty_ner.batching import Batch
from casualty_ner.checkpoint import Checkpoint, load_checkpoint, load_description
from casualty_ner.cli import run_command
from casualty_ner.dataset import load_articles, split_file
from casualty_ner.decoding import entities
from casualty_ner.documents import Article, Span
from casualty_ner.errors import CheckpointError, OutputError
from casualty_ner.export import write_export
from casualty_ner.extractor import Extractor
from casualty_ner.labels import TAGS
from casualty_ner.machine import cores, cpu_name
from casualty_ner.runtimes import EXPORTABLE, PRECISIONS, Runtime, choose
from casualty_ner.runtimes.torch import TorchRuntime, choose_device
from casualty_ner.scoring import micro, strict_counts
from eval.limits import MatmulLimit, linear_shapes, operations
from eval.stages import host_rate, network_rate, passes
from eval.untrained import ENCODER, random_checkpoint

SCHEMA_VERSION = 1
STOCK = tuple(f"pipeline, batch {size}" for size in (1, 8, 32))
STOCK_GPU = tuple(f"pipeline{dtype}, batch {size}" for dtype in ("", " float16") for size in (8, 32, 128))
LOOP = "sorted loop"
LOOP_GPU = "sorted loop float16"
STEPS = ("padded-float16", "packed-float16", "recorded-float16", "fused-float16")
"""Our runtime on a GPU, built up: padded batches, packed ones, their kernels recorded, what lies between the matrix products
fused; all in one process. `Extractor` adds processes that tokenise and decode."""
REFERENCE = "torch-float32"
_LEAST_SECONDS = 3.0
"""A system that is through with the articles sooner runs over them several times."""
_SHORT_CHARS = 300
_LATENCY_CALLS = 20
_PROBE_TEXTS = 32

Spans = list[list[Span]]
System = Callable[[Iterable[str]], Spans]


def system_names(device: str) -> list[str]:
    """Every way that is measured on a device, the baselines first."""
    ours = [f"{runtime}-{precision}" for runtime, precisions in PRECISIONS.items() for precision in precisions]
    if device == "cpu":
        return [*STOCK, LOOP, *(name for name in ours if "-float16" not in name)]
    return [*STOCK_GPU, LOOP, LOOP_GPU, REFERENCE, *STEPS, "torch-bfloat16", "torch-float16"]


def load_system(name: str, checkpoint: str, exports: Path, device: str) -> tuple[System, Extractor | None]:
    """Load one system; of ours the extractor too.

    Raises:
        CheckpointError: It is not installed, or this machine cannot run it.
    """
    if _is_stock(name) or name in (LOOP, LOOP_GPU):
        from eval.baselines import sorted_loop, stock_pipeline

        if _is_stock(name):
            return stock_pipeline(checkpoint, device, int(name.split()[-1]), _dtype(name)), None
        window = load_description(checkpoint).window
        batch_tokens = 4096 if device == "cpu" else 16384
        return sorted_loop(checkpoint, device, window.size, window.overlap, batch_tokens, _dtype(name)), None
    if name in STEPS:
        extractor = _step(name, load_checkpoint(checkpoint), device)
        return _spans_of(extractor), extractor
    runtime, precision = name.split("-")
    source = exports / name if runtime in EXPORTABLE else checkpoint
    extractor = Extractor.from_pretrained(source, device=device, runtime=runtime, precision=precision)
    return _spans_of(extractor), extractor


def _is_stock(name: str) -> bool:
    return name.startswith("pipeline")


def _spans_of(extractor: Extractor) -> System:
    return lambda texts: [[one.span for one in found] for found in extractor.stream(texts)]


def _step(name: str, checkpoint: Checkpoint, device: str) -> Extractor:
    import torch

    from casualty_ner.runtimes.cuda import CudaRuntime
    from casualty_ner.runtimes.packed import PackedNetwork, missing
    from casualty_ner.tuning import DEFAULT_BUDGETS

    chosen = choose_device(device)
    model = checkpoint.model.to(chosen, torch.float16)
    runtime: Runtime
    if name == STEPS[0]:
        runtime = TorchRuntime(model, chosen, checkpoint.pad_id)
    elif reason := missing(model.config, chosen):
        raise CheckpointError(f"{name}: {reason}")
    else:
        runtime = CudaRuntime(PackedNetwork(model), chosen, record=name in STEPS[2:], fuse=name in STEPS[3:])
    return Extractor(
        checkpoint.windower(), runtime, checkpoint.tag_order, DEFAULT_BUDGETS["cuda"], calibration=checkpoint.calibration
    )


class Measured:
    """One system with its measurements, a round at a time."""

    def __init__(self, name: str, system: System, extractor: Extractor | None, texts: Sequence[str]):
        self.name, self.system, self.extractor, self._texts, self._passes = name, system, extractor, texts, 1
        self.spans = self._run(texts)  # warm-up, and what it finds
        start = time.perf_counter()
        self._run(texts)
        self._passes = max(1, math.ceil(_LEAST_SECONDS / (time.perf_counter() - start)))
        if self._passes > 1 or (extractor is not None and extractor.processes):
            self._run(texts, self._passes)  # warm-up goes on: what a long stream does once, it does now
        self.seconds: list[float] = []
        self.latencies: list[float] = []

    def run(self, short: Sequence[str]) -> None:
        """Time the articles once, and some short texts one by one."""
        start = time.perf_counter()
        self._run(self._texts, self._passes)
        self.seconds.append((time.perf_counter() - start) / len(self._texts) / self._passes)
        for text in short:
            start = time.perf_counter()
            self._run([text])
            self.latencies.append(time.perf_counter() - start)

    def _run(self, texts: Sequence[str], count: int = 1) -> Spans:
        """The texts, `count` times over."""
        return self.system(list(texts) * count if self.extractor is None else passes(self.extractor, texts, count))


class _Counting:
    """Stands for a runtime that groups and pads as the real one does, but finds nothing; counts tokens with and without padding."""

    workers = 1  # counted by one thread

    def __init__(self, runtime: Any):
        self._runtime, self.padded, self.tokens = runtime, 0, 0

    def prepare(self, windows: Sequence[Any]) -> Batch:
        batch: Batch = self._runtime.prepare(windows)
        self.padded += batch.ids.size
        self.tokens += sum(batch.lengths)
        return batch

    def run(self, batch: Batch) -> None:
        return None

    def finish(self, output: None, batch: Batch) -> list[Any]:
        return [np.zeros((length, len(TAGS)), dtype=np.float32) for length in batch.lengths]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


def padding(extractor: Extractor, texts: Sequence[str]) -> float:
    """The share of what the network is given that is padding."""
    runtime = extractor.runtime
    counting = _Counting(runtime)
    extractor.runtime = counting
    try:
        extractor.extract(list(texts))
    finally:
        extractor.runtime = runtime
    return 1 - counting.tokens / counting.padded


def profile(extractor: Extractor, texts: Sequence[str]) -> dict[str, float]:
    """Seconds for each stage, one after the other, and for all of them as they overlap in use; with nothing remembered."""
    texts = list(texts)
    extractor.forget()
    moments = [time.perf_counter()]
    tokens = extractor.windower.tokenize(texts)
    moments.append(time.perf_counter())
    logits = extractor.logits(tokens)
    moments.append(time.perf_counter())
    entities(texts, tokens, np.concatenate(logits), extractor.calibration)
    moments.append(time.perf_counter())
    deque(extractor.stream(passes(extractor, texts, 1)), maxlen=0)
    moments.append(time.perf_counter())
    return dict(zip(("tokenise", "run", "decode", "together"), np.diff(moments).tolist(), strict=True))


def probe(name: str, checkpoint: str, exports: Path, device: str, texts: Sequence[str]) -> dict[str, float]:
    """In a process of its own: seconds from its start to the first entities, and its peak memory over the articles."""
    import psutil

    system, _ = load_system(name, checkpoint, exports, device)
    system([texts[0][:_SHORT_CHARS]])
    ready = time.time() - psutil.Process().create_time()
    system(texts[:_PROBE_TEXTS])
    facts = {"cold_start_seconds": ready, "peak_memory_mb": _peak_memory_mb()}
    if device != "cpu":
        import torch

        facts["peak_gpu_memory_mb"] = torch.cuda.max_memory_reserved() / 2**20
    return facts


def _peak_memory_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it forked
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts in bytes


def benchmark(
    *, checkpoint: str, articles: Sequence[Article], data: Path, device: str, repeats: int, with_f1: bool, with_profile: bool
) -> dict[str, Any]:
    """Measure everything; the content of ``benchmark.json``."""
    texts = [article.text for article in articles]
    loaded = load_checkpoint(checkpoint)
    reader = Extractor.from_checkpoint(loaded, "cpu")
    tokens = sum(map(len, reader.windower.tokenize(texts)))
    window = _mean_window(reader, texts)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="casualty-ner-benchmark-") as folder:
        exports = Path(folder)
        systems, skipped = _load_all(loaded, checkpoint, exports, device, data, texts)
        dtypes = sorted({_dtype(one.name) for one in systems})
        limits = {dtype: MatmulLimit(linear_shapes(loaded.model), dtype, device) for dtype in dtypes}
        reached: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
        short = [text[:_SHORT_CHARS] for text in texts]
        for number in tqdm(range(repeats), desc="rounds", disable=None):
            for dtype, limit in limits.items():
                reached[dtype].append(limit.measure())
            for one in systems:
                one.run([short[(number * _LATENCY_CALLS + call) % len(short)] for call in range(_LATENCY_CALLS)])
        probes = {
            one.name: _probe_apart(one.name, checkpoint, exports, device, data)
            for one in tqdm(systems, desc="cold starts", disable=None)
        }
    per_token = operations(loaded.model, window)
    limit_rates = {dtype: float(np.median(rates)) for dtype, rates in reached.items()}
    reference = next(one.spans for one in systems if one.name == REFERENCE) if device == "cpu" else _spans_of(reader)(texts)
    rows = []
    hosts: dict[int, float] = {}
    for one in systems:
        rates = [tokens / len(texts) / seconds for seconds in one.seconds]
        row: dict[str, Any] = {
            "name": one.name,
            "tokens_per_second": {"median": float(np.median(rates)), "low": min(rates), "high": max(rates), "repeats": rates},
            "articles_per_second": float(np.median([1 / seconds for seconds in one.seconds])),
            "latency_ms": {"p50": _percentile(one.latencies, 50), "p99": _percentile(one.latencies, 99)},
            **probes[one.name],
            "limit_share": float(np.median(rates)) * per_token / limit_rates[_dtype(one.name)],
            "agreement": _common(reference, one.spans),
        }
        if with_f1:
            row["f1"] = micro(strict_counts(zip([article.spans for article in articles], one.spans, strict=True))).f1
        if one.extractor is not None:
            row["padding"] = padding(one.extractor, texts)
            row["workers"], row["batch_tokens"] = one.extractor.runtime.workers, one.extractor.batch_tokens
            if with_profile:
                row["profile"] = profile(one.extractor, texts)
                network = network_rate(one.extractor, texts) * tokens / len(texts)
                processes = one.extractor.processes
                if processes not in hosts:
                    hosts[processes] = host_rate(one.extractor, texts) * tokens / len(texts)
                row["alone"] = {
                    "network": network,
                    "network_limit_share": network * per_token / limit_rates[_dtype(one.name)],
                    "host": hosts[processes],
                    "processes": processes,
                }
        rows.append(row)
    best_stock = max(row["tokens_per_second"]["median"] for row in rows if _is_stock(row["name"]))
    for row in rows:
        row["times_stock"] = row["tokens_per_second"]["median"] / best_stock
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": machine(device),
        "load_average": {"before": load_before, "after": os.getloadavg()[0]},
        "data": {"file": data.name, "articles": len(articles), "tokens": tokens, "mean_window": window},
        "repeats": repeats,
        "limits": {
            dtype: {"operations_per_second": rate, "tokens_per_second": rate / per_token} for dtype, rate in limit_rates.items()
        },
        "systems": rows,
        "skipped": skipped,
    }


def _load_all(
    loaded: Checkpoint, checkpoint: str, exports: Path, device: str, data: Path, texts: Sequence[str]
) -> tuple[list[Measured], dict[str, str]]:
    systems, skipped = [], {}
    for name in tqdm(system_names(device), desc="loading", disable=None):
        try:
            if name.split("-")[0] in PRECISIONS:
                runtime, precision = choose(name.split("-")[0], name.split("-")[1], on_cpu=device == "cpu")
                if runtime in EXPORTABLE:
                    (exports / name).mkdir()
                    write_export(loaded, runtime, precision, data, exports / name)
            systems.append(Measured(name, *load_system(name, checkpoint, exports, device), texts))
        except CheckpointError as error:
            skipped[name] = str(error)
    return systems, skipped


def _probe_apart(name: str, checkpoint: str, exports: Path, device: str, data: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "eval.benchmark", "--probe", name, "--exports", str(exports)]
    command += ["--checkpoint", checkpoint, "--device", device, "--data", str(data)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)  # noqa: S603 - this very module
    if done.returncode:
        raise CheckpointError(f"{name}: its process failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _dtype(name: str) -> str:
    return next((dtype for dtype in ("bfloat16", "float16", "int8") if dtype in name), "float32")


def _percentile(seconds: Sequence[float], percent: int) -> float:
    return float(np.percentile(seconds, percent) * 1000)


def _common(first: Spans, second: Spans) -> float:
    both = sum(len(set(a) & set(b)) for a, b in zip(first, second, strict=True))
    total = sum(map(len, first)) + sum(map(len, second))
    return 2 * both / total if total else 1.0


def _mean_window(extractor: Extractor, texts: Sequence[str]) -> float:
    lengths = [
        window.stop - window.start
        for tokens in extractor.windower.tokenize(texts)
        for window in extractor.windower.windows(tokens)
    ]
    return sum(lengths) / len(lengths)


def machine(device: str) -> dict[str, Any]:
    """What the figures hold for."""
    import psutil

    packages = ("torch", "transformers", "openvino", "onnxruntime", "nncf", "numpy")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts: dict[str, Any] = {
        "device": device,
        "cpu": cpu_name(),
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions,
    }
    if device != "cpu":
        import torch

        facts["gpu"], facts["cuda"] = torch.cuda.get_device_name(device), torch.version.cuda
    return facts


def to_markdown(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    facts, data, limits = report["machine"], report["data"], report["limits"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    with_f1 = "f1" in report["systems"][0]
    on_gpu = "gpu" in facts
    lines = [
        f"{facts['gpu'] + ', CUDA ' + facts['cuda'] + '; ' if on_gpu else ''}{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB; {versions}; load average "
        f"{report['load_average']['before']:.1f} before, {report['load_average']['after']:.1f} after.",
        f"{data['articles']:,} articles, {data['tokens']:,} tokens ({data['file']}); {report['repeats']} interleaved repeats after "
        "warm-up: median, lowest and highest. Text in, entities out; ours begins each pass over the articles, and each single text, with no "
        "word remembered.",
        "",
        "| system | tokens/s | low–high | × stock | articles/s | of matmul limit | p50 ms | p99 ms | cold start s | peak MB | padding | same entities |"
        + (" F1 |" if with_f1 else "")
        + (" peak GPU MB |" if on_gpu else ""),
        "| --- |" + " --: |" * (11 + with_f1 + on_gpu),
    ]
    for row in report["systems"]:
        rate, latency = row["tokens_per_second"], row["latency_ms"]
        share = f"{row['padding']:.1%}" if "padding" in row else ""
        lines.append(
            f"| {row['name']} | {rate['median']:,.0f} | {rate['low']:,.0f}–{rate['high']:,.0f} | {row['times_stock']:.1f} "
            f"| {row['articles_per_second']:.1f} | {row['limit_share']:.0%} | {latency['p50']:.1f} | {latency['p99']:.1f} "
            f"| {row['cold_start_seconds']:.1f} | {row['peak_memory_mb']:,.0f} | {share} | {row['agreement']:.2%} |"
            + (f" {row['f1']:.4f} |" if with_f1 else "")
            + (f" {row['peak_gpu_memory_mb']:,.0f} |" if on_gpu else "")
        )
    lines.append("")
    for dtype, limit in limits.items():
        lines.append(
            f"Matrix-multiply limit in {dtype}: {limit['operations_per_second'] / 1e9:,.0f} GOP/s, {limit['tokens_per_second']:,.0f} tokens/s."
        )
    lines += [f"Not run: {name}: {reason}" for name, reason in report["skipped"].items()]
    profiled = [row for row in report["systems"] if "profile" in row]
    if profiled:
        lines += [
            "",
            "| seconds for all articles | tokenise | run | decode | together, overlapped |",
            "| --- | --: | --: | --: | --: |",
        ]
        for row in profiled:
            lines.append(f"| {row['name']} | " + " | ".join(f"{seconds:.3f}" for seconds in row["profile"].values()) + " |")
        lines += [
            "",
            "| tokens/s alone | network | of matmul limit | host, tokenising and decoding | processes |",
            "| --- | --: | --: | --: | --: |",
        ]
        for row in profiled:
            alone = row["alone"]
            lines.append(
                f"| {row['name']} | {alone['network']:,.0f} | {alone['network_limit_share']:.0%} | {alone['host']:,.0f} "
                f"| {alone['processes'] or 'none'} |"
            )
    return "\n".join(lines) + "\n"


def plot(report: dict[str, Any], path: Path) -> None:
    """Bars of tokens/s with their range."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = report["systems"][::-1]
    rates = [row["tokens_per_second"] for row in rows]
    medians = np.array([rate["median"] for rate in rates])
    errors = [medians - [rate["low"] for rate in rates], [rate["high"] for rate in rates] - medians]
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(rows) + 1.2), layout="constrained")
    colours = ["tab:blue" if "-" in row["name"] else "tab:grey" for row in rows]
    axes.barh([row["name"] for row in rows], medians, xerr=errors, color=colours, capsize=3)
    axes.set_xlabel("tokens a second, text in to entities out")
    axes.set_title(f"{report['machine'].get('gpu') or report['machine']['cpu']}, {report['machine']['cores']} cores", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_report(out: Path, report: dict[str, Any]) -> None:
    """Write the three files.

    Raises:
        OutputError: The folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "benchmark.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (out / "benchmark.md").write_text(to_markdown(report), encoding="utf-8")
        plot(report, out / "benchmark.png")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}; choose another --out") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.benchmark``."""
    parser = argparse.ArgumentParser(
        prog="eval.benchmark", description="Measure every way from text to entities on this machine."
    )
    parser.add_argument("--checkpoint", default=ENCODER, help="a folder that training wrote, or with --random-weights an encoder")
    parser.add_argument("--random-weights", action="store_true", help="measure the architecture of --checkpoint, untrained")
    parser.add_argument("--device", default="cpu", help="where to run (default: %(default)s)")
    parser.add_argument("--data", default="data/annotations", help="a corpus folder or a JSONL file (default: %(default)s)")
    parser.add_argument("--split", default="test", help="the split of a corpus folder (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="also show where the time goes")
    parser.add_argument("--out", type=Path, help="the folder for the report")
    parser.add_argument("--probe", help=argparse.SUPPRESS)  # the benchmark's own: one system, in a process of its own
    parser.add_argument("--exports", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.out is None and not options.probe:
        parser.error("--out is needed")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    choose_device(options.device)  # before anything is loaded: is it there?
    data = split_file(options.data, options.split)
    articles = load_articles(data)
    if options.probe:
        print(
            json.dumps(probe(options.probe, options.checkpoint, options.exports, options.device, [one.text for one in articles]))
        )
        return 0
    if options.random_weights:
        with random_checkpoint(options.checkpoint, articles) as checkpoint:
            report = _measure(options, checkpoint, articles, data)
    else:
        report = _measure(options, options.checkpoint, articles, data)
    write_report(options.out, report)
    print(to_markdown(report))
    return 0


def _measure(options: argparse.Namespace, checkpoint: str, articles: Sequence[Article], data: Path) -> dict[str, Any]:
    return benchmark(
        checkpoint=checkpoint,
        articles=articles,
        data=data,
        device=options.device,
        repeats=options.repeats,
        with_f1=not options.random_weights,
        with_profile=options.profile,
    )


if __name__ == "__main__":
    sys.exit(main())
