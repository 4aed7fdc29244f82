import pytest

from data.registry import DATASETS
from engine.config import Config, VTClipConfig, load_config
from metrics.registry import METRICS
from models.causal_lm import DECODER_TRAINING_MODES
from models.decoder_registry import CAPTION_DECODERS
from models.losses import KEYFRAME_LOSSES, SMOOTHING_SCOPES
from models.vtsum_blip import ARCHITECTURES, FEATURE_WIDTHS, TASKS
from models.weights import POSITION_INITS
from tests.conftest import ROOT
from tests.helpers.documents import read_document
from utils.command_line import load_settings, reference_table
from utils.device import PRECISIONS
from utils.settings import choices, read_settings, write_settings

SHIPPED = sorted(path for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.fixture
def write_config(tmp_path):
    def to_file(text):
        (tmp_path / "c.yaml").write_text(text)
        return str(tmp_path / "c.yaml")

    return to_file


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_load_and_round_trip(path, tmp_path):
    cls = VTClipConfig if path.name == "vt_clip.yaml" else Config
    command = load_settings(cls, ["--config", str(path)])
    assert not command.notes
    write_settings(command.settings, tmp_path / "again.yaml")
    assert load_settings(cls, ["--config", str(tmp_path / "again.yaml")]).settings == command.settings


def test_shipped_configs_have_the_published_values():
    config = load_config(["--config", str(ROOT / "configs/vtsum_blip_tt_ca.yaml")]).settings
    published = dict(
        video_embeddings_root="dataset/ActivityNet/feat/blip",
        ann_root="dataset/ActivityNet/anno",
        clip_root="dataset/ActivityNet/feat/vt_clipscore",
        pretrained="outputs/blip/model_base_capfilt_large.pth",
        pretrained_clip="outputs/vt_clipscore/vt_clip.pth",
        model="vtsum_blip_tt_ca",
        vit="base",
        vit_grad_ckpt=False,
        vit_ckpt_layer=0,
        loss_type="cross_entropy",
        tt_depth=1,
        lambda_vsum=1.0,
        lambda_tsum=1.0,
        kernel_size=5,
        image_size=224,
        max_video_length=512,
        max_text_length=128,
        min_text_length=10,
        num_beams=3,
        prompt="a video of ",
        init_lr=1e-5,
        min_lr=0.0,
        max_epoch=28,
        batch_size=16,
        weight_decay=0.05,
    )
    assert {name: getattr(config, name) for name in published} == published
    tt = load_config(["--config", str(ROOT / "configs/vtsum_blip_tt.yaml")]).settings
    assert tt.replace(model="vtsum_blip_tt_ca") == config


def test_flags_override_yaml_and_yaml_overrides_defaults(write_config):
    path = write_config("init_lr: 1e-4\nbatch_size: 4\nvit_grad_ckpt: true\nsplits: [val]\n")
    command = load_config(["--config", path, "--batch_size", "8", "--seed", "1", "--splits", "test", "val"])
    config = command.settings
    assert (config.init_lr, config.vit_grad_ckpt) == (1e-4, True)  # from the YAML; 1e-4 is read as a number
    assert (config.batch_size, config.seed) == (8, 1)  # from flags
    assert config.splits == ("test", "val")
    assert config.max_epoch == Config().max_epoch  # a flag that is not given keeps the default
    assert command.notes == (
        "batch_size: the flag's 8 overrides the config's 4",
        "splits: the flag's ['test', 'val'] overrides the config's ['val']",
    )


@pytest.mark.parametrize(
    ("flags", "notes"),
    [
        ("--model vtsum_blip_tt --kernel_size 9", ["kernel_size: the flag has no effect with model vtsum_blip_tt"]),
        ("--model vtsum_blip_tt_ca --kernel_size 9", []),
        ("--decoder_lora_rank 4", ["decoder_lora_rank: the flag has no effect with decoder blip"]),
        (
            "--decoder causal_lm --decoder_path x --tokenizer y --decoder_lora_rank 4",
            [
                "tokenizer: the flag has no effect with decoder causal_lm",
                "decoder_lora_rank: the flag has no effect with decoder_train projector",
            ],
        ),
        ("--decoder causal_lm --decoder_path x --decoder_train lora --decoder_lora_rank 4", []),
    ],
)
def test_flags_without_effect_are_noted(write_config, flags, notes):
    """Flags that were typed; a value of the YAML file is not noted."""
    path = write_config("batch_size: 4\nkernel_size: 7\ndecoder_train: projector\n")
    command = load_config(["--config", path, *flags.split()])
    assert [note for note in command.notes if "overrides" not in note] == notes


def test_explicit_flag_with_the_default_value_overrides_yaml(write_config):
    path = write_config("batch_size: 4\n")
    assert load_config(["--config", path, "--batch_size", str(Config().batch_size)]).settings.batch_size == 16


@pytest.mark.parametrize(
    ("argv", "value"),
    [([], False), (["--evaluate"], True), (["--evaluate", "False"], False), (["--evaluate=1"], True)],
)
def test_boolean_flags(write_config, argv, value):
    assert load_config(["--config", write_config("seed: 1"), *argv]).settings.evaluate is value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernal_size: 5", "c.yaml: kernal_size: unknown key; did you mean kernel_size?"),
        ("zzz: 5", "c.yaml: zzz: unknown key"),
        ("batch_size: '16'", "c.yaml: batch_size: found '16', expected an integer"),
        ("batch_size: 0", "c.yaml: batch_size: found 0, expected at least 1"),
        ("batch_size: true", "c.yaml: batch_size: found True"),
        ("init_lr: fast", "c.yaml: init_lr: found 'fast', expected a finite number"),
        ("init_lr: .nan", "c.yaml: init_lr: found nan"),
        ("init_lr: 0", "c.yaml: init_lr: found 0, expected more than 0"),
        ("vit_grad_ckpt: 1", "c.yaml: vit_grad_ckpt: found 1, expected true or false"),
        ("model: vtsum", "c.yaml: model: found 'vtsum', expected one of vtsum_blip_tt, vtsum_blip_tt_ca"),
        ("splits: [val, tset]", "c.yaml: splits: found 'tset', expected one of"),
        ("splits: [val, val]", "c.yaml: splits: found 'val', 'val', expected each name once"),
        ("splits: []", "c.yaml: splits: found a list of 0, expected a list of names"),
        ("min_lr: 1.0", "c.yaml: min_lr: found 1.0, expected at most init_lr"),
        ("min_text_length: 200", "c.yaml: min_text_length: found 200, expected at most max_text_length (128)"),
        ("prompt: [a]", "c.yaml: prompt: found a list of 1, expected text"),
        ("dataset: videoxm", "c.yaml: dataset: found 'videoxm', expected one of videoxum, instruct_v2xum, own"),
        ("ann_files: test.json", "c.yaml: ann_files: found 'test.json', expected keys and values"),
        ("ann_files: [test.json]", "c.yaml: ann_files: found a list of 1, expected keys and values"),
        ("ann_files: {tset: x}", "c.yaml: ann_files: found 'tset', expected one of train, val, test"),
        ("ann_files: {test: 3}", "c.yaml: ann_files: found 3, expected text"),
        ("a: [", "c.yaml: config: line "),
        ("- a", "c.yaml: config: found list, expected keys and values"),
        ("", "c.yaml: config: found NoneType"),
        ("output_dir:", "c.yaml: output_dir: found nothing, expected a folder"),
        ("lambda_vsum: 1" + "0" * 400, "c.yaml: lambda_vsum: found 1000"),
        ("max_epoch: 1" + "0" * 400, "c.yaml: max_epoch: found 1000"),
        ("splits: " + "[" * 5000 + "]" * 5000, "c.yaml: config: not valid YAML (maximum recursion depth"),
        ("seed: 1\nseed: 2", "c.yaml: config: line "),
        ("seed: !!python/object/apply:os.getpid []", "c.yaml: config: line 1: not valid YAML"),
    ],
)
def test_invalid_yaml_raises_one_line(write_config, text, message):
    with pytest.raises(ValueError) as caught:
        load_config(["--config", write_config(text)])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--kernal_size", "5"], "--kernal_size: unknown flag; did you mean --kernel_size?"),
        (["--batch_size", "many"], "argument --batch_size: invalid int value: 'many'"),
        (["--batch_size", "-1"], "batch_size: found -1, expected at least 1"),
        (["--evaluate", "perhaps"], "argument --evaluate: found 'perhaps', expected true or false"),
        (["--batch", "5"], "--batch: unknown flag; did you mean --batch_size?"),
        (["extra"], "unknown argument 'extra'"),
        (["--ann_files", "x.json"], "argument --ann_files: found 'x.json', expected KEY=VALUE, each key once"),
        (["--ann_files", "test=x", "test=y"], "argument --ann_files: found 'test=y', expected KEY=VALUE, each key"),
        (["--ann_files", "tset=x"], "ann_files: found 'tset', expected one of train, val, test"),
    ],
)
def test_invalid_flags_raise(write_config, argv, message):
    with pytest.raises(ValueError) as caught:
        load_config(["--config", write_config("seed: 1"), *argv])
    assert message in str(caught.value)


