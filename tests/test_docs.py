"""What docs/ shows, run: its Python is this file's, and so are the tests in it."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "writing-a-gate.md"
TEXT = PAGE.read_text()

for block in re.finditer(r"```python\n(.*?)```", TEXT, re.DOTALL):
    lines = "\n" * TEXT[: block.start(1)].count("\n")  # so that tracebacks name the page's lines
    exec(compile(lines + block[1], str(PAGE), "exec"))


def test_the_page_is_short():
    assert TEXT.count("\n") <= 90
    assert all(len(line) <= 120 for line in TEXT.splitlines())


def test_the_module_is_the_function():
    gate = MeanGate(5)  # noqa: F821  of the page
    x = torch.randn(2, 5, 4, 3, requires_grad=True)  # noqa: F821
    y = gate(x)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(y, x * torch.sigmoid(torch.ones(())))  # noqa: F821
