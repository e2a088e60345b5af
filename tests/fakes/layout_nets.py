"""Small networks of kinds that no zoo contains; ``test_layouts`` has the expected results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.levit import Levit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def awake(module: nn.Module) -> nn.Module:
    """Replaces zero weights by small random values, as training would."""
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        if weight.ndim > 1 and float(weight.detach().abs().max()) < 1e-6:
            weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return module.eval()


def head(channels: int) -> list[nn.Module]:
    """Pooling and a classifier."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


class Do(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


# One axis pooled more than the other.


def pooled(*pools: tuple[int, int], channels: int = 3) -> nn.Sequential:
    """Convolutions with a separate pooling before each but the first."""
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, 1, 1), nn.ReLU()]
    for pool in pools:
        layers += [nn.MaxPool2d(pool), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*layers, *head(16))


def strided(*strides: tuple[int, int], channels: int = 3, bias: bool = True) -> nn.Sequential:
    """Convolutions with strides."""
    layers: list[nn.Module] = []
    for index, stride in enumerate(strides):
        kernel = tuple(2 * (side // 2) + 1 if side > 1 else 3 for side in stride)
        padding = tuple(side // 2 for side in kernel)
        layers += [
            nn.Conv2d(16 if index else channels, 16, kernel, stride, padding, bias=bias),
            nn.BatchNorm2d(16),
            nn.GELU(),
        ]
    return nn.Sequential(*layers, *head(16))


class EEGNet(nn.Module):
    """Electrodes by time: a convolution over time, one over all electrodes, pooling over time."""

    def __init__(self, electrodes: int = 22, samples: int = 256) -> None:
        super().__init__()
        self.temporal = nn.Sequential(
            nn.Conv2d(1, 8, (1, 32), padding="same", bias=False), nn.BatchNorm2d(8)
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(8, 16, (electrodes, 1), groups=8, bias=False),
            nn.BatchNorm2d(16),
            nn.ELU(),
            nn.AvgPool2d((1, 4)),
            nn.Dropout(0.25),
        )
        self.separable = nn.Sequential(
            nn.Conv2d(16, 16, (1, 16), padding="same", groups=16, bias=False),
            nn.Conv2d(16, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ELU(),
            nn.AvgPool2d((1, 8)),
            nn.Dropout(0.25),
        )
        self.classify = nn.Linear(16 * (samples // 32), 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.separable(self.spatial(self.temporal(x))).flatten(1))


class ShallowConvNet(nn.Module):
    """EEG: squares of filtered signals, pooled over time."""

    def __init__(self, electrodes: int = 22) -> None:
        super().__init__()
        self.conv_time = nn.Conv2d(1, 20, (1, 25))
        self.conv_spat = nn.Conv2d(20, 20, (electrodes, 1), bias=False)
        self.bn = nn.BatchNorm2d(20)
        self.pool = nn.AvgPool2d((1, 35), (1, 7))
        self.head = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv_spat(self.conv_time(x))).square()
        return self.head(self.pool(x).clamp_min(1e-6).log().mean((2, 3)))


class CRNN(nn.Module):
    """Text in a line: rows are pooled away, columns stay, a recurrent network reads them."""

    def __init__(
        self, recurrent: type[nn.Module] | None = None, *, batch_first: bool = False
    ) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 16, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, 1, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d((2, 1)),
            nn.Conv2d(32, 32, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d((2, 1)),
            nn.Conv2d(32, 32, (2, 1)),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.batch_first = batch_first
        self.rnn = (
            recurrent(32, 16, bidirectional=True, batch_first=batch_first) if recurrent else None
        )
        self.fc = nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cnn(x).squeeze(2)
        if self.rnn is None:
            return self.fc(x.mean(2))
        x = x.permute(0, 2, 1) if self.batch_first else x.permute(2, 0, 1)
        return self.fc(self.rnn(x)[0].mean(1 if self.batch_first else 0))


class AudioCNN(nn.Module):
    """A log-mel spectrogram, frequency pooled away more than time."""

    def __init__(self) -> None:
        super().__init__()
        blocks = []
        for index, pool in enumerate([(2, 1), (2, 1), (4, 2), (4, 2)]):
            blocks += [
                nn.Conv2d(16 if index else 1, 16, 3, 1, 1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(pool),
            ]
        self.features = nn.Sequential(*blocks)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.fc(x.mean(2).amax(2))


class OverTime(nn.Module):
    """Rows become channels: a convolution over columns alone, as over the time of a spectrogram."""

    def __init__(self, rows: int = 16, front: nn.Module | None = None) -> None:
        super().__init__()
        self.front = front or nn.Identity()
        self.back = nn.Sequential(
            nn.Conv1d(rows, 32, 3, 2, 1), nn.ReLU(), nn.Conv1d(32, 32, 3, 2, 1), nn.ReLU()
        )
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.back(self.front(x).flatten(1, 2)).mean(-1))


def over_time_of_maps() -> nn.Module:
    """The same behind convolutions over both axes."""
    front = nn.Sequential(
        nn.Conv2d(1, 8, 3, (2, 1), 1), nn.ReLU(), nn.MaxPool2d((2, 1)), nn.Conv2d(8, 8, 1)
    )
    return OverTime(8 * 16, front)


class WhisperEncoder(nn.Module):
    """Mel bands as channels, tokens over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(64, 48, 3, 1, 1), nn.GELU(), nn.Conv1d(48, 48, 3, 2, 1), nn.GELU()
        )
        self.blocks = nn.Sequential(*(Separate.Block(48, 4, "qkv") for _ in range(2)))
        self.norm, self.fc = nn.LayerNorm(48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.blocks(self.conv(x[:, 0]).transpose(1, 2))).mean(1))


class DecisionLevel(nn.Module):
    """PANN: columns pooled away, each row gives a score, and rows are weighted."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, pool in enumerate([(2, 2), (2, 2), (1, 4)]):
            layers += [nn.Conv2d(16 if index else 1, 16, 3, 1, 1), nn.ReLU(), nn.AvgPool2d(pool)]
        self.blocks, self.fc = nn.Sequential(*layers), nn.Linear(16, 16)
        self.weigh, self.decide = nn.Conv1d(16, 5, 1), nn.Conv1d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.blocks(x).mean(3).transpose(1, 2)).relu().transpose(1, 2)
        return (self.weigh(x).softmax(-1) * self.decide(x)).sum(2)


class Spectrogram(nn.Module):
    """A transformer that swaps rows and columns first, with two class tokens (AST)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 48, 16, 10)
        self.cls, self.pos = (
            nn.Parameter(torch.randn(1, 2, 48)),
            nn.Parameter(torch.zeros(1, 74, 48)),
        )
        self.blocks = nn.Sequential(*(Separate.Block(48, 4, "qkv") for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x.transpose(2, 3)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, :2].mean(1))


# Transformers.


class BatchSecond(nn.Module):
    """``(L, N, C)``, the default of ``nn.TransformerEncoder``."""

    def __init__(
        self,
        *,
        patch: int = 8,
        grid: tuple[int, int] = (8, 8),
        token: bool = True,
        first: bool = False,
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        length = grid[0] * grid[1] + token
        self.patch, self.first, self.token = nn.Conv2d(3, 48, patch, patch), first, token
        self.cls = nn.Parameter(torch.randn(1, 1, 48) * 0.02)
        self.pos = nn.Parameter(torch.randn(length, 1, 48) * 0.02)
        layer = nn.TransformerEncoderLayer(48, 4, 96, norm_first=norm_first, batch_first=first)
        self.blocks = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).permute(2, 0, 1)
        if self.token:
            x = torch.cat([self.cls.expand(-1, x.shape[1], -1), x])
        x = x + self.pos
        x = x.transpose(0, 1) if self.first else x
        x = self.blocks(x)
        x = self.norm(x.transpose(0, 1) if self.first else x)
        return self.head(x[0] if self.token else x.mean(0))


class ResidualAttentionBlock(nn.Module):
    """The form of CLIP's original tower."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class CLIPTower(nn.Module):
    """CLIP's original image encoder: batch in dimension 1 inside, class token, projection."""

    def __init__(self, size: int = 64, patch: int = 8, width: int = 48, depth: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * 0.1)
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width) * 0.1)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Sequential(*(ResidualAttentionBlock(width, 4) for _ in range(depth)))
        self.proj = nn.Parameter(torch.randn(width, 6) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        token = self.class_embedding + torch.zeros(len(x), 1, x.shape[-1])
        x = self.ln_pre(torch.cat([token, x], dim=1) + self.positional_embedding)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0, :]) @ self.proj


class Prompted(VisionTransformer):
    """Class token in front, learnt prompts behind."""

    def __init__(self, prompts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prompts = nn.Parameter(torch.randn(1, prompts, self.embed_dim) * 0.5)

    def _pos_embed(self, x: Tensor) -> Tensor:
        x = super()._pos_embed(x)
        return torch.cat([x, self.prompts.expand(len(x), -1, -1)], 1)


class DeepPrompted(nn.Module):
    """VPT deep: after the class token, prompts that each block replaces by its own."""

    def __init__(self, prompts: int, *, behind: bool = False) -> None:
        super().__init__()
        self.vit = VisionTransformer(img_size=64, patch_size=8, **VIT)
        self.prompts = nn.Parameter(torch.randn(4, 1, prompts, 48) * 0.5)
        self.behind = behind

    def forward(self, x: Tensor) -> Tensor:
        vit = self.vit
        x = vit._pos_embed(vit.patch_embed(x))
        places = x.shape[1] - 1
        for block, prompts in zip(vit.blocks, self.prompts, strict=True):
            own = prompts.expand(len(x), -1, -1)
            parts = [x[:, :1], x[:, 1:][:, :places] if self.behind else x[:, -places:]]
            parts.insert(2 if self.behind else 1, own)
            x = block(torch.cat(parts, 1))
        return vit.forward_head(vit.norm(x))


class Separate(nn.Module):
    """A class-token transformer in which queries, keys and values are layers of their own."""

    class Attention(nn.Module):
        def __init__(self, width: int, heads: int, order: str) -> None:
            super().__init__()
            for name in order:
                setattr(self, name, nn.Linear(width, width))
            self.proj, self.heads, self.order = nn.Linear(width, width), heads, order

        def forward(self, x: Tensor) -> Tensor:
            n, length, width = x.shape
            parts = {
                name: getattr(self, name)(x).reshape(n, length, self.heads, -1).transpose(1, 2)
                for name in self.order
            }
            x = nn.functional.scaled_dot_product_attention(parts["q"], parts["k"], parts["v"])
            return self.proj(x.transpose(1, 2).reshape(n, length, width))

    class Block(nn.Module):
        def __init__(self, width: int, heads: int, order: str) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attn = Separate.Attention(width, heads, order)
            self.mlp = nn.Sequential(
                nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
            )

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    def __init__(self, order: str = "kvq") -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, 48, 8, 8), nn.Parameter(torch.randn(1, 1, 48))
        self.pos = nn.Parameter(torch.randn(1, 65, 48) * 0.02)
        self.blocks = nn.Sequential(*(Separate.Block(48, 4, order) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


class LoRA(nn.Module):
    """A linear layer with a low-rank adapter, structured as in peft."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        nn.init.normal_(self.lora_B["default"].weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        change = self.lora_A["default"](self.lora_dropout["default"](x))
        return self.base_layer(x) + 0.5 * self.lora_B["default"](change)


def adapted(module: nn.Module, *wanted: str, rank: int = 8) -> nn.Module:
    """Puts an adapter on every linear layer of one of these names."""
    for child in list(module.modules()):
        for part, layer in list(child.named_children()):
            if part in wanted and isinstance(layer, nn.Linear):
                setattr(child, part, LoRA(layer, rank))
    return module


VIT: dict[str, Any] = {"embed_dim": 48, "depth": 4, "num_heads": 4, "num_classes": 5}


def vit(size: tuple[int, int], patch: tuple[int, int], **kwargs: Any) -> nn.Module:
    """timm's own."""
    return VisionTransformer(img_size=size, patch_size=patch, **{**VIT, **kwargs})


# Dense answers.


class OneMask(nn.Module):
    """Segmentation with a single logit; ``after`` follows the convolution."""

    def __init__(self, channels: int = 1, after: nn.Module | None = None) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
        )
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=4), nn.Conv2d(32, 16, 3, 1, 1), nn.ReLU()
        )
        self.out = nn.Conv2d(16, channels, 1)
        self.after = after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.out(self.decoder(self.down(x))))


