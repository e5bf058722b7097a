"""What the compiled CUDA kernels cost, read from their machine code: see table.py."""
