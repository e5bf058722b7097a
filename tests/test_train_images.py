"""examples/train_images.py: killed and resumed it ends with the same weights, bit for bit."""

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import matplotlib.image
import numpy
import pytest
import torch
import train_images

ROOT = Path(__file__).parent.parent
STEPS = 22  # of an epoch of digits
EVERY = 3
TINY = ["--epochs", "1", "--size", "8", "--checkpoint-every", str(EVERY)]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(folder):
    return subprocess.Popen(
        [sys.executable, *TORCHRUN, "examples/train_images.py", *TINY, "--out", str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill(process):
    """It and those that train."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    for pid in (process.pid, *map(int, children.split())):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def output(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same_ending(folder):
    """What was resumed ended as what never stopped, and painted its pictures."""
    resumed, whole = (checkpoint(folder / name) for name in ("resumed", "whole"))
    assert resumed["step"] == whole["step"] == STEPS
    assert resumed["losses"] == whole["losses"]
    assert resumed["accuracies"] == whole["accuracies"]
    for part in ("net", "optimizer"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    for picture in ("curve.png", "attention.png"):
        image = matplotlib.image.imread(folder / "resumed" / picture)[..., :3]
        assert min(image.shape[:2]) > 300
        assert image.std() > 0.1


def test_two_processes_killed_and_resumed(tmp_path):
    killed = start(tmp_path / "resumed")
    while not (tmp_path / "resumed" / "checkpoint.pt").exists():
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    kill(killed)
    stopped = checkpoint(tmp_path / "resumed")["step"]
    assert 0 < stopped < STEPS
    again, never_stopped = (start(tmp_path / name) for name in ("resumed", "whole"))
    assert f"Going on from step {stopped}" in output(again)
    said = output(never_stopped)
    assert "Going on" not in said
    assert said.count("Accuracy on unseen digits") == 1
    assert_same_ending(tmp_path)


def test_one_process_interrupted_and_resumed(tmp_path, monkeypatch, capsys):
    take_step = train_images.take_step

    def interrupted(*arguments):
        if (tmp_path / "resumed" / "checkpoint.pt").exists():
            raise KeyboardInterrupt
        return take_step(*arguments)

    monkeypatch.setattr(train_images, "take_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_images.main([*TINY, "--out", str(tmp_path / "resumed")])
    monkeypatch.undo()
    capsys.readouterr()
    assert train_images.main([*TINY, "--out", str(tmp_path / "resumed")]) == 0
    assert f"Going on from step {EVERY}" in capsys.readouterr().out
    assert train_images.main([*TINY, "--out", str(tmp_path / "whole")]) == 0
    assert "Going on" not in capsys.readouterr().out
    assert_same_ending(tmp_path)


def test_another_networks_checkpoint_is_refused(tmp_path, capsys):
    net = torch.nn.Linear(1, 1)
    training = train_images.Training(
        {"network": "another"}, net, torch.optim.Adam(net.parameters())
    )
    training.save(tmp_path / "checkpoint.pt")
    assert train_images.main([*TINY, "--out", str(tmp_path)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "'another'" in said
    assert "say another --out" in said


def test_a_save_that_is_killed_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    net = torch.nn.Linear(1, 1)
    training = train_images.Training({}, net, torch.optim.Adam(net.parameters()))
    training.save(tmp_path / "checkpoint.pt")
    old = (tmp_path / "checkpoint.pt").read_bytes()

    def killed(state, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        training.save(tmp_path / "checkpoint.pt")
    assert (tmp_path / "checkpoint.pt").read_bytes() == old


def test_cifar100_where_it_is_there(tmp_path, monkeypatch):
    """torchvision's class as this module knows it: `data`, a uint8 array, and `targets`, a list."""

    class CIFAR100:
        def __init__(self, root, train, download):
            assert (root, download) == (tmp_path, False)
            count = 20 if train else 10
            self.data = numpy.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), "uint8")
            self.targets = list(range(count))

    datasets = types.ModuleType("torchvision.datasets")
    datasets.CIFAR100 = CIFAR100
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    monkeypatch.setattr(
        train_images.importlib.util, "find_spec", lambda name: name == "torchvision"
    )
    assert train_images.load_images(tmp_path, 32).name == "digits"  # no data in the folder
    (tmp_path / "cifar-100-python").mkdir()
    images = train_images.load_images(tmp_path, 32)
    assert (images.name, images.classes) == ("CIFAR-100", 100)
    assert images.train[0].shape == (20, 3, 32, 32)
    torch.testing.assert_close(images.train[0].mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert images.test[1].tolist() == list(range(10))
    assert images.pictures.shape == (10, 32, 32, 3)
    assert images.pictures.max() <= 1


@pytest.mark.parametrize("name", ["batch", "size", "checkpoint-every"])
def test_bad_arguments(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        train_images.main([f"--{name}", "0", "--out", str(tmp_path)])
    assert exit.value.code == 2
    assert f"--{name} must be at least 1; got 0" in capsys.readouterr().err