class UNet(nn.Module):
    """Two levels, skip connections, one mask."""

    def __init__(self) -> None:
        super().__init__()

        def double(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, 1, 1),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, 1, 1),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )

        self.inc, self.down1, self.down2 = double(3, 8), double(8, 16), double(16, 32)
        self.up1, self.dec1 = nn.ConvTranspose2d(32, 16, 2, 2), double(32, 16)
        self.up2, self.dec2 = nn.ConvTranspose2d(16, 8, 2, 2), double(16, 8)
        self.outc = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.inc(x)
        two = self.down1(nn.functional.max_pool2d(one, 2))
        three = self.down2(nn.functional.max_pool2d(two, 2))
        two = self.dec1(torch.cat([self.up1(three), two], 1))
        return self.outc(self.dec2(torch.cat([self.up2(two), one], 1)))


# Outputs whose axes are not positions.


class Frequencies(nn.Module):
    """Convolutions, then a Fourier transform, then work on frequencies."""

    def __init__(self, *, real: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1))
        fourier = torch.fft.rfft2 if real else torch.fft.fft2
        self.fourier = Do(lambda x: fourier(x, norm="ortho").abs())
        self.freq = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU())
        self.tail = nn.Sequential(*head(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.freq(self.fourier(self.features(x))))


class FNet(nn.Module):
    """Tokens mixed by a Fourier transform, with residual connections."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fourier = Do(lambda x: torch.fft.fft2(x).real)
            self.norm1, self.norm2 = nn.LayerNorm(48), nn.LayerNorm(48)
            self.mlp = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm1(x + self.fourier(x))
            return self.norm2(x + self.mlp(x))

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 48, 8, 8)
        self.blocks = nn.Sequential(*(FNet.Block() for _ in range(2)))
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(x).mean(1))


class GFNet(nn.Module):
    """Global filters: a Fourier transform, a product, and back."""

    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spectrum = Do(
                lambda x: torch.view_as_real(torch.fft.rfft2(x, dim=(1, 2), norm="ortho"))
            )
            self.weight = nn.Parameter(torch.randn(8, 5, 48, 2) * 0.2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.view_as_complex(self.spectrum(x.reshape(len(x), 8, 8, 48)).contiguous())
            y = y * torch.view_as_complex(self.weight)
            return torch.fft.irfft2(y, s=(8, 8), dim=(1, 2), norm="ortho").reshape(len(x), 64, 48)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.filter = nn.LayerNorm(48), nn.LayerNorm(48), GFNet.Filter()
            self.mlp = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mlp(self.norm2(self.filter(self.norm1(x))))

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 48, 8, 8)
        self.blocks = nn.Sequential(*(GFNet.Block() for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class Latents(nn.Module):
    """Learnt latents query the image (Perceiver, Q-Former): they have no position on it."""

    def __init__(self, count: int, *, depth: int = 2, normed: bool = True, width: int = 48) -> None:
        super().__init__()
        self.patch = nn.Sequential(
            nn.Conv2d(3, width, 8, 8), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1)
        )
        self.tokens = nn.LayerNorm(width) if normed else nn.Identity()
        self.latents = nn.Parameter(torch.randn(1, count, width))
        self.cross = nn.MultiheadAttention(width, 4, batch_first=True)
        self.latent_norm = nn.LayerNorm(width)
        self.latent_blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, 4, 96, batch_first=True) for _ in range(depth))
        )
        self.latent_out, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(self.patch(x).flatten(2).transpose(1, 2))
        asked = self.latents.expand(len(x), -1, -1)
        y = self.latent_norm(asked + self.cross(asked, x, x, need_weights=False)[0])
        return self.head(self.latent_out(self.latent_blocks(y)).mean(1))


class Slots(nn.Module):
    """Slot attention: positions compete for slots, which are updated several times."""

    def __init__(self, count: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 5, 4, 2), nn.ReLU(), nn.Conv2d(32, 32, 5, 2, 2), nn.ReLU()
        )
        self.norm = nn.LayerNorm(32)
        self.start = nn.Parameter(torch.randn(1, count, 32))
        self.slot_q, self.slot_k, self.slot_v = (nn.Linear(32, 32) for _ in range(3))
        self.slot_gru, self.slot_norm = nn.GRUCell(32, 32), nn.LayerNorm(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.features(x).flatten(2).transpose(1, 2))
        keys, values, slots = self.slot_k(x), self.slot_v(x), self.start.expand(len(x), -1, -1)
        for _ in range(3):
            share = (keys @ self.slot_q(self.slot_norm(slots)).transpose(1, 2) / 6).softmax(-1)
            share = share / share.sum(1, keepdim=True)
            update = share.transpose(1, 2) @ values
            slots = self.slot_gru(update.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        return self.head(slots.mean(1))


def pyramid(after: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """timm's LeViT, narrow: twice, tokens of every second row and column query all others.

    No residual connection bypasses this. With random weights, all queries get nearly the same
    result, so that every position of the last stages depends on the whole image.

    Args:
        after: The module that follows the last queries.
    """
    net = Levit(embed_dim=(32, 48, 64), key_dim=8, depth=(1, 1, 1), num_heads=2, num_classes=5)
    if after is not None:
        net.stages[2].downsample = nn.Sequential(net.stages[2].downsample, Do(after))
    return net


class Merged(nn.Module):
    """A mean-pooled transformer that reduces the number of tokens on the way."""

    def __init__(self, merge: Callable[[Tensor], Tensor], *, conv: bool = True) -> None:
        super().__init__()
        self.patch, self.pos = nn.Conv2d(3, 48, 8, 8), nn.Parameter(torch.randn(1, 64, 48) * 0.02)
        self.early = nn.Sequential(*(Separate.Block(48, 4, "qkv") for _ in range(2)))
        self.merge = Do(merge)
        self.late = nn.Sequential(*(Separate.Block(48, 4, "qkv") for _ in range(2)))
        self.late_norm, self.head = nn.LayerNorm(48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(self.patch(x).flatten(2).transpose(1, 2) + self.pos)
        return self.head(self.late_norm(self.late(self.merge(x))).mean(1))


def tome(count: int) -> Callable[[Tensor], Tensor]:
    """ToMe: the most similar pairs of even and odd tokens become one."""

    def merge(x: Tensor) -> Tensor:
        unit = nn.functional.normalize(x, dim=-1)
        even, odd = unit[:, ::2], unit[:, 1::2]
        best, partner = (even @ odd.transpose(1, 2)).max(-1)
        order = best.argsort(dim=-1, descending=True)[..., None]
        gone, kept = order[:, :count], order[:, count:]
        where = partner[..., None].gather(1, gone)
        width = x.shape[-1]
        source, target = x[:, ::2], x[:, 1::2]
        left = source.gather(1, kept.expand(-1, -1, width))
        target = target.scatter_reduce(
            1,
            where.expand(-1, -1, width),
            source.gather(1, gone.expand(-1, -1, width)),
            reduce="mean",
        )
        return torch.cat([left, target], 1)

    return merge


def keep_strongest(count: int) -> Callable[[Tensor], Tensor]:
    """EViT and similar: only the strongest tokens are kept, the strongest first."""

    def prune(x: Tensor) -> Tensor:
        order = x.norm(dim=-1).argsort(dim=-1, descending=True)[:, :count, None]
        return x.gather(1, order.expand(-1, -1, x.shape[-1]))

    return prune


class TokenLearner(nn.Module):
    """Few tokens, each a mean over positions with its own weights, then a transformer."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()
        )
        self.weigh = nn.Conv2d(16, count, 1)
        self.late = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        weights = self.weigh(x).flatten(2).softmax(-1)
        return self.head(self.late(weights @ x.flatten(2).transpose(1, 2)).mean(1))