@pytest.mark.parametrize("cls", [Config, VTClipConfig])
def test_mappings(cls, write_config, tmp_path):
    assert load_settings(cls, ["--config", write_config("ann_files:")]).settings == cls()
    path = write_config("ann_files: {train: a.json, test: b=c.json}")
    command = load_settings(cls, ["--config", path])
    assert command.settings.ann_files == dict(train="a.json", test="b=c.json") and not command.notes
    write_settings(command.settings, tmp_path / "again.yaml")
    assert load_settings(cls, ["--config", str(tmp_path / "again.yaml")]).settings == command.settings
    (tmp_path / "derived.yaml").write_text("base: c.yaml\nseed: 1\n")
    assert load_settings(cls, ["--config", str(tmp_path / "derived.yaml")]).settings == command.settings.replace(seed=1)
    command = load_settings(cls, ["--config", path, "--ann_files", "val=d e.json", "test=b=c.json"])
    assert command.settings.ann_files == dict(val="d e.json", test="b=c.json")
    assert command.notes == (
        "ann_files: the flag's {'val': 'd e.json', 'test': 'b=c.json'} overrides the config's "
        "{'train': 'a.json', 'test': 'b=c.json'}",
    )


def test_configurations_of_datasets():
    values = {}
    for path in sorted((ROOT / "configs/datasets").glob("*.yaml")):
        config = load_config(["--config", str(path)]).settings
        assert config.dataset == path.stem and config.output_dir == f"outputs/datasets/{path.stem}"
        values[path.stem] = config
    template = load_config(["--config", str(ROOT / "configs/own_data.yaml")]).settings
    assert template.dataset == "own" and values.keys() | {"own"} == DATASETS.keys()
    published = load_config(["--config", str(ROOT / "configs/ablations/tt_ca.yaml")]).settings
    data = ("dataset", "ann_root", "ann_files", "video_embeddings_root", "clip_root", "output_dir")
    for config in values.values():
        assert config.replace(**{name: getattr(published, name) for name in data}) == published


