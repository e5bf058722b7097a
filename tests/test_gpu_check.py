"""What `make gpu-check` is made of, as far as it shows without a GPU."""

import dataclasses
import json
import sys

import pytest
import torch

import attn_kernels as ak
from benchmarks import gpu_check, ncu, ncu_target, runner, sanitize, stages
from benchmarks.cases import Setup
from benchmarks.ops import OPS

MIB = 1 << 20


def python_stage(name, code, seconds=30.0, **environment):
    return stages.Stage(name, seconds, lambda _: [sys.executable, "-c", code], environment)


@pytest.fixture
def run(tmp_path):
    """run(*stages) -> outcomes, the log's text, the lines said."""

    def run(*planned):
        said = []
        with (tmp_path / "log.txt").open("w") as log:
            outcomes = stages.run_stages(planned, log, said.append)
        return outcomes, (tmp_path / "log.txt").read_text(), said

    return run


def test_later_stages_run_whatever_fails_before(run):
    outcomes, log, said = run(
        python_stage("good", "print('fine')"),
        python_stage("bad", "import sys; print('oh no', file=sys.stderr); sys.exit(3)"),
        stages.Stage("absent", 30, lambda _: ["no-such-program"]),
        python_stage("told", "import os; print(os.environ['WORD'])", WORD="heard"),
    )
    assert [o.complaint for o in outcomes] == [
        "",
        "exit code 3",
        "not run: no-such-program: No such file or directory",
        "",
    ]
    assert [o.passed for o in outcomes] == [True, False, False, True]
    assert "fine" in log
    assert "oh no" in log
    assert "heard" in log
    assert said[1].startswith("bad: exit code 3 (")


def test_a_stage_that_overruns_is_interrupted_and_keeps_what_it_has(run, monkeypatch):
    monkeypatch.setattr(stages, "GRACE_SECONDS", 2.0)
    code = """
import time
print("started", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("kept", flush=True)
"""
    outcomes, log, _ = run(python_stage("slow", code, 3.0), python_stage("next", "pass"))
    assert [o.complaint for o in outcomes] == ["stopped after 1 s", ""]
    assert outcomes[0].seconds < 20
    assert "started" in log
    assert "kept" in log


def test_a_stage_that_ignores_the_interrupt_is_killed(run, monkeypatch):
    monkeypatch.setattr(stages, "GRACE_SECONDS", 1.0)
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    outcomes, _, _ = run(python_stage("deaf", code, 2.0))
    assert outcomes[0].complaint == "stopped after 1 s"
    assert outcomes[0].seconds < 20


def test_what_a_stage_leaves_of_its_time_later_ones_get(tmp_path):
    now, allowed = [0.0], {}

    def stage(name, seconds, takes):
        def command(allowance):
            allowed[name] = allowance
            now[0] += takes
            return ["true"]

        return stages.Stage(name, seconds, command)

    planned = [stage("a", 50, 10), stage("b", 50, 100), stage("c", 10, 1), stage("d", 40, 1)]
    with (tmp_path / "log").open("w") as log:
        outcomes = stages.run_stages(planned, log, lambda line: None, clock=lambda: now[0])
    grace = stages.GRACE_SECONDS
    assert allowed == {"a": 50 - grace, "b": 90 - grace, "d": 40 - grace}
    assert outcomes[2].complaint == "not run: no time was left"


def test_the_plan_fits_nine_minutes_and_names_what_exists(tmp_path):
    planned = gpu_check.plan(tmp_path)
    assert sum(stage.seconds for stage in planned) <= 9 * 60 - 20
    commands = {stage.name: stage.command(60.0) for stage in planned}
    assert commands["memcheck"][:3] == ["compute-sanitizer", "--tool", "memcheck"]
    assert commands["racecheck"][:3] == ["compute-sanitizer", "--tool", "racecheck"]
    for name in ("benchmark", "dram traffic"):
        options = runner_options(commands[name])
        assert options.out == tmp_path
        assert options.device == "cuda"
    assert runner_options(commands["benchmark"]).minutes == pytest.approx(40 / 60, abs=0.01)
    for code in (gpu_check.VERSIONS, gpu_check.BUILD):
        compile(code, "stage", "exec")


def runner_options(command):
    from benchmarks import cli

    assert command[1:4] == ["-m", "attn_kernels", "bench"]
    options = cli.parser().parse_args(command[4:])
    # All names in it are known, and it plans something.
    for option in ("op", "mode", "dtype"):
        known = {"op": cli.OPS, "mode": cli.cases.MODES, "dtype": cli.cases.DTYPES}[option]
        assert cli.names(options, option, known, ())
    if options.shapes:
        assert cli.cases.parse_shapes(options.shapes, "cuda")
    return options


