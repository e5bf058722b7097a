"""`python -m attn_kernels info | verify | fuse | bench`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys

import torch

from .backends import DTYPES

_DTYPE_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


def main() -> int:
    if sys.argv[1:2] == ["bench"]:
        return _bench(sys.argv[2:])
    arguments = _parser().parse_args()
    if importlib.util.find_spec("rich") is None:
        return _fail("the command line needs rich: `pip install attn-kernels[cli]`")
    if arguments.command == "info":
        from .info import info

        info()
        return 0
    return _fuse(arguments) if arguments.command == "fuse" else _verify(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m attn_kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, device, backends, and what is missing and why")
    verify = commands.add_parser("verify", help="check every op against a float64 reference")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    verify.add_argument("--device", default=default, help="default: %(default)s")
    verify.add_argument("--dtype", choices=_DTYPE_NAMES, help="default: all of them")
    fuse = commands.add_parser("fuse", help="what is fused in an installed library's model")
    fuse.add_argument("model", help="timm:NAME or torchvision:NAME; nothing is downloaded")
    fuse.add_argument(
        "--no-tails", action="store_true", help="leave the ends of blocks as they are"
    )
    fuse.add_argument("--first-max", action="store_true", help="equal maxima: the first is enough")
    commands.add_parser("bench", help="time ours against eager, torch.compile and a copy")
    return parser


def _verify(arguments: argparse.Namespace) -> int:
    from .verify import verify

    try:
        torch.empty(0, device=arguments.device)
    except (RuntimeError, AssertionError) as error:
        return _fail(f"--device {arguments.device}: {str(error).splitlines()[0]}")
    dtypes = (_DTYPE_NAMES[arguments.dtype],) if arguments.dtype else DTYPES
    return 0 if verify(arguments.device, dtypes) else 1


def _fuse(arguments: argparse.Namespace) -> int:
    library, _, model = arguments.model.partition(":")
    makers = {"timm": ("timm", "create_model"), "torchvision": ("torchvision.models", "get_model")}
    if library not in makers or not model:
        return _fail(f"fuse: expected timm:NAME or torchvision:NAME, got {arguments.model!r}")
    if importlib.util.find_spec(library) is None:
        return _fail(f"fuse: needs {library}: `pip install {library}`")
    from rich import print as show

    from .fusion import fuse

    module, maker = makers[library]
    try:
        made = getattr(importlib.import_module(module), maker)(model)
    except (RuntimeError, ValueError, KeyError) as error:
        return _fail(f"fuse: {library} has no such model: {error}")
    show(fuse(made, tails=not arguments.no_tails, first_max=arguments.first_max))
    return 0


def _bench(arguments: list[str]) -> int:
    if importlib.util.find_spec("benchmarks") is None:
        return _fail("bench: run it in a checkout of attn-kernels, where benchmarks/ is")
    needed = ("rich", "pandas", "matplotlib")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        return _fail(f"bench: needs {', '.join(absent)}: `pip install attn-kernels[bench]`")
    from benchmarks.cli import main as bench

    return bench(arguments)


def _fail(reason: str) -> int:
    print(f"attn-kernels: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
