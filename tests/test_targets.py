"""Discovery of models in files and packages, and what is guessed when something is missing."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

from gradcheckup.errors import MissingDependencyError, TargetError, UsageError
from gradcheckup.probe import batches
from gradcheckup.targets import Target, TargetOptions, load_target

Write = Callable[..., str]

IMPORTS = "import torch\nfrom torch import nn\n"
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 3)
    def forward(self, x):
        return self.fc(x)
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file with the usual imports on top and returns its name."""

    def _write(text: str, name: str = "model.py", *, imports: str = IMPORTS) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(imports + dedent(text))
        return name

    return _write


def refused(spec: str, **options: object) -> TargetError:
    with pytest.raises(TargetError) as caught:
        load_target(spec, TargetOptions(**options))  # type: ignore[arg-type]
    assert not str(caught.value).endswith(".")
    return caught.value


def run_once(target: Target) -> object:
    """The model's output on the first batch, called as the probe calls it."""
    (batch, *_), _ = batches.take(target.data, 1)
    inputs, _ = batches.split(batch, target.model, keep_targets=True)
    return batches.call(target.model, inputs)


# -- which model ---------------------------------------------------------------------------------


def test_the_only_class_is_the_model(write: Write) -> None:
    target = load_target(write(NET))
    assert type(target.model).__name__ == "Net"
    assert target.subject == "model.py"


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("model = nn.Linear(4, 2)", 4),
        ("def build_model():\n    return nn.Linear(6, 2)", 6),
        ("model = nn.Linear(4, 2)\ndef build_model():\n    return nn.Linear(6, 2)", 4),
        ("def model():\n    return nn.Linear(7, 2)", 7),
    ],
)
def test_names_of_models_in_order(write: Write, text: str, width: int) -> None:
    assert load_target(write(NET + text)).model.in_features == width


@pytest.mark.parametrize("name", ["Net", "make", "ready", "Zoo.inner", "zoo.net"])
def test_class_factory_instance_and_dotted_names(write: Write, name: str) -> None:
    file = write(
        NET
        + """
class Other(Net): ...
def make(): return Net()
ready = Net()
class Zoo:
    inner = Net
class zoo:
    net = Net()
"""
    )
    assert type(load_target(f"{file}:{name}").model).__name__ == "Net"
    assert type(load_target(file, TargetOptions(model=name)).model).__name__ == "Net"


def test_imported_classes_and_losses_are_no_models(write: Write) -> None:
    write(NET.replace("Net", "Block"), "parts.py")
    text = "from parts import Block\nfrom torch.nn import Linear\n" + NET
    text += "class Focal(nn.CrossEntropyLoss): ...\n"
    assert type(load_target(write(text)).model).__name__ == "Net"


def test_a_loss_of_the_files_own_is_no_model(write: Write) -> None:
    text = NET + "\nclass Contrast(nn.Module):\n    pass\n\ncriterion = Contrast()\n"
    assert type(load_target(write(text)).model).__name__ == "Net"


def test_several_models_are_listed_ready_to_copy(write: Write) -> None:
    error = refused(write(NET + NET.replace("Net", "Other")))
    assert "\n  model.py:Net\n  model.py:Other" in str(error)


def test_no_model(write: Write) -> None:
    assert "build_model()" in str(refused(write("x = 1")))
    assert "did you mean build_modle?" in str(refused(write("def build_modle(): ...")))


def test_a_single_instance_of_an_imported_class(write: Write) -> None:
    assert load_target(write("net = nn.Linear(3, 2)")).model.in_features == 3


def test_constructor_that_needs_arguments(write: Write) -> None:
    text = NET.replace("(self):", "(self, hidden, *, depth, bias=True):")
    error = refused(write(text))
    assert "needs arguments: hidden, depth" in str(error)
    assert "build_model()" in str(error)
    assert "Net(hidden=..., depth=...)" in str(error)
    assert "model.py:net" in str(refused(write(text + "net = Net(1, depth=2)")))


def test_a_package_factory_with_arguments() -> None:
    assert "build_model()" in str(refused("torch.nn:Linear"))


