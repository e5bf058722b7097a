import gc

import hypothesis
import pytest
import torch

collect_ignore = ["peers"]  # `make peers`: in an environment of its own

# The same examples in every run: errors are judged by eager's own, which are random as well.
hypothesis.settings.register_profile("project", derandomize=True, deadline=None)
hypothesis.settings.load_profile("project")


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    config.addinivalue_line("markers", "slow: takes many seconds or gigabytes")
    config.addinivalue_line("markers", "exhaustive: of `make exhaustive`, not of `make test`")


# They compile for minutes: `make test` begins with them, so that none is left alone at the end.
FIRST = ["compile", "on_threads", "budgets", "mutations"]


def pytest_collection_modifyitems(config, items):
    """Without a CUDA device the tests that need one are taken out; the summary says how many."""
    order = {f"test_cuda_{name}.py": i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    if torch.cuda.is_available():
        return
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        config.hook.pytest_deselected(items=on_gpu)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def pytest_collection_finish():
    """What is there now stays: a million objects that no collection need look at again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
