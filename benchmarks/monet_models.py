"""The five networks of MONeT (Shah et al. 2021, "Memory optimization for deep networks") at the sizes that it was measured at.

Rebuilt from the shapes of torchvision's (VGG-16, ResNet-50, MobileNet-V2, GoogLeNet) and milesial's (U-Net): their operators in
their order, in place where theirs are, and as many parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

_CLASSES = 1000

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of the convolutions; 0 is a pooling."""


def vgg16() -> nn.Module:
    """VGG-16 without normalisation, its classifier with dropout."""
    layers: list[nn.Module] = []
    channels = 3
    for width in _VGG16:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)] if width else [nn.MaxPool2d(2, 2)]
        channels = width or channels
    classifier = [nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    classifier += [nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(4096, _CLASSES)]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Sequential(*classifier))


def _normalised(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, activation: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    """A convolution that keeps the picture's size but for ``stride``, a batch normalisation and perhaps an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation(inplace=True)]))


class Bottleneck(nn.Module):
    """Three convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _normalised(inputs, width, 1),
            _normalised(width, width, 3, stride),
            _normalised(width, 4 * width, 1, activation=None),
        )
        fits = stride == 1 and inputs == 4 * width
        self.shortcut = nn.Identity() if fits else _normalised(inputs, 4 * width, 1, stride, activation=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[batch, inputs, h, w] to float[batch, 4 width, h / stride, w / stride]."""
        out = self.layers(x)
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


def resnet50() -> nn.Module:
    """ResNet-50, whose middle convolutions have the stride."""
    layers: list[nn.Module] = [_normalised(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for k in range(depth):
            layers.append(Bottleneck(inputs, width, 1 if k else stride))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, _CLASSES))


class InvertedResidual(nn.Module):
    """A depthwise convolution between one that expands and one that projects, beside a shortcut where that fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, factor: int) -> None:
        super().__init__()
        hidden = inputs * factor
        layers = [] if factor == 1 else [_normalised(inputs, hidden, 1, activation=nn.ReLU6)]
        layers.append(_normalised(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6))
        self.layers = nn.Sequential(*layers, _normalised(hidden, outputs, 1, activation=None))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[batch, inputs, h, w] to float[batch, outputs, h / stride, w / stride]."""
        return x + self.layers(x) if self.adds else self.layers(x)


def mobilenet_v2() -> nn.Module:
    """MobileNet-V2 of width 1."""
    layers: list[nn.Module] = [_normalised(3, 32, 3, 2, activation=nn.ReLU6)]
    inputs = 32
    blocks = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for factor, outputs, depth, stride in blocks:
        for k in range(depth):
            layers.append(InvertedResidual(inputs, outputs, 1 if k else stride, factor))
            inputs = outputs
    layers += [_normalised(inputs, 1280, 1, activation=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(1280, _CLASSES))


class Inception(nn.Module):
    """Four branches side by side, of 1x1, 3x3, 3x3 and pooled 1x1 convolutions."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        one, three_in, three, five_in, five, pooled = widths
        self.branches = nn.ModuleList(
            [
                _normalised(inputs, one, 1),
                nn.Sequential(_normalised(inputs, three_in, 1), _normalised(three_in, three, 3)),
                nn.Sequential(_normalised(inputs, five_in, 1), _normalised(five_in, five, 3)),  # 3, as torchvision has it
                nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), _normalised(inputs, pooled, 1)),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[batch, inputs, h, w] to float[batch, the branches' widths together, h, w]."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class Auxiliary(nn.Module):
    """A classifier half way."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), _normalised(inputs, 128, 1), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(2048, 1024), nn.ReLU(inplace=True), nn.Dropout(0.7), nn.Linear(1024, _CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[batch, inputs, h, w] to float[batch, classes]."""
        return self.head(self.layers(x))


class GoogLeNet(nn.Module):
    """GoogLeNet with batch normalisation; returns the scores and, of its two auxiliary classifiers, theirs."""

    def __init__(self) -> None:
        super().__init__()

        def pool(size: int, stride: int) -> nn.Module:
            return nn.MaxPool2d(size, stride, ceil_mode=True)

        self.first = nn.Sequential(
            *(_normalised(3, 64, 7, 2), pool(3, 2), _normalised(64, 64, 1), _normalised(64, 192, 3), pool(3, 2)),
            *(Inception(192, (64, 96, 128, 16, 32, 32)), Inception(256, (128, 128, 192, 32, 96, 64)), pool(3, 2)),
            Inception(480, (192, 96, 208, 16, 48, 64)),
        )
        self.second = nn.Sequential(
            Inception(512, (160, 112, 224, 24, 64, 64)),
            Inception(512, (128, 128, 256, 24, 64, 64)),
            Inception(512, (112, 144, 288, 32, 64, 64)),
        )
        self.third = nn.Sequential(
            *(Inception(528, (256, 160, 320, 32, 128, 128)), pool(2, 2)),
            *(Inception(832, (256, 160, 320, 32, 128, 128)), Inception(832, (384, 192, 384, 48, 128, 128))),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1024, _CLASSES)),
        )
        self.auxiliary = nn.ModuleList([Auxiliary(512), Auxiliary(528)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """float[batch, 3, h, w] to the scores of all three classifiers, float[batch, classes] each."""
        first = self.first(x)
        second = self.second(first)
        return self.third(second), self.auxiliary[1](second), self.auxiliary[0](first)


class UNet(nn.Module):
    """U-Net with batch normalisation; pictures become smaller four times and are enlarged by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _twice(3, 64)
        self.down = nn.ModuleList(_twice(width, min(2 * width, 512)) for width in (64, 128, 256, 512))
        self.up = nn.ModuleList(_twice(2 * width, outputs, width) for width, outputs in _UP)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[batch, 3, h, w], h and w multiples of 16, to scores float[batch, 2, h, w]."""
        skipped = []
        x = self.first(x)
        for layers in self.down:
            skipped.append(x)
            x = layers(F.max_pool2d(x, 2))
        for layers in self.up:
            x = layers(torch.cat([skipped.pop(), self.enlarge(x)], 1))
        return self.head(x)


_UP = ((512, 256), (256, 128), (128, 64), (64, 64))


def _twice(inputs: int, outputs: int, middle: int = 0) -> nn.Sequential:
    return nn.Sequential(_normalised(inputs, middle or outputs, 3), _normalised(middle or outputs, outputs, 3))


def class_loss(labels: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    """Cross entropy with ``labels``, int64[batch] or int64[batch, h, w]; GoogLeNet's auxiliary scores count 0.3 each."""

    def loss(output: Any) -> torch.Tensor:
        scores, *auxiliary = output if isinstance(output, tuple) else (output,)
        total = F.cross_entropy(scores, labels)
        for other in auxiliary:
            total = total + 0.3 * F.cross_entropy(other, labels)
        return total

    return loss