def test_missing_config_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.yaml: config: no such file"):
        load_config(["--config", str(tmp_path / "none.yaml")])
    with pytest.raises(ValueError, match="--config"):
        load_config([])


def test_error_of_an_invalid_value_names_its_file(write_config):
    with pytest.raises(ValueError, match=r"c.yaml: batch_size: found 0"):
        load_config(["--config", write_config("batch_size: 0\nseed: 1"), "--seed", "2"])


def test_config_inherits_from_its_base(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "first.yaml").write_text("init_lr: 1e-4\nbatch_size: 4\nsplits: [val]\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\nbatch_size: 8\n")
    (tmp_path / "deep/third.yaml").write_text("seed: 3\nbase: ../second.yaml\nsplits: [test]\n")
    command = load_config(["--config", str(tmp_path / "deep/third.yaml"), "--batch_size", "2"])
    assert command.settings == Config(init_lr=1e-4, batch_size=2, splits=("test",), seed=3)
    assert command.notes == ("batch_size: the flag's 2 overrides the config's 8",)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("batch_size: 0", "base: first.yaml\nseed: 1", r"first.yaml: batch_size: found 0"),
        ("batch_size: 1", "base: first.yaml\nbatch_size: 0", r"second.yaml: batch_size: found 0"),
        ("batchsize: 1", "base: first.yaml", r"first.yaml: batchsize: unknown key; did you mean batch_size"),
        (
            "base: second.yaml",
            "base: first.yaml",
            r"first.yaml: base: found 'second.yaml', which leads to a cycle of base files",
        ),
        ("", "base: second.yaml", r"second.yaml: base: found 'second.yaml', which leads to a cycle of base files"),
        ("", "base: none.yaml", r"second.yaml: base: .*none.yaml: no such file \(paths are relative"),
        ("", "base: [first.yaml]", r"second.yaml: base: found \['first.yaml'\], expected another"),
    ],
)
def test_error_of_an_invalid_base_names_its_file(tmp_path, first, second, message):
    (tmp_path / "first.yaml").write_text(first)
    (tmp_path / "second.yaml").write_text(second)
    with pytest.raises(ValueError, match=message):
        load_config(["--config", str(tmp_path / "second.yaml")])


