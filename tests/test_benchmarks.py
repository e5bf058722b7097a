"""The benchmarks themselves: what is measured, refused, written and shown. Nothing here times."""

import dataclasses
import importlib.machinery
import math
import sys
import types
from pathlib import Path

import pandas
import pasted_gates
import pytest
import torch
from threads import threads

import attn_kernels as ak
from attn_kernels import __main__ as command_line
from benchmarks import (
    cases,
    check,
    cli,
    memory,
    models,
    plots,
    providers,
    results,
    runner,
    timing,
)
from benchmarks.ops import OPS, make_inputs

SMALL = (2, 8, 6, 5)
SETUP = cases.Setup("spatial_gate", SMALL, "float32")
SMALL_RUN = (
    "--op",
    "spatial_gate",
    "--shapes",
    "2x8x6x5",
    "--against",
    "eager",
    "--seconds",
    "1e-3",
)


@pytest.fixture(autouse=True)
def _one_thread():
    """Small maps on a busy machine: threads would only wait for each other."""
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    monkeypatch.setattr(timing, "MIN_ROUNDS", 2)
    monkeypatch.setattr(timing, "MAX_ROUNDS", 2)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(runner.gc, "collect", lambda *_: 0)  # half a second beside all of PyTorch


@pytest.fixture(autouse=True)
def _machine_anew():
    """Other tests have other numbers of threads."""
    results.machine.cache_clear()


def bench(out: Path, *arguments: str) -> int:
    return cli.main([*arguments, "--device", "cpu", "--out", str(out)])


# ---- Cases -------------------------------------------------------------------------------------


def test_shapes_are_sets_and_explicit_ones_each_once():
    shapes = cases.parse_shapes("tiny,2x3x4x5,tiny", "cpu")
    assert shapes == [(1, 8, 4, 4), (2, 3, 4, 5)]


def test_cuda_takes_larger_batches_of_named_sets_only():
    shapes = cases.parse_shapes("gam,tiny,2x3x4x5,cifar", "cuda")
    assert [shape[0] for shape in shapes] == [32, 32, 32, 1, 2, 256, 256, 256, 256, 512]
    assert [shape[1:] for shape in shapes[:3]] == [shape[1:] for shape in cases.SHAPES["gam"]]


def test_default_matrix_has_the_shapes_of_each_op_and_the_host_cost():
    found = cases.default_setups("cpu")
    shapes = {op: [s.shape for s in found if s.op == op] for op in OPS}
    assert sorted(shapes["spatial_gate"]) == sorted(cases.SHAPES["resnet"] + cases.SHAPES["tiny"])
    assert sorted(shapes["gam_channel_gate"]) == sorted(cases.SHAPES["gam"] + cases.SHAPES["tiny"])
    first = found[: len(cases.DEFAULT_OPS)]  # all that a slow machine has time for
    assert [s.op for s in first] == list(cases.DEFAULT_OPS)
    assert {s.shape for s in first} == {(8, 512, 28, 28), (8, 256, 56, 56), (8, 256, 28, 28)}


def test_every_op_exists_on_every_floor():
    for name, op in OPS.items():
        if op.module is None and op.function is None:
            assert callable(getattr(ak.functional, name))
            assert callable(getattr(ak.reference, name))
        else:
            assert op.served_as in OPS or callable(getattr(ak.functional, op.served_as))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_leave_no_tie_to_decide(dtype):
    x = make_inputs(OPS["channel_pool"], (2, 64, 9, 9), dtype, torch.channels_last, "cpu").x
    assert torch.all((x == x.max(1, keepdim=True).values).sum(1) == 1)
    assert x.is_contiguous(memory_format=torch.channels_last)


# ---- Timing ------------------------------------------------------------------------------------