@pytest.mark.parametrize(
    ("text", "came"),
    [("Thing = 3", "an int"), ("Thing = 'resnet'", "a str"), ("def Thing(): return 1", "an int")],
)
def test_what_is_no_model(write: Write, text: str, came: str) -> None:
    assert came in str(refused(write(text) + ":Thing"))


def test_attribute_that_does_not_exist(write: Write) -> None:
    assert "did you mean model.py:Net?" in str(refused(write(NET) + ":net_"))
    assert "did you mean torch.nn:Linear?" in str(refused("torch.nn:Linaer"))


# -- how it is imported --------------------------------------------------------------------------


def test_files_work_like_scripts_but_are_not_main(write: Write) -> None:
    write("WIDTH = 9", "sizes.py", imports="")
    (Path("deep") / "er").mkdir(parents=True)
    write("WIDTH = 11", "deep/er/sizes.py", imports="")
    file = write(
        """
        import sys, sizes, dataclasses, argparse
        from typing import ClassVar
        argparse.ArgumentParser().parse_args()
        @dataclasses.dataclass
        class Config:
            kinds: ClassVar[int] = 2
            width: int = sizes.WIDTH
        model = nn.Linear(Config().width, 2)
        model.seen = (__name__, tuple(sys.argv), __file__)
        model.config = Config()
        if __name__ == "__main__":
            raise AssertionError
        """,
        "deep/er/net.py",
    )
    before = list(sys.argv)
    model = load_target(file).model
    path = str(Path(file).resolve())
    assert model.in_features == 11
    assert model.seen == ("net", (path,), path)
    assert sys.argv == before
    assert pickle.loads(pickle.dumps(model.config)) == model.config  # noqa: S301 - our own
    assert not (Path("deep") / "er" / "__pycache__" / "net.cpython.pyc").exists()
    assert "net" not in {p.stem.split(".")[0] for p in Path("deep/er").rglob("*.pyc")}


def test_a_file_called_like_a_library_does_not_replace_it(write: Write) -> None:
    load_target(write(NET, "torch.py", imports="import sys\nsys.path.pop(0)\n" + IMPORTS))
    assert sys.modules["torch"] is torch


def test_a_changed_file_is_read_again(write: Write) -> None:
    load_target(write("model = nn.Linear(4, 2)"))
    assert load_target(write("model = nn.Linear(5, 2)")).model.in_features == 5


def test_modules_and_packages(write: Write) -> None:
    write("", "zoo/__init__.py")
    write("from .parts import width\nmodel = nn.Linear(width, 2)", "zoo/nets.py")
    write("width = 8", "zoo/parts.py")
    assert load_target("zoo.nets").model.in_features == 8
    assert load_target("zoo.nets:model").model.in_features == 8
    assert "package.module:Name" in str(refused("zoo/nets.py"))


