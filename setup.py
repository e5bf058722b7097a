"""Builds the shared libraries: `_cpu` always, `_cuda` where nvcc and a CUDA torch are found.

Whether a GPU is present is never asked. TORCH_CUDA_ARCH_LIST is honoured. What to build and with
which flags is all that is here; everything else about the package is in pyproject.toml.
"""

import os
from pathlib import Path

import torch
from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension

# Only what LibTorch 2.10 has: the libraries then serve every later torch, and every Python.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
CXX_FLAGS = ["-O3", "-std=c++17", "-fvisibility=hidden", "-Wno-psabi", "-Wno-attributes"]
# Python's own flags say -g: ten times the size, and a quarter of the time that building takes.
CXX_FLAGS += ["-g0"]


def sources(*patterns: str) -> list[str]:
    return sorted(str(path) for pattern in patterns for path in Path("csrc").glob(pattern))


def cpu_library():
    return CppExtension(
        "attn_kernels._cpu",
        # Those that take longest first, so that none is left alone at the end.
        [*sources("cpu/isa/*.cpp"), *sources("ops.cpp", "cpu/*.cpp")],
        extra_compile_args=CXX_FLAGS + STABLE_ABI,
        py_limited_api=True,
    )


def cuda_library():
    return CppExtension(
        "attn_kernels._cuda",
        sources("cuda/*.cu"),
        library_dirs=[str(path.parent) for path in cuda_runtimes()],
        # By name: what is loaded with RTLD_LOCAL does not see libraries that others have loaded.
        libraries=["torch_cuda", "cudart_static", "rt", "dl"],
        extra_link_args=["-Wl,--no-as-needed"],
        extra_compile_args={
            "cxx": CXX_FLAGS + STABLE_ABI,
            "nvcc": [
                "-O3",
                "-std=c++17",
                "-Xcompiler=-fvisibility=hidden",
                "-DUSE_CUDA",
                *gencode(),
                *STABLE_ABI,
            ],
        },
        py_limited_api=True,
    )


def gencode() -> list[str]:
    """Machine code for each architecture, and PTX for those to come: from two compilations only,
    as nothing in csrc/cuda asks for more than compute_80 has.
    """
    if "TORCH_CUDA_ARCH_LIST" in os.environ:  # torch adds those
        return []
    pairs = (line.split() for line in Path("csrc/cuda/architectures.txt").read_text().splitlines())
    return [f"-gencode=arch={ptx},code={code}" for code, ptx in pairs]


def cuda_runtimes() -> list[Path]:
    """The static CUDA runtime, wherever this toolkit keeps it."""
    places = ("lib64", "lib", "targets/*/lib", "cuda/lib64")
    return [p for place in places for p in Path(CUDA_HOME).glob(f"{place}/libcudart_static.a")]


def libraries() -> list:
    found = [cpu_library()]
    if CUDA_HOME is not None and torch.version.cuda is not None and sources("cuda/*.cu"):
        found.append(cuda_library())
    return found


setup(
    ext_modules=libraries(),
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
