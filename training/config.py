"""The training config: a schema whose defaults stand in ``configs/base.yaml``, an experiment file over it, the command line over both."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from casualty_ner.errors import ConfigError

BASE = Path(__file__).resolve().parent.parent / "configs" / "base.yaml"

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EncoderConfig(_Section):
    name: Annotated[str, Field(min_length=1)]
    revision: str | None
    dropout: Fraction | None
    attention_dropout: Fraction | None
    freeze_embeddings: bool


class DataConfig(_Section):
    path: Annotated[str, Field(min_length=1)]
    articles: Count | None


class WindowConfig(_Section):
    size: Annotated[int, Field(ge=8)]
    overlap: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _overlap_fits(self) -> WindowConfig:
        if self.overlap > self.size // 2:
            raise ValueError(f"overlap ({self.overlap}) must be at most half of size ({self.size})")
        return self


class TrainingConfig(_Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    epochs: Count
    learning_rate: Positive
    warmup: Fraction
    schedule: Literal["linear", "cosine", "constant"]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    max_grad_norm: Positive
    batch_tokens: Count
    gradient_accumulation: Count
    precision: Literal["auto", "bf16", "fp32"]
    compile: bool
    device: Literal["auto", "cpu"]


class RunConfig(_Section):
    directory: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(pattern=r"^[\w][\w.\-]*$")]


class Config(_Section):
    """All settings of one training run; ``configs/base.yaml`` says what each means."""

    encoder: EncoderConfig
    data: DataConfig
    window: WindowConfig
    training: TrainingConfig
    run: RunConfig

    @model_validator(mode="after")
    def _batch_holds_a_window(self) -> Config:
        if self.training.batch_tokens < self.window.size:
            raise ValueError(
                f"training.batch_tokens ({self.training.batch_tokens}) must be at least window.size ({self.window.size})"
            )
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read ``base.yaml``, then `path`, then ``section.key=value`` overrides, and validate the result.

    Raises:
        ConfigError: A file cannot be read or is no YAML mapping; a key is unknown or given twice, or a value has the wrong
            type or is impossible. The message names the key and where it was set.
    """
    layers = [(str(BASE), _read(BASE)), (str(path), _read(Path(path)))]
    layers += [("command line", _parse_override(override)) for override in overrides]
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged = _merge(merged, layer)
    if isinstance(merged.get("run"), dict) and merged["run"].get("name") is None:
        merged["run"]["name"] = Path(path).stem
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(dict(problem), layers) for problem in error.errors())) from None


def differences(first: Config, second: Config) -> list[str]:
    """The dotted keys in which two configs differ."""
    flat = [_flatten(config.model_dump()) for config in (first, second)]
    return [key for key in flat[0] if flat[0][key] != flat[1][key]]


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-4`` is a number (as in YAML 1.2) and a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give a file like configs/minilm.yaml") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: invalid UTF-8 at byte offset {error.start}") from None
    value = _parse(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected sections such as 'training:', got {type(value).__name__}")
    return value


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"command line: {override!r} is no setting; write section.key=value, such as training.epochs=3")
    nested = _parse(value, "command line")
    for part in reversed(parts):
        nested = {part: nested}
    return nested


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {key: leaf for name, below in value.items() for key, leaf in _flatten(below, f"{prefix}.{name}".lstrip(".")).items()}


def _explain(problem: dict[str, Any], layers: list[tuple[str, dict[str, Any]]]) -> str:
    """One validation error as a line: where the key was set, the key, what is wrong."""
    location = [str(part) for part in problem["loc"]]
    source = next((name for name, layer in reversed(layers) if _holds(layer, location)), layers[1][0])
    key = ".".join(location) or "config"
    if problem["type"] == "extra_forbidden":
        siblings = _known_keys(location[:-1])
        close = difflib.get_close_matches(location[-1], siblings, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(siblings)}"
        return f"{source}: {key}: unknown key; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if not location or isinstance(problem["input"], (Mapping, BaseModel)):
        return f"{source}: {key}: {message}"
    return f"{source}: {key}: {message}, got {problem['input']!r}"


def _holds(layer: Any, location: list[str]) -> bool:
    for part in location:
        if not isinstance(layer, Mapping) or part not in layer:
            return False
        layer = layer[part]
    return True


def _known_keys(section: list[str]) -> list[str]:
    model: Any = Config
    for part in section:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
