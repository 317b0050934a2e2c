from __future__ import annotations

from pathlib import Path

import pytest

from casualty_ner.errors import ConfigError
from training.config import BASE, Config, differences, load_config

CONFIGS = sorted(BASE.parent.glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path: Path) -> None:
    assert load_config(path).run.name == path.stem


def test_base_comments_every_setting() -> None:
    lines = BASE.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("  ") and not line.lstrip().startswith("#"):
            assert lines[number - 1].lstrip().startswith("#"), line


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    return path


def test_layers_command_line_over_experiment_over_base(tmp_path: Path) -> None:
    path = write(tmp_path, "training:\n  epochs: 3\n  learning_rate: 2e-5\n")
    config = load_config(path, ["training.epochs=4", "run.name=other"])
    assert (config.training.epochs, config.training.learning_rate, config.run.name) == (4, 2e-5, "other")
    assert config.window.size == 512


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training:\n  epoch: 3\n", r"experiment\.yaml: training\.epoch: unknown key; did you mean 'epochs'\?"),
        ("trainings:\n  epochs: 3\n", r"experiment\.yaml: trainings: unknown key; did you mean 'training'\?"),
        ("zzz: 1\n", r"experiment\.yaml: zzz: unknown key; known here: encoder, data, window, training, run"),
        ("training:\n  epochs: '3'\n", r"experiment\.yaml: training\.epochs: Input should be a valid integer, got '3'"),
        ("training:\n  epochs: true\n", r"training\.epochs: Input should be a valid integer, got True"),
        ("training:\n  epochs: 0\n", r"training\.epochs: Input should be greater than or equal to 1, got 0"),
        ("training:\n  learning_rate: .nan\n", r"training\.learning_rate: Input should be"),
        ("training:\n  precision: fp8\n", r"training\.precision: Input should be 'auto', 'bf16' or 'fp32', got 'fp8'"),
        ("training:\n", r"experiment\.yaml: training: Input should be a valid dictionary"),
        ("window:\n  size: 64\n  overlap: 40\n", r"window: overlap \(40\) must be at most half of size \(64\)"),
        ("training:\n  batch_tokens: 100\n", r"training\.batch_tokens \(100\) must be at least window\.size \(512\)"),
        ("run:\n  name: ../elsewhere\n", r"run\.name: String should match pattern"),
        ("training:\n  epochs: 3\n  epochs: 4\n", r"experiment\.yaml:3: not valid YAML: key 'epochs' is given twice"),
        ("training: [\n", r"experiment\.yaml:2: not valid YAML"),
        ("- 1\n", r"experiment\.yaml: expected sections such as 'training:', got list"),
        ("training: !!python/object:os.system {}\n", r"experiment\.yaml:1: not valid YAML: could not determine a constructor"),
    ],
)
def test_a_wrong_setting_names_key_and_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", r"^command line: training\.epoch: unknown key"),
        ("training.epochs=x", r"^command line: training\.epochs: Input should be a valid integer, got 'x'"),
        ("training.epochs", r"'training\.epochs' is no setting; write section\.key=value"),
        ("training..epochs=3", "is no setting"),
        ("encoder.name=null", r"^command line: encoder\.name: Input should be a valid string"),
    ],
)
def test_a_wrong_override_names_the_command_line(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, ""), [override])


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "training:\n  epochs: 0\n  seed: -1\n"))
    assert str(caught.value).count("\n") == 1


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match="invalid UTF-8 at byte offset 5"):
        load_config(tmp_path / "latin.yaml")


def test_the_resolved_config_loads_as_itself(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ""), ["training.seed=7"])
    again = load_config(write(tmp_path, config.to_yaml()))
    assert again == config
    assert differences(config, again) == []
    assert differences(config, load_config(tmp_path / "experiment.yaml", ["training.seed=8"])) == ["training.seed"]
    assert isinstance(config, Config)
