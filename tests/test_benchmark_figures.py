"""What the benchmarks say about a results file: ratios, noise, plots, the README's table."""

from pathlib import Path

import pytest

import attn_kernels as ak
from benchmarks import compare, gates_table, plots, readme_table, results, runner, timing
from benchmarks.cases import Setup
from benchmarks.errors import InputError

SETUP = Setup("spatial_gate", (2, 8, 6, 5), "float32")


def results_file(folder: Path, **p50: float) -> Path:
    """A file of one comparison with these medians in microseconds."""
    writer = results.Writer(folder, "cpu")
    for name, time in p50.items():
        row = runner.base_row(SETUP, "fwd", name.replace("_", "-"))
        row.set_times(timing.Samples([time * 1e-6, time * 1.1e-6, time * 1e-6]))
        writer.write(row)
    writer.close()
    return writer.path


def test_speedups_and_distance_to_the_limit(tmp_path):
    frame = results.read(results_file(tmp_path, ours_cpu=10, eager=40, compile=25, copy=8))
    (comparison,) = compare.comparisons(frame)
    assert comparison.ours == "ours-cpu"
    assert comparison.speedup("ours-cpu", "eager") == pytest.approx(4)
    assert comparison.speedup("ours-cpu", "compile") == pytest.approx(2.5)
    assert comparison.limit_share("ours-cpu") == pytest.approx(0.8)  # both move 2 maps
    assert comparison.bandwidth("copy") == pytest.approx(2 * 2 * 8 * 6 * 5 * 4 / 8e-6)
    assert comparison.speedup("ours-cpu", "timm") is None


def test_shortfalls_are_listed(tmp_path):
    fast = results.read(results_file(tmp_path / "a", ours_cpu=10, eager=40, copy=8))
    assert compare.shortfalls(fast) == []
    frame = results.read(results_file(tmp_path / "b", ours_cpu=30, eager=40, compile=25, copy=8))
    (line,) = compare.shortfalls(frame)
    assert line.startswith("spatial_gate fwd float32 2x8x6x5 nchw plain warm: compile is 1.20x")
    frame["limit_bytes"] = frame["moved_bytes"] = compare.MINIMUM_BYTES
    assert compare.shortfalls(frame)[1].endswith(": ours-cpu at 27% of the limit")


def test_noise_is_said(tmp_path):
    path = results_file(tmp_path / "a", ours_cpu=10, eager=40)
    frame = results.read(path)
    assert "all 1 speed-ups over eager agree within 15%" in compare.noise_sentence(frame)
    other = results.read(results_file(tmp_path / "b", ours_cpu=10, eager=50))
    sentence = compare.compare_sentence(frame, other)
    assert "1 of 1 speed-ups over eager differ by more than 15%" in sentence
    assert "largest 25.0%" in sentence
    with pytest.raises(InputError, match="no speed-up in common"):
        compare.compare_sentence(frame, results.read(results_file(tmp_path / "c", eager=5)))


def test_roofline_needs_maps_that_leave_the_cache(tmp_path):
    frame = results.read(results_file(tmp_path, ours_cpu=10, eager=40, copy=8))
    drawn = {path.name for path in plots.draw(frame, tmp_path)}
    assert drawn == {"speedup.png", "speedup.svg"}
    frame["limit_bytes"] = compare.MINIMUM_BYTES
    drawn = {path.name for path in plots.draw(frame, tmp_path)}
    assert drawn == {"speedup.png", "speedup.svg", "roofline.png", "roofline.svg"}


def test_readme_table_is_what_the_results_say(tmp_path, capsys):
    folder = tmp_path / "results"
    results_file(folder / "machine", ours_cpu=10, eager=40, compile=25, copy=8)
    (folder / "machine" / "speedup.png").touch()
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{readme_table.BEGIN}\nold\n{readme_table.END}\nafter\n")
    arguments = [str(readme), "--results", str(folder)]
    assert readme_table.main([*arguments, "--check"]) == 1
    assert readme_table.main(arguments) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert (
        "| `spatial_gate` | 2x8x6x5 | float32 | fwd | 10 us | 40 us | 25 us | 4.00x | 2.50x | 80% |"
        in text
    )
    assert "![Speed-up over eager PyTorch](results/machine/speedup.png)" in text
    assert readme_table.main([*arguments, "--check"]) == 0

    readme.write_text("no markers")
    assert readme_table.main(arguments) == 2
    assert "expected one line" in capsys.readouterr().err
    assert readme_table.main([*arguments[:2], str(tmp_path / "nothing")]) == 2


def test_the_table_of_gates_is_the_models(tmp_path):
    results_file(tmp_path / "results" / "machine", ours_cpu=10, eager=40)
    readme = tmp_path / "README.md"
    text = [readme_table.BEGIN, readme_table.END, readme_table.GATES_BEGIN, readme_table.GATES_END]
    readme.write_text("\n".join(text))
    assert readme_table.main([str(readme), "--results", str(tmp_path / "results")]) == 0
    text = readme.read_text()
    assert "| `ak.CBAM(channels, ratio=16, kernel_size=7)` |" in text
    assert "`cSE`, `sSE` | 3 / 5 | 4 / 9 | 9 / 24 |" in text
    shown = {gate.cls for gate in gates_table.GATES}
    assert shown == {getattr(ak.nn, name) for name in ak.nn.__all__}  # none is left out