class AttentionLast(nn.Module):
    """Scores from an attention matrix itself."""

    def __init__(self, size: int = 64, patch: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU())
        self.patch = nn.Conv2d(16, 32, patch, patch)
        self.norm = nn.LayerNorm(32)
        self.qk = nn.Linear(32, 64)
        self.matrix = nn.Softmax(dim=-1)
        self.matrix_mix = nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(self.stem(x)).flatten(2).transpose(1, 2))
        n, length, _ = x.shape
        q, k = self.qk(x).reshape(n, length, 2, 4, 8).permute(2, 0, 3, 1, 4)
        return self.matrix_mix(self.matrix(q @ k.transpose(2, 3))).square().mean((2, 3))


class HiddenUnits(nn.Module):
    """Per-image features, and features with hidden units: no positions after the pooling."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 8, 8), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()
        )
        self.rows = nn.Linear(64, width)
        self.units = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rows(self.features(x).flatten(2))  # (N, 16, width): positions mixed into units
        return self.head(self.units(x).mean(1))


def tokens_first(size: int = 64) -> nn.Module:
    """A patch embedding by a linear layer: no explicit rows and columns anywhere."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unfold, self.embed = nn.Unfold(8, stride=8), nn.Linear(192, 48)
            self.pos = nn.Parameter(torch.randn(1, 64, 48) * 0.02)
            self.blocks = nn.Sequential(*(Separate.Block(48, 4, "qkv") for _ in range(2)))
            self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(self.unfold(x).transpose(1, 2)) + self.pos
            return self.head(self.norm(self.blocks(x)).mean(1))

    return Linear()
