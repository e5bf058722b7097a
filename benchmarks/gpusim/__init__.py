"""The CUDA kernels in GPGPU-Sim, beside a copy and chains of PyTorch's operations: README.md."""