class Clock:
    """Time that passes only when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> float:
        self.now += seconds
        return seconds


def test_rounds_are_interleaved_and_start_at_another_each_time(monkeypatch):
    monkeypatch.setattr(timing, "MAX_ROUNDS", 3)
    clock, order = Clock(), []

    def sampler(name):
        return lambda: order.append(name) or clock.spend(1.0)

    taken = timing.interleaved({name: sampler(name) for name in "abc"}, 100, clock)
    assert "".join(order) == "abcbcacab"
    assert taken == {name: [1.0, 1.0, 1.0] for name in "abc"}


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 2), (4.5, 5), (1e9, 20)])
def test_rounds_end_when_the_time_is_up(monkeypatch, seconds, rounds):
    monkeypatch.setattr(timing, "MAX_ROUNDS", 20)
    clock = Clock()
    taken = timing.interleaved({"a": lambda: clock.spend(1.0)}, seconds, clock)
    assert len(taken["a"]) == rounds


def test_a_sample_is_the_mean_of_calls_without_their_preparation(monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 8.0)
    clock, handed = Clock(), []

    def prepare():
        clock.spend(50.0)
        return "state"

    task = timing.Task("a", lambda s: handed.append(s) or clock.spend(2.0), prepare)
    sample = timing.cpu_sampler(task, clock)
    handed.clear()
    assert sample() == 2.0
    assert handed == ["state"] * 4  # as many calls as fill the sample


def test_quantiles_and_halves():
    samples = timing.Samples([5.0, 1.0, 4.0, 2.0, 3.0])
    assert [samples.quantile(q) for q in (0.0, 0.5, 1.0)] == [1.0, 3.0, 5.0]
    assert (samples.early, samples.late) == (4.0, 1.5)


# ---- Correctness comes first -------------------------------------------------------------------


def small_judge(**options):
    inputs = runner.inputs_of(SETUP, "cpu")
    return check.Judge(OPS["spatial_gate"], inputs, gradients=True, **options)


def verdict_on(fn):
    return small_judge().verdict(providers.Provider("suspect", fn))


def forgets_max_gradient(x, weight):
    pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values.detach()], 1)
    return x * torch.sigmoid(torch.nn.functional.conv2d(pooled, weight, padding=3))


@pytest.mark.parametrize(
    ("fn", "complaint"),
    [
        (lambda x, w: ak.functional.spatial_gate(x, w) * 1.00001, "y (L2)"),
        (lambda x, w: ak.functional.spatial_gate(x, w) * math.nan, "y (L2)"),
        (lambda x, w: ak.functional.spatial_gate(x, w)[:, :4].repeat(1, 2, 1, 1), "y (L2)"),
        (forgets_max_gradient, "dx (L2)"),
    ],
)
def test_wrong_results_are_seen(fn, complaint):
    assert complaint in verdict_on(fn).complaint


def test_right_results_pass():
    verdict = verdict_on(ak.functional.spatial_gate)
    assert verdict.right
    assert 0 < verdict.error < 1e-5


def small_plan(*names, modes=("fwd", "full"), setups=(SETUP,)):
    return runner.Plan(setups, modes, names, "cpu", 0.0)


def measured(plan, folder):
    writer = results.Writer(folder, "cpu")
    said = []
    runner.run(plan, writer, said.append, lambda label: None, lambda: None)
    writer.close()
    return results.read(writer.path), said


def make_with_suspects(name, op, inputs):
    def raises(x, *parameters):
        raise RuntimeError("no such kernel\nand a long story")

    suspects = {"wrong": forgets_max_gradient, "raises": raises}
    if name in suspects:
        return [providers.Provider(name, suspects[name])]
    if name == "absent":
        raise providers.MissingError("it is not installed")
    return providers.make(name, op, inputs)


def test_a_peer_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # what a failed import leaves
    inputs = runner.inputs_of(SETUP, "cpu")
    said = []
    assert runner.contestants(["timm"], SETUP, inputs, said.append) == []
    assert said[0].startswith("timm is left out of spatial_gate: timm does not import")
    pool = dataclasses.replace(SETUP, op="channel_pool")
    assert runner.contestants(["timm"], pool, inputs, said.append) == []
    assert said[1].endswith("timm has no layer for channel_pool")


def test_who_is_wrong_or_fails_or_is_missing_gets_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "make", make_with_suspects)
    plan = small_plan("ours", "eager", "wrong", "raises", "absent", "copy")
    frame, said = measured(plan, tmp_path)
    status = dict(zip(frame["provider"], frame["status"], strict=True))
    assert status == {
        "ours-cpu": "ok",
        "eager": "ok",
        "wrong": "wrong",
        "raises": "failed",
        "copy": "ok",
    }
    for row in frame.itertuples():
        assert (row.p50_us > 0) == (row.status == "ok")
    assert "relative error" in frame[frame["provider"] == "wrong"].iloc[0]["note"]
    assert frame[frame["provider"] == "raises"].iloc[0]["note"] == "RuntimeError: no such kernel"
    assert any("absent is left out" in line and "not installed" in line for line in said)
    assert any("wrong is WRONG" in line for line in said)


# ---- Results files -----------------------------------------------------------------------------


def test_rows_say_everything(tmp_path):
    frame, _ = measured(small_plan("ours", "eager", "copy", modes=("fwd", "bwd", "full")), tmp_path)
    assert tuple(frame.columns) == results.COLUMNS
    assert len(frame) == 9
    assert (frame["p20_us"] <= frame["p50_us"]).all()
    assert (frame["p50_us"] <= frame["p80_us"]).all()
    assert (frame["rounds"] == 2).all()
    for column in ("name", "torch", "version", "commit", "utc"):
        assert (frame[column].astype(str).str.len() > 0).all()
    assert (frame["threads"] == 1).all()
    ours = frame[(frame["provider"] == "ours-cpu") & (frame["mode"] == "full")].iloc[0]
    pixels = 2 * 6 * 5
    assert ours["saved_bytes"] == 3 * 4 * pixels
    assert ours["limit_bytes"] == 5 * 8 * 4 * pixels
    assert ours["peak_bytes"] >= 2 * 8 * 4 * pixels  # y and dx
    copies = frame[frame["provider"] == "copy"]
    assert (copies["moved_bytes"] == 2 * 8 * 4 * pixels).all()
    assert copies["error"].isna().all()


def test_products_are_the_yardstick_of_ops_that_have_some(tmp_path):
    gam = dataclasses.replace(SETUP, op="gam_channel_gate")
    plan = small_plan("products", modes=("fwd", "bwd", "full"), setups=(SETUP, gam))
    frame, said = measured(plan, tmp_path)
    assert list(zip(frame["op"], frame["mode"], strict=True)) == [
        ("gam_channel_gate", mode) for mode in ("fwd", "bwd", "full")
    ]
    assert (frame["p50_us"] > 0).all()
    assert frame["moved_bytes"].isna().all()
    assert said == []


def test_commit_of_a_tree_without_history(monkeypatch):
    def no_git(*args, **kwargs):
        raise OSError

    monkeypatch.setattr(results.subprocess, "run", no_git)
    monkeypatch.setenv("ATTN_KERNELS_COMMIT", "abc")
    assert results.commit() == "abc"
    monkeypatch.delenv("ATTN_KERNELS_COMMIT")
    assert results.commit() == "unknown"


def test_ctrl_c_keeps_the_rows_so_far(tmp_path, monkeypatch, capsys):
    whole = runner.write_mode
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        whole(*args)

    monkeypatch.setattr(runner, "write_mode", interrupted)
    assert bench(tmp_path, *SMALL_RUN) == 130
    frame = results.read(tmp_path / "results.csv")
    assert list(frame["provider"]) == ["ours-cpu", "eager", "copy"]
    assert set(frame["mode"]) == {"fwd"}
    assert "3 rows measured so far are kept" in capsys.readouterr().out


# ---- The command -------------------------------------------------------------------------------


def test_a_run_leaves_table_csv_and_plots(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["attn_kernels", "bench", *SMALL_RUN, "--out", str(tmp_path)])
    assert command_line.main() == 0
    names = ("results.csv", "speedup.png", "speedup.svg")
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)
    shown = capsys.readouterr().out
    assert "2x8x6x5" in shown
    assert "ours-cpu" in shown
    assert "Noise: between the even and the odd rounds" in shown


@pytest.mark.parametrize(
    ("absent", "part"),
    [("benchmarks", "run it in a checkout"), ("pandas", "bench: needs pandas: `pip install")],
)
def test_a_missing_package_is_said(capsys, monkeypatch, absent, part):
    find = command_line.importlib.util.find_spec
    monkeypatch.setattr(
        command_line.importlib.util,
        "find_spec",
        lambda name: None if name == absent else find(name),
    )
    monkeypatch.setattr("sys.argv", ["attn_kernels", "bench"])
    assert command_line.main() == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_a_results_file_can_be_shown_and_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda frame, folder: [folder / "drawn.png"])
    assert bench(tmp_path / "a", *SMALL_RUN) == 0
    old = str(tmp_path / "a" / "results.csv")
    assert bench(tmp_path / "b", *SMALL_RUN, "--compare", old) == 0
    assert "Against the other run" in capsys.readouterr().out
    assert bench(tmp_path / "c", "--show", old) == 0
    assert "drawn.png" in capsys.readouterr().out
    assert not (tmp_path / "c" / "results.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--op", "nonsense"], "--op: 'nonsense' is unknown; choose from spatial_gate"),
        (["--shapes", "8x64x56"], "--shapes: '8x64x56' is neither a set"),
        (["--shapes", "8x0x5x5"], "is neither a set"),
        (["--against", "eager,cudnn"], "--against: 'cudnn' is unknown"),
        (["--mode", "back"], "--mode: 'back' is unknown"),
        (["--dtype", "int8"], "--dtype: 'int8' is unknown"),
        (["--layout", "nhwc"], "--layout: 'nhwc' is unknown"),
        (["--shapes", "4096x4096x1024x1024"], "GiB are free"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
        (["--threads", "two"], "invalid int value"),
        (["--seconds", "0"], "--seconds: expected more than 0"),
        (["--device", "tpu"], "--device: expected cpu or cuda"),
        (["--show", "/nowhere/results.csv"], "not a readable results file"),
        (["--compare", "{folder}/broken.csv"], "not a results file: no column"),
        (["--show", "{folder}/words.csv"], "holds something else than numbers"),
        (["--out", "{folder}/broken.csv/out"], "--out: cannot write to"),
        (["--model", "alexnet"], "--model: 'alexnet' is unknown"),
        (["--model", "timm:seresnet50"], "--model: timm:seresnet50 needs timm: `pip install timm`"),
        (["--model", "vgg16-spatial", "--batch", "0"], "--batch: expected at least 1"),
        (["--model", "vgg16-spatial", "--size", "8"], "--size: expected at least 32"),
        (["--ncu", "--shapes", "tiny"], "--ncu: needs a CUDA device"),
        (["--sahpes", "tiny"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, part):
    (tmp_path / "broken.csv").write_text("op,provider\nspatial_gate,eager\n")
    words = {name: ["many"] for name in results.COLUMNS}
    pandas.DataFrame(words).to_csv(tmp_path / "words.csv", index=False)
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    device = [] if "--device" in arguments else ["--device", "cpu"]
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    assert cli.main([*arguments, *device, *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench: ")
    assert part in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_setup_starts_after_the_deadline(tmp_path):
    plan = dataclasses.replace(small_plan("ours", "eager", "copy"), deadline=-math.inf)
    frame, said = measured(plan, tmp_path)
    assert frame.empty
    assert said == ["The time is up: the remaining cases were not measured."]


# ---- Memory and whole networks -----------------------------------------------------------------


def test_peak_is_the_most_at_a_time():
    kib = 256  # floats

    def run(_):
        first = torch.empty(4 * kib)
        second = torch.empty(2 * kib)
        del first
        third = torch.empty(3 * kib)
        return second, third

    assert memory.peak_bytes(timing.Task("a", run), "cpu") == 6 * 1024


def test_saved_bytes_leave_inputs_out_and_count_a_storage_once():
    x = torch.ones(256, requires_grad=True)

    def fn(x):
        y = x.exp()  # saves y, and the product saves it again, and x
        return y * x

    assert memory.saved_bytes(fn, [x]) == 1024


def test_vgg16_has_the_parameters_of_its_paper_and_those_of_five_gates():
    with torch.device("meta"):
        for gates in ("fused", "eager"):
            network = models.builder()("vgg16-spatial", gates=gates, num_classes=models.CLASSES)
            assert sum(p.numel() for p in network.parameters()) == 138_357_544 + 490


def small_network(name, gates, num_classes):
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    gate = ak.SpatialGate() if gates == "fused" else EagerGate()
    head = torch.nn.Linear(8, num_classes)
    return torch.nn.Sequential(
        convolution, gate, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head
    )


class EagerGate(ak.SpatialAttention):
    def forward(self, x):
        return OPS["spatial_gate"].eager(x, self.conv1.weight)


def test_a_network_is_measured_with_both_gates(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(models, "builder", lambda: small_network)
    monkeypatch.setattr(models, "compiled", lambda net: torch.compile(net, backend="aot_eager"))
    arguments = ("--model", "resnet18-cbam-spatial", "--batch", "2", "--size", "32")
    assert bench(tmp_path, *arguments, "--dtype", "float32,bfloat16", "--seconds", "1e-3") == 0
    frame = results.read(tmp_path / "results.csv")
    ours = f"ours-{ak.available_backends()[0]}"
    assert list(frame["provider"]) == [ours, "eager", "compile", f"{ours}-compile"] * 2
    assert (frame["status"] == "ok").all(), frame["note"]
    assert (frame["shape"] == "2x3x32x32").all()
    assert (frame["peak_bytes"] > 0).all()
    assert "images/s" in capsys.readouterr().out


class Timm(types.ModuleType):
    """Stands in for timm: one network with a gate that is pasted, one without."""

    def __init__(self):
        super().__init__("timm")
        self.__spec__ = importlib.machinery.ModuleSpec("timm", None)

    def is_model(self, name):
        return name in ("gated", "plain")

    def create_model(self, name, num_classes):
        network = small_network(name, "eager", num_classes)
        network[1] = pasted_gates.SELinear(8) if name == "gated" else torch.nn.ReLU()
        return network


def test_a_network_of_timm_is_measured_fused_and_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", Timm())
    monkeypatch.setattr(models, "compiled", lambda net: torch.compile(net, backend="aot_eager"))
    arguments = ("--batch", "2", "--size", "32", "--seconds", "1e-3")
    assert bench(tmp_path, "--model", "timm:gated", *arguments) == 0
    frame = results.read(tmp_path / "results.csv")
    ours = f"ours-{ak.available_backends()[0]}"
    assert list(frame["provider"]) == [ours, "eager", "compile", f"{ours}-compile"]
    assert (frame["op"] == "timm:gated").all()
    assert (frame["status"] == "ok").all(), frame["note"]


@pytest.mark.parametrize(
    ("name", "complaint"), [("plain", "nothing to fuse"), ("alexnet", "timm has no 'alexnet'")]
)
def test_a_network_of_timm_that_cannot_be_measured(tmp_path, monkeypatch, capsys, name, complaint):
    monkeypatch.setitem(sys.modules, "timm", Timm())
    assert bench(tmp_path, "--model", f"timm:{name}", "--batch", "2", "--size", "32") == 2
    assert complaint in capsys.readouterr().err


def test_a_wrong_network_gets_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "compiled", lambda net: net)

    def build(name, gates, num_classes):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(num_classes))
        network(torch.zeros(2, 3, 32, 32))
        network.append(torch.nn.Identity() if gates == "eager" else torch.nn.Hardtanh(-0.1, 0.1))
        return network

    writer = results.Writer(tmp_path, "cpu")
    models.measure_network(build, "net", "float32", (2, 3, 32, 32), "cpu", 0.0, writer)
    writer.close()
    frame = results.read(writer.path)
    assert list(frame["status"]) == ["wrong", "ok", "ok", "wrong"]
    assert frame["p50_us"].isna().tolist() == [True, False, False, True]
    assert "logits: relative error" in frame.iloc[0]["note"]
