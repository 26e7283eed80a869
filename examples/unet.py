"""A diffusion U-Net with attention and long skip connections, trained to predict noise.

plan --budget 60% examples/unet.py
"""

import torch
from diffusers import UNet2DModel
from torch.nn.functional import mse_loss


def build():
    model = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    images, noise, times = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), torch.randint(1000, (4,))

    def loss(output):
        return mse_loss(output.sample, noise)

    return model, (images, times), loss
