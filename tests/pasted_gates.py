"""Gates in the spellings that people paste into their models."""

import torch
import torch.nn.functional as F
from torch import nn


class SELinear(nn.Module):
    def __init__(self, channel, reduction=4):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channel, channel // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channel // reduction, channel, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class SEConv(nn.Module):
    """The first SENet files: the map is kept under another name, the product is turned round."""

    def __init__(self, channels, reduction=4):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, kernel_size=1, padding=0)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // reduction, channels, kernel_size=1, padding=0)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        module_input = x
        x = self.avg_pool(x)
        x = self.fc1(x)
        x = self.relu(x)
        x = self.fc2(x)
        x = self.sigmoid(x)
        return module_input * x


class SEFunctional(nn.Module):
    """avg_pool2d of the whole map, swish between, the product first."""

    def __init__(self, channels, reduced=4):
        super().__init__()
        self._se_reduce = nn.Conv2d(channels, reduced, 1)
        self._se_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x):
        x_squeezed = F.avg_pool2d(x, x.size()[2:])
        x_squeezed = F.silu(self._se_reduce(x_squeezed))
        x_squeezed = self._se_expand(x_squeezed)
        return torch.sigmoid(x_squeezed) * x


class SquareSE(nn.Module):
    """A kernel by the height alone: for square maps."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc(F.avg_pool2d(x, x.size(2))))


class HardSE(nn.Module):
    """MobileNetV3's, with its own hard sigmoid, a normalisation between, and means one by one."""

    class HSigmoid(nn.Module):
        def forward(self, x):
            return F.relu6(x + 3) / 6

    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // 2)
        self.norm = nn.BatchNorm1d(channels // 2)
        self.fc2 = nn.Linear(channels // 2, channels)
        self.gate = self.HSigmoid()

    def forward(self, x):
        w = x.mean(-1).mean(-1)
        w = self.fc2(F.relu(self.norm(self.fc1(w))))
        return torch.mul(x, self.gate(w)[:, :, None, None])


class ECA(nn.Module):
    def __init__(self, channel, k_size=3):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, kernel_size=k_size, padding=(k_size - 1) // 2, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        y = self.avg_pool(x)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        y = self.sigmoid(y)
        return x * y.expand_as(x)


class BasicConv(nn.Module):
    def __init__(self, in_planes, out_planes, kernel_size, padding=0, relu=True, bn=True):
        super().__init__()
        self.conv = nn.Conv2d(in_planes, out_planes, kernel_size, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out_planes, eps=1e-5, momentum=0.01, affine=True) if bn else None
        self.relu = nn.ReLU() if relu else None

    def forward(self, x):
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        if self.relu is not None:
            x = self.relu(x)
        return x


class Flatten(nn.Module):
    def forward(self, x):
        return x.view(x.size(0), -1)


class ChannelGate(nn.Module):
    def __init__(self, gate_channels, reduction_ratio=4, pool_types=("avg", "max")):
        super().__init__()
        self.mlp = nn.Sequential(
            Flatten(),
            nn.Linear(gate_channels, gate_channels // reduction_ratio),
            nn.ReLU(),
            nn.Linear(gate_channels // reduction_ratio, gate_channels),
        )
        self.pool_types = pool_types

    def forward(self, x):
        channel_att_sum = None
        size = (x.size(2), x.size(3))
        for pool_type in self.pool_types:
            pool = F.avg_pool2d if pool_type == "avg" else F.max_pool2d
            channel_att_raw = self.mlp(pool(x, size, stride=size))
            if channel_att_sum is None:
                channel_att_sum = channel_att_raw
            else:
                channel_att_sum = channel_att_sum + channel_att_raw
        scale = torch.sigmoid(channel_att_sum).unsqueeze(2).unsqueeze(3).expand_as(x)
        return x * scale


class ChannelPool(nn.Module):
    def forward(self, x):
        return torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)


class OfficialSpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.compress = ChannelPool()
        self.spatial = BasicConv(2, 1, 7, padding=3, relu=False)

    def forward(self, x):
        x_out = self.spatial(self.compress(x))
        scale = torch.sigmoid(x_out)
        return x * scale


class OfficialCBAM(nn.Module):
    def __init__(self, gate_channels):
        super().__init__()
        self.ChannelGate = ChannelGate(gate_channels)
        self.SpatialGate = OfficialSpatialGate()

    def forward(self, x):
        return self.SpatialGate(self.ChannelGate(x))


class ChannelAttention(nn.Module):
    def __init__(self, in_planes, ratio=4):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.max_pool = nn.AdaptiveMaxPool2d(1)
        self.sharedMLP = nn.Sequential(
            nn.Conv2d(in_planes, in_planes // ratio, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(in_planes // ratio, in_planes, 1, bias=False),
        )
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        avgout = self.sharedMLP(self.avg_pool(x))
        maxout = self.sharedMLP(self.max_pool(x))
        return self.sigmoid(avgout + maxout)


class SpatialAttention(nn.Module):
    def __init__(self, kernel_size=7):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        avgout = torch.mean(x, dim=1, keepdim=True)
        maxout, _ = torch.max(x, dim=1, keepdim=True)
        x = torch.cat([avgout, maxout], dim=1)
        return self.sigmoid(self.conv(x))


class BlockWithCBAM(nn.Module):
    """A basic block of a ResNet that multiplies by itself, in front of the addition."""

    def __init__(self, planes):
        super().__init__()
        self.conv1 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.ca = ChannelAttention(planes)
        self.sa = SpatialAttention()

    def forward(self, x):
        residual = x
        out = self.bn1(self.conv1(x))
        out = self.ca(out) * out
        out = self.sa(out) * out
        out += residual
        return self.relu(out)


class BasicBlock(nn.Module):
    """A block of a ResNet: one ReLU for all, what is added changes size, perhaps a gate."""

    def __init__(self, planes, se=None):
        super().__init__()
        self.conv1 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = se
        self.downsample = nn.Sequential(nn.Conv2d(planes, planes, 1), nn.BatchNorm2d(planes))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.se is not None:
            out = self.se(out)
        out += self.downsample(x)
        return self.relu(out)


class DropPath(nn.Module):
    """As timm's: nothing at 0."""

    def __init__(self, p=0.0):
        super().__init__()
        self.p = p

    def forward(self, x):
        if self.p == 0.0 or not self.training:
            return x
        keep = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1 - self.p)
        return x * keep.div_(1 - self.p)


class InvertedResidual(nn.Module):
    """As in MobileNets: layers in a Sequential, and no activation at the end."""

    def __init__(self, channels, p=0.0):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(channels, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6()),
            nn.Conv2d(24, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.drop_path = DropPath(p)

    def forward(self, x):
        return x + self.drop_path(self.conv(x))


class AmaxCBAM(nn.Module):
    """As timm's: amax, which divides the gradient of equal maxima, and a bias."""

    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 4, 1)
        self.fc2 = nn.Conv2d(channels // 4, channels, 1)
        self.conv = nn.Conv2d(2, 1, 5, padding=2)

    def forward(self, x):
        x_avg = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        x_max = self.fc2(F.relu(self.fc1(x.amax((2, 3), keepdim=True))))
        x = x * (x_avg + x_max).sigmoid()
        x_attn = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * self.conv(x_attn).sigmoid()


class LightSpatial(nn.Module):
    """One plane, half the mean and half the maximum, then a hard sigmoid."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        pooled = 0.5 * x.mean(1, keepdim=True) + 0.5 * x.max(1, keepdim=True).values
        return x * F.hardsigmoid(self.conv(pooled))


class GAM(nn.Module):
    def __init__(self, in_channels, rate=4):
        super().__init__()
        hidden = in_channels // rate
        self.channel_attention = nn.Sequential(
            nn.Linear(in_channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, in_channels)
        )
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(in_channels, hidden, kernel_size=7, padding=3),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, in_channels, kernel_size=7, padding=3),
            nn.BatchNorm2d(in_channels),
        )

    def forward(self, x):
        b, c, h, w = x.shape
        x_permute = x.permute(0, 2, 3, 1).view(b, -1, c)
        x_att_permute = self.channel_attention(x_permute).view(b, h, w, c)
        x_channel_att = x_att_permute.permute(0, 3, 1, 2)
        x = x * x_channel_att
        x_spatial_att = self.spatial_attention(x).sigmoid()
        return x * x_spatial_att


class StatisticsGate(nn.Module):
    """A gate of somebody's own: scale by variance, minimum and maximum, and a number of its own."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, channels))
        self.register_buffer("offset", torch.randn(channels, 1, 1))

    def forward(self, x):
        b, c = x.shape[:2]
        flat = x.view(b, c, -1)
        low, high = flat.min(2)[0], flat.max(-1)[0]
        spread = x.var(dim=(2, 3), unbiased=False)
        logit = self.weight[0] * low + self.weight[1] * high + self.weight[2] * spread
        return x.mul(torch.tanh(logit.unsqueeze(-1).unsqueeze(-1) + self.offset))


class SCSE(nn.Module):
    """As in segmentation networks: the channel half is a gate that is known."""

    def __init__(self, in_channels, reduction=4):
        super().__init__()
        self.cSE = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, in_channels // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels // reduction, in_channels, 1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(nn.Conv2d(in_channels, 1, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.cSE(x) + x * self.sSE(x)


class OneProductSCSE(SCSE):
    """The sum first, then one product."""

    def forward(self, x):
        return x * (self.sSE(x) + self.cSE(x))


class ChannelSE(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.excite = nn.Conv2d(channels // 2, channels, 1, bias=False)

    def forward(self, u):
        z = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(u, 1))))
        return u * torch.sigmoid(z).expand_as(u)


class SpatialSE(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1, bias=False)

    def forward(self, u):
        return u * torch.sigmoid(self.conv(u))


class OfficialSCSE(nn.Module):
    """Two gates whose results are added."""

    def __init__(self, channels):
        super().__init__()
        self.cse = ChannelSE(channels)
        self.sse = SpatialSE(channels)

    def forward(self, u):
        return self.cse(u) + self.sse(u)


class BAM(nn.Module):
    def __init__(self, channels, reduction=4, dilation=4):
        super().__init__()
        hidden = channels // reduction
        self.gate_c = nn.Sequential(
            Flatten(),
            nn.Linear(channels, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
        )
        self.gate_s = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, 1, 1),
        )

    def forward(self, in_tensor):
        avg_pool = F.avg_pool2d(in_tensor, in_tensor.size(2), stride=in_tensor.size(2))
        channel = self.gate_c(avg_pool).unsqueeze(2).unsqueeze(3).expand_as(in_tensor)
        att = 1 + torch.sigmoid(channel * self.gate_s(in_tensor).expand_as(in_tensor))
        return att * in_tensor


class CoordAtt(nn.Module):
    def __init__(self, inp, reduction=4):
        super().__init__()
        self.pool_h = nn.AdaptiveAvgPool2d((None, 1))
        self.pool_w = nn.AdaptiveAvgPool2d((1, None))
        mip = max(8, inp // reduction)
        self.conv1 = nn.Conv2d(inp, mip, kernel_size=1)
        self.bn1 = nn.BatchNorm2d(mip)
        self.act = nn.Hardswish()
        self.conv_h = nn.Conv2d(mip, inp, kernel_size=1)
        self.conv_w = nn.Conv2d(mip, inp, kernel_size=1)

    def forward(self, x):
        identity = x
        _, _, h, w = x.size()
        y = torch.cat([self.pool_h(x), self.pool_w(x).permute(0, 1, 3, 2)], dim=2)
        y = self.act(self.bn1(self.conv1(y)))
        x_h, x_w = torch.split(y, [h, w], dim=2)
        a_h = self.conv_h(x_h).sigmoid()
        a_w = self.conv_w(x_w.permute(0, 1, 3, 2)).sigmoid()
        return identity * a_w * a_h


class ShuffleAttention(nn.Module):
    def __init__(self, channel, groups=4):
        super().__init__()
        self.groups = groups
        half = channel // (2 * groups)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.cweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.cbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.sweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.sbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.sigmoid = nn.Sigmoid()
        self.gn = nn.GroupNorm(half, half)

    def forward(self, x):
        b, _, h, w = x.shape
        x = x.reshape(b * self.groups, -1, h, w)
        x_0, x_1 = x.chunk(2, dim=1)
        xn = x_0 * self.sigmoid(self.cweight * self.avg_pool(x_0) + self.cbias)
        xs = x_1 * self.sigmoid(self.sweight * self.gn(x_1) + self.sbias)
        out = torch.cat([xn, xs], dim=1).reshape(b, 2, -1, h, w)
        return out.permute(0, 2, 1, 3, 4).reshape(b, -1, h, w)


class SimAM(nn.Module):
    def __init__(self, channels=None, e_lambda=1e-4):
        super().__init__()
        self.activaton = nn.Sigmoid()
        self.e_lambda = e_lambda

    def forward(self, x):
        _, _, h, w = x.size()
        n = w * h - 1
        x_minus_mu_square = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        y = (
            x_minus_mu_square
            / (4 * (x_minus_mu_square.sum(dim=[2, 3], keepdim=True) / n + self.e_lambda))
            + 0.5
        )
        return x * self.activaton(y)


class RowGate(nn.Module):
    """A gate per row, by a tanh."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.tanh(self.conv(x.mean(3))).unsqueeze(3) * x


class SKConv(nn.Module):
    """Branches are joined along the channels, and seen as a dimension of their own."""

    def __init__(self, channels, branches=2, reduction=4):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=i, dilation=i, groups=4, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
            for i in range(1, branches + 1)
        )
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.squeeze = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1, bias=False),
            nn.BatchNorm2d(channels // reduction),
            nn.ReLU(inplace=True),
        )
        self.excite = nn.ModuleList(
            nn.Conv2d(channels // reduction, channels, 1) for _ in self.branches
        )
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x):
        n, c = x.shape[:2]
        maps = torch.cat([branch(x) for branch in self.branches], dim=1)
        maps = maps.view(n, len(self.branches), c, maps.shape[2], maps.shape[3])
        z = self.squeeze(self.pool(torch.sum(maps, dim=1)))
        logits = torch.cat([layer(z) for layer in self.excite], dim=1)
        weights = self.softmax(logits.view(n, len(self.branches), c, 1, 1))
        return torch.sum(maps * weights, dim=1)


class StackedSelection(SKConv):
    """The same by a stack."""

    def forward(self, x):
        maps = torch.stack([branch(x) for branch in self.branches], 1)
        z = self.squeeze(self.pool(maps.sum(1)))
        logits = torch.stack([layer(z) for layer in self.excite], 1)
        return (maps * self.softmax(logits)).sum(1)


class SplitAttention(nn.Module):
    """One convolution makes all branches: halves of its channels."""

    def __init__(self, channels, radix=2):
        super().__init__()
        self.radix = radix
        self.conv = nn.Conv2d(channels, channels * radix, 3, padding=1, groups=radix, bias=False)
        self.norm = nn.BatchNorm2d(channels * radix)
        self.fc1 = nn.Conv2d(channels, channels // 2, 1)
        self.fc2 = nn.Conv2d(channels // 2, channels * radix, 1)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        n, rc, h, w = x.shape
        maps = x.reshape(n, self.radix, rc // self.radix, h, w)
        mean = F.adaptive_avg_pool2d(maps.sum(dim=1), 1)
        logits = self.fc2(F.relu(self.fc1(mean)))
        weights = F.softmax(logits.view(n, self.radix, -1), dim=1).reshape(n, -1, 1, 1)
        return (maps * weights.reshape(n, self.radix, rc // self.radix, 1, 1)).sum(dim=1)


class AFF(nn.Module):
    def __init__(self, channels, r=4):
        super().__init__()
        inter = channels // r
        self.local_att = self.branch(channels, inter)
        self.global_att = self.branch(channels, inter, nn.AdaptiveAvgPool2d(1))
        self.sigmoid = nn.Sigmoid()

    @staticmethod
    def branch(channels, inter, *first):
        return nn.Sequential(
            *first,
            nn.Conv2d(channels, inter, kernel_size=1),
            nn.BatchNorm2d(inter),
            nn.ReLU(inplace=True),
            nn.Conv2d(inter, channels, kernel_size=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x, residual):
        xa = x + residual
        wei = self.sigmoid(self.local_att(xa) + self.global_att(xa))
        return 2 * x * wei + 2 * residual * (1 - wei)


class IAFF(AFF):
    """Twice, one after the other, with one global branch."""

    def __init__(self, channels, r=4):
        super().__init__(channels, r)
        self.local_att2 = self.branch(channels, channels // r)

    def forward(self, x, residual):
        xa = x + residual
        wei = self.sigmoid(self.local_att(xa) + self.global_att(xa))
        xi = x * wei + residual * (1 - wei)
        wei2 = self.sigmoid(self.local_att2(xi) + self.global_att(xi))
        return x * wei2 + residual * (1 - wei2)


class TwoBranches(nn.Module):
    """A convolution's result and its input, blended."""

    def __init__(self, channels, fusion):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.fusion = fusion

    def forward(self, x):
        return self.fusion(self.conv(x), x)