def test_seeded_weights(write: Write) -> None:
    first, second, other = (
        load_target(write(NET), TargetOptions(seed=seed)).model.fc.weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


# -- what goes wrong on the way ------------------------------------------------------------------


def test_missing_files(write: Write) -> None:
    write(NET, "model.py")
    write(NET, "src/resnet.py")
    assert "did you mean model.py?" in str(refused("modle.py"))
    assert "did you mean model.py?" in str(refused("modl"))
    assert f"did you mean {Path('src') / 'resnet.py'}?" in str(refused("src/resent.py"))
    assert "no folder" in str(refused("scr/resnet.py"))
    assert "resnet.py" in str(refused("src"))
    assert "did you mean torchvision?" in str(refused("torchvison.models:resnet18"))


def test_wrong_kinds_of_files() -> None:
    for name in ("weights.pt", "notes.txt"):
        Path(name).write_text("")
        assert "no Python file" in str(refused(f"./{name}"))
    assert "checkpoint" in str(refused("weights.pt"))


@pytest.mark.parametrize("spec", ["model.py:", ":Net", "", "model.py:Net()", "a b"])
def test_malformed_targets(write: Write, spec: str) -> None:
    write(NET)
    refused(spec)


def test_dots_in_place_of_the_colon() -> None:
    assert "write torch.nn:Linear" in str(refused("torch.nn.Linear"))


def test_error_in_the_file_shows_its_own_frames(write: Write) -> None:
    write("def broken():\n    return nn.Linear('a', 2)", "helper.py")
    error = refused(write("from helper import broken\nbroken()"))
    text = error.traceback_text or ""
    assert 'File "model.py", line 4, in <module>\n    broken()' in text
    assert 'File "helper.py", line 4, in broken' in text
    assert "TypeError" in text.splitlines()[-1]
    assert "gradcheckup" not in text
    assert "torch/nn" not in text
    assert "helper" not in sys.modules
    assert str(Path.cwd()) not in sys.path


def test_import_error_in_the_file(write: Write) -> None:
    error = refused(write("import no_such_thing"))
    assert "No module named 'no_such_thing'" in str(error)
    assert 'File "model.py", line 3, in <module>' in (error.traceback_text or "")


def test_missing_package_is_named_with_its_command(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    error = refused(write("import sklearn"))
    assert "pip install scikit-learn" in str(error)
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match="pip install timm"):
        load_target("timm.models:resnet18")


def test_syntax_error(write: Write) -> None:
    error = refused(write("def model(:\n  pass"))
    assert "SyntaxError" in str(error)
    assert 'File "model.py", line 3' in (error.traceback_text or "")
    assert "def model(:" in (error.traceback_text or "")


def test_exit_at_import(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    text = "import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\np.parse_args()"
    error = refused(write(text))
    assert "sys.exit(2)" in str(error)
    assert "__main__" in str(error)
    capfd.readouterr()


def test_ctrl_c_is_no_error_of_the_file(write: Write) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_target(write("raise KeyboardInterrupt"))


def test_failing_constructor(write: Write) -> None:
    error = refused(write(NET.replace("nn.Linear(5, 3)", "undefined")))
    assert "NameError" in str(error)
    assert "self.fc = undefined" in (error.traceback_text or "")


# -- data, criterion, optimizer ------------------------------------------------------------------

DATA = "(torch.zeros(6, 5), torch.zeros(6, dtype=torch.int64))"


@pytest.mark.parametrize("text", ["data = {}", "batch = {}", "def build_data(): return {}"])
def test_names_of_data(write: Write, text: str) -> None:
    target = load_target(write(NET + text.replace("{}", DATA)))
    assert target.data[0].shape == (6, 5)
    assert any(line.startswith("data from model.py:") for line in target.assumptions)


def test_data_by_option(write: Write) -> None:
    file = write(NET + f"data = 3\nmine = {DATA}\ndef other(): return mine")
    for name in ("mine", "other"):
        assert load_target(file, TargetOptions(data=name)).data[0].shape == (6, 5)
    assert "has no 'minee'; did you mean model.py:mine?" in str(refused(file, data="minee"))
    assert "an int" in str(refused(file, data="data"))
    with pytest.raises(UsageError, match="--data and --input"):
        load_target(file, TargetOptions(data="mine", input=("3,5",)))


def test_data_that_is_none_is_passed_over_aloud(write: Write) -> None:
    target = load_target(write(NET + "data = 'folder/'"))
    assert any("data in model.py is a str" in line for line in target.assumptions)


def test_pair_of_loaders(write: Write) -> None:
    text = """
from torch.utils.data import DataLoader, TensorDataset
def build_data():
    return [DataLoader(TensorDataset(*{}), batch_size=n) for n in (2, 3)]
"""
    target = load_target(write(NET + text.replace("{}", DATA)))
    assert target.data.batch_size == 2
    assert any("the first of the 2" in line for line in target.assumptions)


def test_failing_data(write: Write) -> None:
    error = refused(write(NET + "def build_data():\n    raise OSError('disk')"))
    assert "build_data() in model.py failed: OSError: disk" in str(error)
    assert "needs arguments: root" in str(refused(write(NET + "def build_data(root): ...")))


@pytest.mark.parametrize(
    "text", ["criterion = nn.MSELoss()", "criterion = nn.MSELoss", "from torch.nn import MSELoss"]
)
def test_criteria(write: Write, text: str) -> None:
    option = "MSELoss" if "import" in text else None
    target = load_target(write(NET + text), TargetOptions(criterion=option))
    assert isinstance(target.criterion, nn.MSELoss)


def test_criterion_by_name(write: Write) -> None:
    file = write(NET + "criterion = 3")
    assert isinstance(
        load_target(file, TargetOptions(criterion="smoothl1loss")).criterion, nn.SmoothL1Loss
    )
    assert "did you mean CrossEntropyLoss?" in str(refused(file, criterion="CrossEntropLoss"))
    assert "an int" in str(refused(file))


def test_compute_loss(write: Write) -> None:
    target = load_target(write(NET + "def compute_loss(model, batch): return 1"))
    assert target.compute_loss is not None


def test_optimizers_of_the_file(write: Write) -> None:
    model = NET + "model = Net()\n"
    instance = load_target(write(model + "optimizer = torch.optim.Adam(model.parameters(), 0.5)"))
    assert instance.optimizer.param_groups[0]["params"][0] is instance.model.fc.weight
    built = load_target(
        write(NET + "def build_optimizer(m): return torch.optim.Adam(m.parameters(), 0.5)"),
        TargetOptions(hyperparameters={"lr": 0.25}),
    )
    assert built.optimizer.param_groups[0]["params"][0] is built.model.fc.weight
    assert built.optimizer.param_groups[0]["lr"] == 0.25
    assert load_target(write(NET + "optimizer = torch.optim.Adam")).optimizer is torch.optim.Adam


def test_optimizer_of_another_model_is_passed_over_aloud(write: Write) -> None:
    text = NET + "model = Net()\noptimizer = torch.optim.Adam(model.parameters())"
    target = load_target(write(text) + ":Net")
    assert target.optimizer is None
    assert any("another model's parameters" in line for line in target.assumptions)


def test_optimizers_of_torch(write: Write) -> None:
    file = write(NET)
    target = load_target(
        file, TargetOptions(optimizer="adamw", hyperparameters={"lr": 0.1, "weight_decay": 0.2})
    )
    built = target.optimizer(target.model.parameters())
    assert type(built) is torch.optim.AdamW
    assert (built.defaults["lr"], built.defaults["weight_decay"]) == (0.1, 0.2)
    with pytest.raises(UsageError, match=r"did you mean AdamW\?"):
        load_target(file, TargetOptions(optimizer="adamww"))
    with pytest.raises(UsageError, match="Adam takes no --momentum"):
        load_target(
            file, TargetOptions(optimizer="adam", hyperparameters={"lr": 0.1, "momentum": 0.9})
        )
    only_rate = load_target(file, TargetOptions(hyperparameters={"lr": 0.5})).optimizer
    assert only_rate.func is torch.optim.SGD
    assert only_rate.keywords == {"lr": 0.5, "momentum": 0.9}


# -- guessed inputs and targets ------------------------------------------------------------------

CLASSIFIER = "random labels of"


@pytest.mark.parametrize(
    ("body", "shape", "targets"),
    [
        ("nn.Linear(5, 3)", (32, 5), (32,)),
        ("nn.Flatten(), nn.Linear(784, 10)", (32, 1, 28, 28), (32,)),
        ("nn.Flatten(), nn.Linear(3072, 10)", (32, 3, 32, 32), (32,)),
        ("nn.Flatten(), nn.Linear(50, 10)", (32, 50), (32,)),
        ("nn.BatchNorm1d(4), nn.Linear(4, 2)", (32, 4), (32,)),
        ("nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(7)", (8, 3, 64, 64), (8,)),
        ("nn.Conv2d(3, 2, 3, 2), nn.Flatten(), nn.Linear(450, 5)", (8, 3, 32, 32), (8,)),
        ("nn.Conv2d(1, 2, 5), nn.Flatten(), nn.Linear(1152, 5)", (8, 1, 28, 28), (8,)),
        ("nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(248, 3)", (8, 2, 64), (8,)),
        ("nn.Conv3d(1, 2, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten()", (4, 1, 16, 32, 32), (4,)),
        ("nn.Conv2d(3, 5, 1)", (8, 3, 64, 64), (8, 64, 64)),
        ("nn.ConvTranspose2d(6, 3, 4)", (8, 6, 1, 1), (8, 3, 4, 4)),
        ("nn.Embedding(11, 4), nn.Linear(4, 11)", (8, 16), (8, 16)),
        ("nn.Linear(6, 1)", (32, 6), (32, 1)),
    ],
)
def test_guesses(write: Write, body: str, shape: tuple[int, ...], targets: tuple[int, ...]) -> None:
    target = load_target(write(f"model = nn.Sequential({body})"))
    assert tuple(target.data[0].shape) == shape
    assert tuple(target.data[1].shape) == targets
    run_once(target)
    assert "x".join(map(str, shape)) in target.assumptions[0]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("nn.LSTM(6, 5, batch_first=True)", (8, 16, 6)),
        ("nn.GRU(6, 5)", (16, 8, 6)),
        ("nn.TransformerEncoderLayer(8, 2, batch_first=True)", (8, 16, 8)),
    ],
)
def test_sequence_models(write: Write, layer: str, shape: tuple[int, ...]) -> None:
    axis = shape.index(16)
    text = f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = {layer}
        self.head = nn.LazyLinear(4)
    def forward(self, x):
        y = self.body(x)
        y = y[0] if isinstance(y, tuple) else y
        return self.head(y.mean({axis}))
