"""What the tests of spatial attention share."""

import torch
import torch.nn.functional as F


def eager_pool(x):
    return torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)


def eager_map(x, weight, bias):
    return torch.sigmoid(F.conv2d(eager_pool(x), weight, bias, padding=weight.shape[-1] // 2))


def spatial_parameters(channels, dtype, device, k=7):
    """Weight (1, 2, K, K) and bias (1,) that keep the sigmoid in its lively part."""
    weight = torch.randn(1, 2, k, k, dtype=torch.float64) / k
    return [t.to(dtype).to(device) for t in (weight, torch.randn(1, dtype=torch.float64))]


def spatial_scales(x, parameters, d_map):
    """Size of the terms in the weight's and the bias's gradient, whose signs cancel."""
    weight, bias = parameters
    map = eager_map(x, weight, bias)
    d_logit = d_map.abs() * map * (1 - map)
    if d_logit.numel() == 0:
        return [0.0, 0.0]
    pooled = eager_pool(x).abs()
    d_weight = torch.nn.grad.conv2d_weight(
        pooled, weight.shape, d_logit, padding=weight.shape[-1] // 2
    )
    return [d_weight.max(), d_logit.sum()]


def view_of(x):
    """scale and shift of each image and channel, as the ops take them; some scales are negative."""
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.randn(2, *x.shape[:2], dtype=torch.float64).to(x.device, acc).unbind()