def test_ablations_differ_only_in_the_named_settings():
    values = {}
    for path in sorted((ROOT / "configs/ablations").glob("*.yaml")):
        config = load_config(["--config", str(path)]).settings
        assert config.output_dir == f"outputs/ablations/{path.stem}"
        values[path.stem] = config.replace(output_dir="same").as_dict()
    tt_ca = values["tt_ca"]
    assert (tt_ca["max_epoch"], tt_ca["lambda_vsum"], tt_ca["init_lr"], tt_ca["kernel_size"]) == (56, 15.0, 2e-5, 5)
    changed = {
        name: {key: value for key, value in settings.items() if value != tt_ca[key]}
        for name, settings in values.items()
    }
    tt = dict(model="vtsum_blip_tt", lambda_vsum=10.0, init_lr=1e-5)
    assert changed == {
        "tt_ca": {},
        "tt": tt,
        "no_tt": tt | dict(tt_depth=0),
        "v2v": dict(task="v2v"),
        "v2t": dict(task="v2t"),
    }


def test_decoders_differ_only_in_the_language_model():
    base = load_config(["--config", str(ROOT / "configs/ablations/tt_ca.yaml")]).settings.as_dict()
    paths = set()
    for path in sorted((ROOT / "configs/decoders").glob("*.yaml")):
        values = load_config(["--config", str(path)]).settings.as_dict()
        changed = {name: value for name, value in values.items() if value != base[name]}
        assert changed.pop("output_dir") == f"outputs/decoders/{path.stem}" and changed.pop("decoder") == "causal_lm"
        paths.add(changed.pop("decoder_path"))
        assert changed.keys() <= {"decoder_train", "init_lr"}
    assert len(paths) == 4


def test_a_language_model_needs_its_path(write_config):
    flags = ["--config", write_config("seed: 1"), "--decoder", "causal_lm"]
    with pytest.raises(
        ValueError, match="^decoder_path: found nothing, expected the language model of decoder causal_"
    ):
        load_config(flags)
    assert load_config([*flags, "--task", "v2v"]).settings.decoder == "causal_lm"


def test_flag_overrides_an_invalid_value_of_the_yaml(write_config):
    assert load_config(["--config", write_config("batch_size: 0"), "--batch_size", "2"]).settings.batch_size == 2


def test_every_field_has_help_and_is_documented():
    assert all(field.description for cls in (Config, VTClipConfig) for field in cls.model_fields.values())
    assert reference_table(Config) in read_document("configuration"), "python -m engine.config prints the table"


def test_settings_of_earlier_versions_are_ignored_with_a_note(write_config):
    command = load_config(["--config", write_config("preload: ram\nskip_nonfinite: 3\nseed: 1")])
    assert command.settings == Config(seed=1)
    assert [note.split(": ", 1)[1] for note in command.notes] == [
        "preload, skip_nonfinite: a setting of an earlier version, ignored"
    ]


