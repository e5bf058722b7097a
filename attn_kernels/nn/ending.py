import torch


def ended(y: torch.Tensor, residual: torch.Tensor | None, activation: str) -> torch.Tensor:
    """The end of a block, ``activation(y + residual)``, where a gate did not do it."""
    y = y if residual is None else y + residual
    return torch.relu(y) if activation == "relu" else y