"""
    target = load_target(write(text))
    assert tuple(target.data[0].shape) == shape
    assert target.data[1].shape == (8,)
    assert target.data[1].max() < 4
    assert any("lazy layers" in line for line in target.assumptions)
    run_once(target)


def test_recurrent_layer_with_time_first(write: Write) -> None:
    text = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.rnn, self.head = nn.Embedding(9, 4), nn.GRU(4, 5), nn.Linear(5, 3)
    def forward(self, x):
        return self.head(self.rnn(self.table(x))[0][-1])
"""
    target = load_target(write(text))
    assert [tuple(each.shape) for each in target.data] == [(16, 8), (8,)]


def test_two_tables_of_tokens(write: Write) -> None:
    text = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Embedding(50, 4), nn.Embedding(4, 4)
        self.head = nn.Linear(4, 3)
    def forward(self, source, target):
        return self.head(self.a(source) + self.b(target))
"""
    target = load_target(write(text))
    assert [tuple(each.shape) for each in target.data] == [(8, 16)] * 3
    run_once(target)


def test_tokens_stay_below_the_table(write: Write) -> None:
    target = load_target(write("model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 9))"))
    tokens, labels = target.data
    assert tokens.dtype == labels.dtype == torch.int64
    assert set(tokens.flatten().tolist()) == {0, 1, 2}
    assert 2 < labels.max() < 9


def test_projection_in_front_of_a_recurrent_layer(write: Write) -> None:
    text = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.rnn = nn.Linear(3, 6), nn.RNN(6, 5, batch_first=True)
        self.head = nn.Linear(5, 2)
    def forward(self, x):
        return self.head(self.rnn(self.inp(x))[0][:, -1])
"""
    assert load_target(write(text)).data[0].shape == (8, 16, 3)