def test_paths_in_published_config_are_ignored_with_one_note(write_config):
    """The published code wrote them to config.yaml and to its checkpoints."""
    path = write_config("result_dir: out/result\nseed: 1\nckpt_dir: out/checkpoints\nlogger_pth: out/train.log\n")
    command = load_config(["--config", path])
    assert command.settings == Config(seed=1) == Config(**read_settings(path, Config))
    assert command.notes == (f"{path}: result_dir, ckpt_dir, logger_pth: derived from output_dir, ignored",)
    with pytest.raises(ValueError, match=r"--result_dir: unknown flag$"):
        load_config(["--config", path, "--result_dir", "out"])
    with pytest.raises(ValueError, match=r"c.yaml: result_dir: unknown key$"):
        load_settings(VTClipConfig, ["--config", path])


def test_process_options_of_published_commands_are_ignored_with_a_note(write_config):
    argv = ["--config", write_config("seed: 1"), "--world_size", "4", "--dist_url", "env://", "--distributed"]
    reason = "set by torch.distributed.run, ignored"
    for distributed in ([], ["True"], ["0"]):
        command = load_config([*argv, *distributed, "--seed", "2"])
        assert command.settings == Config(seed=2)
        assert command.notes[0] == f"--world_size, --dist_url, --distributed: {reason}" and len(command.notes) == 2
    path = write_config("world_size: 1\ndist_url: env://\ndistributed: true\n")
    command = load_config(["--config", path])
    assert command.settings == Config()
    assert command.notes == (f"{path}: world_size, dist_url, distributed: {reason}",)
    with pytest.raises(ValueError, match="argument --world_size: invalid int value: 'all'"):
        load_config(["--config", path, "--world_size", "all"])


@pytest.mark.parametrize(
    ("text", "flags", "log_freq", "note"),
    [
        ("print_freq: 50", [], 50, "c.yaml: print_freq: another name of log_freq"),
        ("seed: 1", ["--print_freq", "50"], 50, "--print_freq: another name of --log_freq"),
        ("log_freq: 7", ["--print_freq", "50"], 50, "log_freq: the flag's 50 overrides the config's 7"),
        ("print_freq: 7", ["--log_freq", "50"], 50, "log_freq: the flag's 50 overrides the config's 7"),
        ("print_freq: 7\nlog_freq: 7", [], 7, "c.yaml: print_freq: another name of log_freq"),
        ("seed: 1", ["--print_freq", "7", "--log_freq", "7"], 7, "--print_freq: another name of --log_freq"),
    ],
)
def test_published_name_of_log_freq(write_config, text, flags, log_freq, note):
    command = load_config(["--config", write_config(text), *flags])
    assert command.settings == Config(log_freq=log_freq, seed=command.settings.seed)
    assert any(line.endswith(note) for line in command.notes), command.notes


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (
            "print_freq: 50\nlog_freq: 10",
            [],
            r"c.yaml: print_freq: found 50, expected 10, the value of log_freq: both name the same setting; give one",
        ),
        (
            "seed: 1",
            ["--log_freq", "10", "--print_freq", "50"],
            r"^--print_freq: found 50, expected 10, the value of --log_freq: both name the same setting; give one",
        ),
        ("print_freq: 0", [], r"c.yaml: log_freq: found 0, expected at least 1"),
        ("seed: 1", ["--print_freq", "often"], "argument --print_freq: invalid int value: 'often'"),
    ],
)
def test_contradictory_or_invalid_log_freq_raises(write_config, text, flags, message):
    with pytest.raises(ValueError, match=message):
        load_config(["--config", write_config(text), *flags])