def test_summary_survives_a_broken_results_file(tmp_path):
    (tmp_path / "results.csv").write_text("nonsense\n")
    text = gpu_check.summary(
        [stages.Outcome("build", 12.3), stages.Outcome("x", 1, "bad")], tmp_path
    )
    assert "| build | 12 | ok |" in text
    assert "| x | 1 | bad |" in text
    assert "could not be read" in text


def test_summary_shows_the_results(tmp_path):
    from benchmarks import results, timing

    writer = results.Writer(tmp_path, "cpu")
    for name, seconds in (("ours-cuda", 1e-5), ("eager", 3e-5)):
        row = runner.base_row(Setup("spatial_gate", (2, 8, 6, 5), "float16"), "fwd", name)
        row.cache = "cold"
        row.set_times(timing.Samples([seconds] * 3))
        writer.write(row)
    writer.close()
    assert "| 10 us | 30 us |  | 3.00x |" in gpu_check.summary([], tmp_path)


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
    assert "no NVIDIA GPU here" in capsys.readouterr().err


def test_what_the_sanitizer_watches_runs(monkeypatch, capsys):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    sanitize.main()
    on_gpu = [op for op in OPS.values() if "cuda" in ak.backends.KERNELS[op.served_as]]
    assert len(on_gpu) > 8
    assert f"{len(on_gpu)} ops ran" in capsys.readouterr().out


# ---- DRAM counters -----------------------------------------------------------------------------

REPORT = f'''==PROF== Connected to process 1
"ID","Kernel Name","{ncu.READ}","{ncu.WRITE}"
"","","byte","byte"
"0","void erfinv_kernel<float>(int)","32","32"
"1","attn_kernels::pool_kernel","1,048,576","64"
"2","attn_kernels::conv_gate_kernel","1,048,576","524,224"
"3","void erfinv_kernel<float>(int)","32","32"
"4","reduce_kernel","99,999,999","524,288"
"5","void erfinv_kernel<float>(int)","32","32"
"6","copy_kernel","1048576","1048576"
==PROF== Disconnected
'''


def test_counters_are_summed_between_markers_and_late_writes_belong_to_the_case():
    first, second = ncu.sections(REPORT)
    assert first == ncu.Measured(kernels=2, read_bytes=2 * MIB, write_bytes=MIB)
    assert second == ncu.Measured(kernels=1, read_bytes=MIB, write_bytes=MIB)
    assert ncu.sections("==ERROR== nothing was profiled") == []


def test_traffic_rows_set_counters_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(ncu, "machine", lambda device: {"device": device, "commit": "abc"})
    setup = {"op": "spatial_gate", "shape": [1, 64, 64, 64], "dtype": "float32", "layout": "nchw"}
    label = {"setup": setup, "mode": "fwd", "provider": "eager"}
    (first, _) = ncu.sections(REPORT)
    row = ncu.row_of(label, first)
    assert row["in_x"] == "3.000"  # x is 1 MiB
    assert row["modelled_in_x"] == "4.219"
    ncu.write([row], tmp_path / "new")
    lines = (tmp_path / "new" / ncu.FILE_NAME).read_text().splitlines()
    assert lines[0].startswith("op,provider,mode,dtype,shape,layout,kernels,read_bytes")
    assert lines[1].startswith("spatial_gate,eager,fwd,float32,1x64x64x64,nchw,2,2097152,1048576")


def test_the_profiled_program_marks_each_case_and_labels_it(tmp_path, monkeypatch):
    trace = []

    class Evictor:
        def __call__(self):
            trace.append("evict")

        def mark(self):
            trace.append("mark")

    setup = Setup("channel_pool", (1, 4, 3, 3), "float32")
    monkeypatch.setattr(ncu_target, "Evictor", Evictor)
    inputs = runner.inputs_of(setup, "cpu")
    monkeypatch.setattr(ncu_target, "inputs_of", lambda setup, device: inputs)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: trace.append("wait"))
    monkeypatch.setattr(torch.cuda.profiler, "start", lambda: trace.append("start"))
    monkeypatch.setattr(torch.cuda.profiler, "stop", lambda: trace.append("stop"))
    request, labels = tmp_path / "request.json", tmp_path / "labels.jsonl"
    asked = {
        "setups": [dataclasses.asdict(setup)],
        "modes": ["fwd", "bwd"],
        "providers": ["eager", "copy"],
    }
    request.write_text(json.dumps(asked))
    ncu_target.main(str(request), str(labels))
    once = ["evict", "wait", "start", "mark", "mark", "evict", "wait", "stop"]
    assert trace == once * 4
    found = [json.loads(line) for line in labels.read_text().splitlines()]
    cases = [(label["mode"], label["provider"]) for label in found]
    assert cases == [("fwd", "eager"), ("fwd", "copy"), ("bwd", "eager"), ("bwd", "copy")]
    assert all(Setup(**f["setup"] | {"shape": tuple(f["setup"]["shape"])}) == setup for f in found)
