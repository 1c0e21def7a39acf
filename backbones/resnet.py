"""ResNet-50 of He et al. 2015 (https://arxiv.org/abs/1512.03385) with torchvision's names and initialisation.

Importing torchvision takes nearly as long as importing torch, and the default network needs nothing else of it.
"""

from torch import Tensor, nn

EXPANSION = 4  # output channels of a block, in those of its 3x3 convolution
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels of the 3x3 convolutions and number of blocks


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around a shortcut: (B, inputs, h, w) to (B, 4 * width, h / stride, w / stride).

    Args:
        stride_on: the convolution with the stride, "conv1" or "conv2".
    """

    def __init__(self, inputs: int, width: int, stride: int, stride_on: str) -> None:
        super().__init__()
        downsample = None
        if stride != 1 or inputs != EXPANSION * width:
            projection = nn.Conv2d(inputs, EXPANSION * width, 1, stride, bias=False)
            downsample = nn.Sequential(projection, nn.BatchNorm2d(EXPANSION * width))
        first, second = (stride, 1) if stride_on == "conv1" else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(EXPANSION * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet50(nn.Module):
    """Normalised images (B, 3, S, S) to the logits of ImageNet's classes (B, 1000).

    Args:
        stride_on: convolution of the first block of stages 2 to 4 that has the stride 2: "conv1" as in He et al. 2015,
            or "conv2" as in torchvision ("v1.5").
    """

    def __init__(self, stride_on: str = "conv2") -> None:
        super().__init__()
        if stride_on not in ("conv1", "conv2"):
            raise ValueError(f"stride_on is {stride_on!r}; it must be 'conv1' or 'conv2'")
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        for number, (width, blocks) in enumerate(STAGES, 1):
            stage = []
            for index in range(blocks):
                stride = 2 if number > 1 and index == 0 else 1
                stage.append(Bottleneck(inputs, width, stride, stride_on))
                inputs = EXPANSION * width
            self.add_module(f"layer{number}", nn.Sequential(*stage))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there it would import torch._dynamo
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))