def test_sigmoid_output_is_binary(write: Write) -> None:
    target = load_target(write("model = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())"))
    assert isinstance(target.criterion, nn.BCELoss)
    assert set(target.data[1].flatten().tolist()) == {0.0, 1.0}


def test_reconstruction(write: Write) -> None:
    target = load_target(write("model = nn.Sequential(nn.Linear(9, 2), nn.Linear(2, 9))"))
    assert target.data[1] is target.data[0]


@pytest.mark.parametrize("output", ["{'logits': y}", "Out(y, None)", "(y, y)", "{'aux': y}"])
def test_structured_outputs(write: Write, output: str) -> None:
    text = f"""
import collections
Out = collections.namedtuple("Out", "logits aux")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 3)
    def forward(self, x):
        y = self.fc(x)
        return {output}
"""
    target = load_target(write(text))
    assert target.data[1].shape == (32,)


def test_output_with_its_own_loss(write: Write) -> None:
    text = NET.replace("return self.fc(x)", "return {'loss': self.fc(x).mean()}")
    target = load_target(write(text))
    assert len(target.data) == 1
    assert "its own loss" in target.assumptions[0]


def test_several_inputs(write: Write) -> None:
    text = NET.replace("forward(self, x)", "forward(self, x, t, flag=None)")
    alike = load_target(write(text.replace("self.fc(x)", "self.fc(x + t)")))
    assert [tuple(each.shape) for each in alike.data] == [(32, 5), (32, 5), (32,)]
    times = load_target(write(text.replace("self.fc(x)", "self.fc(x) + torch.eye(3)[t % 3]")))
    assert [tuple(each.shape) for each in times.data] == [(32, 5), (32,), (32,)]
    given = load_target(write(text), TargetOptions(input=("4,5", "4:9")))
    assert [tuple(each.shape) for each in given.data] == [(4, 5), (4,), (4,)]


