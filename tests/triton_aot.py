"""Compile Triton kernels without a GPU, exactly as the launchers would run them.

The launchers are called with tensors on the meta device, which have shapes but no memory; every
launch is recorded with its arguments and options, and compiled ahead of time for a target
architecture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
import re
import subprocess
import tempfile
from unittest import mock

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from triton_ops import gam_channel_gate, scale_gate

CUOBJDUMP = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
OPTIONS = ("num_warps", "num_stages")


@dataclasses.dataclass(frozen=True)
class Launch:
    """One recorded launch; equal launches compile to the same kernel."""

    kernel: JITFunction
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    options: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return self.kernel.__name__

    def compile(self, arch: int):
        pointers = [i for i, (_, kind) in enumerate(self.signature) if kind.startswith("*")]
        source = ASTSource(
            self.kernel,
            dict(self.signature),
            dict(self.constants),
            {(i,): [["tt.divisibility", 16]] for i in pointers},
        )
        with knobs.runtime.scope(), knobs.nvidia.scope():
            knobs.runtime.add_stages_inspection_hook = keep_ptxas_log
            knobs.nvidia.dump_ptxas_log = True
            return triton.compile(
                source, target=GPUTarget("cuda", arch, 32), options=dict(self.options)
            )


def keep_ptxas_log(backend=None, stages=None, *_):
    """Triton's hook into its stages, here to keep what ptxas prints in the metadata, which are
    cached with the kernel. Called without arguments it names itself for the cache's key.
    """
    if stages is None:
        return "ptxas log", "ptxas log"
    assemble = stages["cubin"]

    def assemble_and_listen(ptx, metadata):
        with contextlib.redirect_stdout(io.StringIO()) as log:
            cubin = assemble(ptx, metadata)
        metadata["ptxas_log"] = log.getvalue()
        return cubin

    stages["cubin"] = assemble_and_listen
    return None


def describe(kernel: JITFunction, args: tuple, kwargs: dict) -> Launch:
    options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
    bound = kernel.signature.bind(*args, **kwargs).arguments
    signature, constants = {}, {}
    for parameter in kernel.params:
        value = bound[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
        else:
            assert parameter.do_not_specialize, (
                f"{kernel.__name__} would be compiled again for each {parameter.name}"
            )
            signature[parameter.name] = "i32" if value < 2**31 else "i64"
    return Launch(
        kernel, tuple(signature.items()), tuple(constants.items()), tuple(options.items())
    )


@contextlib.contextmanager
def recorded_launches():
    """The list of launches that happen inside, none of which runs."""
    launches: list[Launch] = []
    run = JITFunction.run
    JITFunction.run = lambda kernel, *args, grid, warmup, **kwargs: launches.append(
        describe(kernel, args, kwargs)
    )
    try:
        yield launches
    finally:
        JITFunction.run = run


# ptxas: "wgmma.mma_async instructions are serialized due to ...": each waits for the one before.
SERIALISED = re.compile(r"\(C751[0-5]\)[^\n]*")
INSTRUCTIONS = ("wgmma", "tcgen05.mma", "mma.sync")


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one kernel was compiled to: per thread registers and stack bytes, per block shared
    bytes.
    """

    kernel: str
    constants: dict
    warps: int
    registers: int
    stack: int
    shared: int
    instructions: tuple[str, ...]  # those of INSTRUCTIONS that its PTX holds
    serialised: tuple[str, ...]  # what ptxas says of its wgmma, see SERIALISED


def figures(launch: Launch, arch: int) -> Figures:
    compiled = launch.compile(arch)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", cubin.name]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # A register that does not fit is spilled to the stack; none of these kernels has another use
    # for one.
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|STACK):(\d+)", report)}
    return Figures(
        kernel=launch.name,
        constants={name: v for name, v in launch.constants if isinstance(v, (int, str))},
        warps=dict(launch.options).get("num_warps", 4),
        registers=usage["REG"],
        stack=usage["STACK"],
        shared=compiled.metadata.shared,
        instructions=tuple(name for name in INSTRUCTIONS if name in compiled.asm["ptx"]),
        serialised=tuple(SERIALISED.findall(compiled.metadata.ptxas_log)),
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of an op's launchers, forward and backward, on a target that need not be there."""

    op: str
    arch: int  # the target of the compiler: 75, 80, 90, 100 or 120
    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    hidden: int = 0
    activation: str = "identity"
    tf32: bool = False
    channels_last: bool = False
    only: tuple[str, ...] = ()  # the kernels to compile; all of them if empty

    def __str__(self) -> str:
        words = [
            self.op,
            f"sm{self.arch}",
            str(self.dtype)[6:] + "-tf32" * self.tf32,
            "x".join(map(str, self.shape)),
        ]
        words += [f"r{self.hidden}", self.activation] if self.hidden else []
        return "-".join(words + ["channels_last"] * self.channels_last)

    def launches(self) -> list[Launch]:
        row = 86 if self.arch == 120 else self.arch
        precision = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "tf32" if self.tf32 else "ieee"
        with (
            recorded_launches() as launches,
            mock.patch.object(gam_channel_gate, "architecture", return_value=row),
        ):
            getattr(self, f"_call_{self.op}")()
        torch.backends.cuda.matmul.fp32_precision = precision
        return [
            launch
            for launch in dict.fromkeys(launches)
            if not self.only or launch.name in self.only
        ]

    def compile(self) -> list[Figures]:
        return [figures(launch, self.arch) for launch in self.launches()]

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype or self.dtype, device="meta")

    def _map(self, channels: int) -> torch.Tensor:
        images, _, height, width = self.shape
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return self._empty(images, channels, height, width).contiguous(memory_format=layout)

    def _call_gam_channel_gate(self) -> None:
        channels, width = self.shape[1], self.hidden
        x = self._map(channels)
        sizes = ((width, channels), (width,), (channels, width), (channels,))
        parameters = [self._empty(*size) for size in sizes]
        gam_channel_gate.gam_channel_gate(x, *parameters, self.activation)
        w1, _, w2, b2 = parameters
        gam_channel_gate.gam_channel_gate_backward(
            x, x, self._map(width), w1, w2, b2, self.activation
        )

    def _call_scale_gate(self) -> None:
        x, vector = self._map(self.shape[1]), self._empty(self.shape[1], dtype=torch.float32)
        scale_gate.scale_gate(x, x, vector, vector)
        scale_gate.scale_gate_backward(x, x, x, vector, vector)


def compile_case(case: Case) -> list[Figures]:
    """`Case.compile` under a name that a pool of processes can find."""
    return case.compile()
