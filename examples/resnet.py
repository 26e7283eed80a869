"""A ResNet with BatchNorm, whose running statistics are updated once a step however often a layer is recomputed.

plan --budget 60% examples/resnet.py
"""

import torch
from torch.nn.functional import cross_entropy
from transformers import ResNetConfig, ResNetForImageClassification


def build():
    config = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64, 128], depths=[3, 4, 3], layer_type="basic", num_labels=10)
    model = ResNetForImageClassification(config)
    images, labels = torch.randn(16, 3, 96, 96), torch.randint(10, (16,))

    def loss(output):
        return cross_entropy(output.logits, labels)

    return model, images, loss