def test_input_option(write: Write) -> None:
    file = write("model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.LazyLinear(4))")
    assert load_target(file, TargetOptions(input=("2,3,9,11",))).data[0].shape == (2, 3, 9, 11)
    embedding = write("model = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 3))")
    for suffix, limit in ((":10", 10), (":int32:10", 10), (":int64", 2)):
        tokens = load_target(embedding, TargetOptions(input=(f"5,40{suffix}",))).data[0]
        assert tokens.max() == limit - 1
    half = load_target(write(NET + "model = Net().double()")).data[0]
    assert half.dtype == torch.float64


@pytest.mark.parametrize("text", ["8,a", "", "8,0", "-1,3", "8,3:int46", "8:0", "8,3:"])
def test_malformed_input_option(write: Write, text: str) -> None:
    with pytest.raises(UsageError, match="--input"):
        load_target(write(NET), TargetOptions(input=(text,)))


def test_nothing_runs(write: Write) -> None:
    error = refused(write(NET.replace("self.fc(x)", "self.fc(x).reshape(7, 11)")))
    assert "32x5, 8x16x5" in str(error)
    assert "--input" in str(error)
    assert "return self.fc(x).reshape(7, 11)" in (error.traceback_text or "")
    assert "no layer" in str(refused(write("model = nn.Identity()")))


def test_integer_output(write: Write) -> None:
    assert "int64" in str(refused(write(NET.replace("self.fc(x)", "self.fc(x).argmax(1)"))))


def test_guessing_leaves_the_model_and_the_generators_alone(write: Write) -> None:
    text = """
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
        model.eval()
        """
    model = load_target(write(text)).model
    drawn = torch.rand(3)
    torch.manual_seed(7)
    same = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    assert torch.equal(drawn, torch.rand(3))
    assert not model.training
    for name, value in same.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_random_data_depends_on_the_seed_alone(write: Write) -> None:
    file = write(NET)
    first, again, other = (load_target(file, TargetOptions(seed=s)).data[0] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_trials_are_quiet(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    body = "print('imported')\n" + NET.replace("return", "print('forward'); return")
    load_target(write(body))
    assert capfd.readouterr() == ("imported\n", "")


@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("vit_b_32", marks=pytest.mark.slow), "squeezenet1_1"]
)
def test_torchvision(name: str) -> None:
    pytest.importorskip("torchvision")
    target = load_target(f"torchvision.models:{name}")
    side = 224 if name.startswith("vit") else 64
    assert target.data[0].shape == (8, 3, side, side)
    assert target.data[1].max() < 1000


def test_spawned_workers_can_unpickle_what_the_file_defines(write: Write) -> None:
    write(
        NET
        + """
class Set(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return torch.zeros(5), 1
def build_data():
    return torch.utils.data.DataLoader(
        Set(), batch_size=2, num_workers=1, multiprocessing_context="spawn")
"""
    )
    (first, labels), _ = load_target("model.py").data
    assert first.shape == (2, 5)
    assert labels.tolist() == [1, 1]
