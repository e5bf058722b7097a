"""The usual eager modules' code, written as people run it today: the yardstick of speed."""

import torch
import torch.nn.functional as F

KERNEL_SIZE = 7
BAM_DILATION = 4
SIMAM_LAMBDA = 1e-4


def channel_pool(x):
    return torch.cat([torch.mean(x, 1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], 1)


def spatial_attention(x, weight):
    return torch.sigmoid(F.conv2d(channel_pool(x), weight, padding=KERNEL_SIZE // 2))


def spatial_gate(x, weight):
    return x * spatial_attention(x, weight)


def gam_channel_gate(x, w1, b1, w2, b2):
    n, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    attention = F.linear(F.relu(F.linear(pixels, w1, b1)), w2, b2)
    return x * attention.view(n, h, w, c).permute(0, 3, 1, 2)


def scale_gate(x, a, scale, shift):
    """The tail of GAM's spatial branch: an evaluated BatchNorm, a sigmoid and the product."""
    mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
    return x * torch.sigmoid(F.batch_norm(a, mean, variance, scale, shift, eps=0.0))


def squeeze_excite(x, w1, b1, w2, b2):
    mean = x.mean((2, 3), keepdim=True)
    return x * torch.sigmoid(F.conv2d(F.relu(F.conv2d(mean, w1, b1)), w2, b2))


def cbam(x, w1, w2, weight):
    mean, maximum = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
    logits = (F.conv2d(F.relu(F.conv2d(pooled, w1)), w2) for pooled in (mean, maximum))
    return spatial_gate(x * torch.sigmoid(sum(logits)), weight)


def selective_kernel(x, other, w1, w2):
    """What selects between two paths' maps, and the selection."""
    stack = torch.stack([x, other], 1)
    mean = stack.sum(1).mean((2, 3), keepdim=True)
    return (stack * selection(mean, w1, w2)).sum(1)


def split_attention(x, w1, w2):
    """The same between the two halves of one map's channels."""
    branches = x.unflatten(1, (2, -1))
    mean = branches.sum(1).mean((2, 3), keepdim=True)
    return (branches * selection(mean, w1, w2)).sum(1)


def selection(mean, w1, w2):
    logits = F.conv2d(F.relu(F.conv2d(mean, w1)), w2)
    return torch.softmax(logits.unflatten(1, (2, -1)), 1)


def blend(x, y, a, scale, shift):
    """The end of attentional feature fusion, from the last norm of its local branch on."""
    mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
    w = torch.sigmoid(F.batch_norm(a, mean, variance, scale, shift, eps=0.0))
    return x * w + y * (1 - w)


def iterative_blend(x, y, a, scale, shift, w1, w2, scale2, shift2):
    """The same where what is fused is attended to again, by a branch of two convolutions."""
    a2 = attended_again(blend(x, y, a, scale, shift), w1, w2)
    return blend(x, y, a2, scale2, shift2)


def attended_again(z, w1, w2):
    return F.conv2d(F.conv2d(z, w1), w2)


def se_tail(*arguments):
    return tail(squeeze_excite, *arguments)


def spatial_tail(*arguments):
    return tail(spatial_gate, *arguments)


def cbam_tail(*arguments):
    return tail(cbam, *arguments)


def tail(gate, x, residual, gamma, beta, *gate_parameters):
    """The end of a residual block, after its last convolution."""
    return F.relu(gate(trained_norm(x, gamma, beta), *gate_parameters) + residual)


def trained_norm(x, gamma, beta):
    """Batch normalisation as it is in training: by the statistics of this batch."""
    return F.batch_norm(x, None, None, gamma, beta, training=True)


def spatial_se(x, weight):
    return x * torch.sigmoid(F.conv2d(x, weight))


def channel_se(x, squeeze, excite):
    mean = F.adaptive_avg_pool2d(x, 1)
    return x * torch.sigmoid(F.conv2d(F.conv2d(mean, squeeze), excite))


def spatial_channel_se(x, squeeze, excite, weight):
    return channel_se(x, squeeze, excite) + spatial_se(x, weight)


def bam(x, w1, gamma, beta, w2, b2, *spatial):
    """The biases in front of batch norms are left out: their gradients are nothing but rounding."""
    hidden = F.relu(trained_norm(F.linear(x.mean((2, 3)), w1), gamma, beta))
    of_channels = F.linear(hidden, w2, b2)[:, :, None, None]
    *layers, w_last, b_last = spatial
    of_pixels, dilations = x, (0, BAM_DILATION, BAM_DILATION)  # the first kernel is 1x1
    for d, (w, gamma, beta) in zip(dilations, zip(*[iter(layers)] * 3, strict=True), strict=True):
        of_pixels = F.conv2d(of_pixels, w, padding=d, dilation=max(d, 1))
        of_pixels = F.relu(trained_norm(of_pixels, gamma, beta))
    of_pixels = F.conv2d(of_pixels, w_last, b_last)
    return (1 + torch.sigmoid(of_channels.expand_as(x) * of_pixels.expand_as(x))) * x


def coordinate_attention(x, w1, gamma, beta, w_h, w_w):
    rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)
    both = F.conv2d(torch.cat([rows, columns], 2), w1)
    both = F.hardswish(trained_norm(both, gamma, beta))
    rows, columns = torch.split(both, x.shape[2:], 2)
    a_w = torch.sigmoid(F.conv2d(columns.permute(0, 1, 3, 2), w_w))
    return x * a_w * torch.sigmoid(F.conv2d(rows, w_h))


def simam(x):
    d = (x - x.mean((2, 3), keepdim=True)).pow(2)
    variance = d.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
    return x * torch.sigmoid(d / (4 * (variance + SIMAM_LAMBDA)) + 0.5)


def shuffle_attention(x, c_weight, c_bias, s_weight, s_bias, gn_weight, gn_bias):
    n, c, h, w = x.shape
    half = c_weight.shape[1]
    x0, x1 = x.reshape(-1, 2 * half, h, w).chunk(2, 1)
    of_mean = c_weight * x0.mean((2, 3), keepdim=True) + c_bias
    of_self = s_weight * F.group_norm(x1, half, gn_weight, gn_bias) + s_bias
    y = torch.cat([x0 * torch.sigmoid(of_mean), x1 * torch.sigmoid(of_self)], 1)
    return y.reshape(n, 2, -1, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