def test_name_of_log_freq_in_a_base_is_overridden(tmp_path):
    (tmp_path / "first.yaml").write_text("print_freq: 50\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\nlog_freq: 5\n")
    assert load_config(["--config", str(tmp_path / "second.yaml")]).settings.log_freq == 5


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("max_epochs", "max_epoch"),
        ("batchsize", "batch_size"),
        ("batch", "batch_size"),
        ("lambda_vsm", "lambda_vsum"),
        ("kernal_size", "kernel_size"),
        ("num_worker", "num_workers"),
        ("outputdir", "output_dir"),
        ("precison", "precision"),
        ("weight_decy", "weight_decay"),
        ("image-size", "image_size"),
        ("evaluat", "evaluate"),
        *((name, None) for name in ("nproc", "foo", "optimizer", "dist_backend", "eval_only", "local_rank", "gpus")),
        *((name, None) for name in ("nproc_per_node", "hidden_size", "momentum", "dropout", "warmup", "amp", "lr")),
        *((name, None) for name in ("num", "vit_size", "learning_rate", "save_freq", "gamma", "backend")),
    ],
)
def test_suggestions(write_config, name, suggestion):
    """A misspelled name gets a suggestion; another name, which would be led astray, gets none."""
    with pytest.raises(ValueError) as caught:
        load_config(["--config", write_config("seed: 1"), f"--{name}", "1"])
    assert str(caught.value) == f"--{name}: unknown flag" + (f"; did you mean --{suggestion}?" if suggestion else "")
    with pytest.raises(ValueError) as caught:
        load_config(["--config", write_config(f"{name}: 1")])
    assert str(caught.value).endswith(f"{name}: unknown key" + (f"; did you mean {suggestion}?" if suggestion else ""))


@pytest.mark.parametrize("cls", [Config, VTClipConfig])
def test_names_of_devices(cls, write_config):
    for name in ("auto", "cpu", "cuda", "cuda:0", "cuda:13"):
        assert load_settings(cls, ["--config", write_config("seed: 1"), "--device", name]).settings.device == name
        assert load_settings(cls, ["--config", write_config(f"device: '{name}'")]).settings.device == name
    for name in ("gpu", "cuda:", "cuda:-1", "cuda:01", "cuda:1,2", "CUDA", "cpu:0", "cuda:0\n", ""):
        with pytest.raises(ValueError) as caught:
            load_settings(cls, ["--config", write_config("seed: 1"), "--device", name])
        assert str(caught.value) == f"device: found {name!r}, expected auto, cpu, cuda or cuda:N"
    with pytest.raises(ValueError, match="c.yaml: device: found 0, expected text"):
        load_settings(cls, ["--config", write_config("device: 0")])


def test_stored_values_are_comparable_with_own():
    """Values of a configuration in a published checkpoint, as `Checkpointer` compares them."""
    stored = dict(prompt=None, pretrained=None, lambda_vsum=1, print_freq=50, result_dir="x", batch_size=None)
    canonical, current = Config.canonical(stored), Config(prompt="", pretrained="", log_freq=50).as_dict()
    for name in ("prompt", "pretrained", "lambda_vsum", "log_freq"):
        assert canonical[name] == current[name]
    assert canonical["batch_size"] is None and "print_freq" not in canonical


def test_choices_equal_the_registries():
    """Configurations accept exactly the implemented values."""
    registries = dict(
        dataset=DATASETS,
        loss_type=KEYFRAME_LOSSES,
        smoothing_scope=SMOOTHING_SCOPES,
        position_init=POSITION_INITS,
        vit=FEATURE_WIDTHS,
        model=ARCHITECTURES,
        task=TASKS,
        decoder=CAPTION_DECODERS,
        decoder_train=DECODER_TRAINING_MODES,
        precision=PRECISIONS,
        best_metric=METRICS,
    )
    for name, registry in registries.items():
        assert set(choices(Config.model_fields[name])) == set(registry), name


@pytest.mark.parametrize("cls", [Config, VTClipConfig])
def test_earlier_name_of_a_precision_is_accepted(cls, write_config):
    from_yaml = load_settings(cls, ["--config", write_config("precision: float32")]).settings
    from_flag = load_settings(cls, ["--config", write_config("seed: 42"), "--precision", "float32"]).settings
    assert from_yaml.precision == from_flag.precision == "fp32"
    assert cls.canonical(dict(precision="float32", seed=1)) == dict(precision="fp32", seed=1)
