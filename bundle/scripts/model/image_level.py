"""What reads slices in stage 1 and embeds them in stage 2: the paper's ResNet18, or another of MONAI's networks.

Each is one class with the same methods, all on a scan `[B, C, H, W, S]`:

- `feature_maps` `[B * S, F, h, w]`: the last maps before pooling, of the slices of a scan next to each other;
- `embed` `[B, S, F]`: their means, the embedding of each slice;
- `slice_logits` `[B, S, 2]`: the classes of each slice, where it has the FC layer of stage 1.

`forward` is stage 1's: slices `[N, C, H, W]`, or, of a network that convolves along the slices too
(`reads_volumes`), whole scans, to logits `[N, 2]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from monai.networks.nets import DenseNet121, ResNet, ViT
from monai.networks.nets.resnet import ResNetBlock, get_inplanes
from torch import Tensor, nn
from torch.nn import functional

from scripts.errors import InputError
from scripts.model.scan_level import NUM_CLASSES

#: Side of a patch of the vision transformer, pixels.
PATCH = 16
#: Sides below are halved to nothing by DenseNet's five halvings.
DENSENET_LEAST = 32


def slices_of(image: Tensor) -> Tensor:
    """`[B, C, H, W, S]` -> `[B * S, C, H, W]`, the slices of a scan next to each other."""
    return image.permute(0, 4, 1, 2, 3).flatten(0, 1)


class ResNet18(ResNet):
    """MONAI's ResNet18 with torchvision's parameter names, so that torchvision's weights load key for key.

    Args:
        spatial_dims: 2 or 3.
        num_maps: C.
        feed_forward: whether it has the FC layer.
        shortcut_type: B, a convolution where a block changes the size (torchvision); A, none (MedicalNet).
    """

    def __init__(self, spatial_dims: int, num_maps: int, feed_forward: bool, shortcut_type: str = "B") -> None:
        super().__init__(
            block=ResNetBlock,
            layers=[2, 2, 2, 2],
            block_inplanes=get_inplanes(),
            spatial_dims=spatial_dims,
            n_input_channels=num_maps,
            num_classes=NUM_CLASSES,
            conv1_t_size=7,
            conv1_t_stride=2,
            shortcut_type=shortcut_type,
            bias_downsample=False,
            feed_forward=feed_forward,
        )


class SliceResNet(ResNet18):
    """The paper's network of single slices (Image-Level Model).

    Args:
        num_maps: C.
        feed_forward: whether it has the FC layer.
    """

    reads_volumes = False

    def __init__(self, num_maps: int, feed_forward: bool) -> None:
        super().__init__(2, num_maps, feed_forward)

    def feature_maps(self, image: Tensor) -> Tensor:
        x = self.maxpool(self.act(self.bn1(self.conv1(slices_of(image)))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def embed(self, image: Tensor) -> Tensor:
        return self(slices_of(image)).unflatten(0, (image.shape[0], image.shape[4]))

    def slice_logits(self, image: Tensor) -> Tensor:
        return self(slices_of(image)).unflatten(0, (image.shape[0], image.shape[4]))


class InPlaneShortcut(nn.Module):
    """Every second voxel of H and W `[B, C, H, W, S]`, with maps of 0 for those that are added.

    Args:
        maps, wanted: C before and after.
    """

    def __init__(self, maps: int, wanted: int) -> None:
        super().__init__()
        self.added = wanted - maps

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 0, 0, self.added))


class VolumeResNet(ResNet18):
    """The same in 3D. It halves only H and W: each slice keeps its own embedding, which sees its neighbours. Its
    shortcuts have no weights, as those of MedicalNet's ResNet18 (Chen, Ma and Zheng, arXiv:1904.00625), so that its
    weights load.

    Args:
        num_maps: C.
        feed_forward: whether it has the FC layer.
    """

    reads_volumes = True

    def __init__(self, num_maps: int, feed_forward: bool) -> None:
        super().__init__(3, num_maps, feed_forward, shortcut_type="A")
        for module in self.modules():
            if isinstance(module, ResNetBlock) and module.downsample is not None:
                # MONAI's is no module, so that TorchScript cannot take it, and halves the slices too
                module.downsample = InPlaneShortcut(module.conv1.in_channels, module.conv1.out_channels)
        halve_in_plane(self)

    def feature_maps(self, image: Tensor) -> Tensor:
        x = self.maxpool(self.act(self.bn1(self.conv1(image))))
        return slices_of(self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    def embed(self, image: Tensor) -> Tensor:
        return self.feature_maps(image).mean([2, 3]).unflatten(0, (image.shape[0], image.shape[4]))

    def slice_logits(self, image: Tensor) -> Tensor:
        x = self.embed(image)
        if self.fc is not None:
            x = self.fc(x)
        return x


class VolumeDenseNet(nn.Module):
    """MONAI's 3D DenseNet121, halving only H and W, as `VolumeResNet`.

    Args:
        num_maps: C.
        feed_forward: whether it has the FC layer.
    """

    reads_volumes = True

    def __init__(self, num_maps: int, feed_forward: bool) -> None:
        super().__init__()
        net = DenseNet121(spatial_dims=3, in_channels=num_maps, out_channels=NUM_CLASSES)
        self.features = halve_in_plane(net.features)
        self.act = nn.ReLU()
        self.fc = net.class_layers.out if feed_forward else None

    def feature_maps(self, image: Tensor) -> Tensor:
        return slices_of(self.act(self.features(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.feature_maps(image).mean([2, 3]).unflatten(0, (image.shape[0], image.shape[4]))

    def slice_logits(self, image: Tensor) -> Tensor:
        x = self.embed(image)
        if self.fc is not None:
            x = self.fc(x)  # type: ignore[operator]
        return x

    def forward(self, image: Tensor) -> Tensor:
        return self.slice_logits(image).mean(1)


class SliceTransformer(nn.Module):
    """MONAI's vision transformer (Dosovitskiy et al., ICLR 2021), of the width of DeiT-tiny and half its depth: patches
    of 16 x 16 pixels, 192 numbers each, 6 layers. Its feature maps are the patches after the last layer.

    Args:
        num_maps: C.
        feed_forward: whether it has the FC layer.
        size: H and W, multiples of a patch's side.
    """

    reads_volumes = False

    def __init__(self, num_maps: int, feed_forward: bool, size: Sequence[int]) -> None:
        super().__init__()
        features = 192
        self.grid = [size[0] // PATCH, size[1] // PATCH]
        self.net = ViT(
            num_maps, tuple(size), (PATCH, PATCH), features, 4 * features, 6, 3, spatial_dims=2, classification=False
        )
        self.fc = nn.Linear(features, NUM_CLASSES) if feed_forward else None

    def maps_of(self, slices: Tensor) -> Tensor:
        return self.net(slices)[0].transpose(1, 2).unflatten(2, self.grid)

    def feature_maps(self, image: Tensor) -> Tensor:
        return self.maps_of(slices_of(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.feature_maps(image).mean([2, 3]).unflatten(0, (image.shape[0], image.shape[4]))

    def slice_logits(self, image: Tensor) -> Tensor:
        x = self.embed(image)
        if self.fc is not None:
            x = self.fc(x)
        return x

    def forward(self, slices: Tensor) -> Tensor:
        x = self.maps_of(slices).mean([2, 3])
        if self.fc is not None:
            x = self.fc(x)
        return x


def halve_in_plane(network: nn.Module) -> nn.Module:
    """Take away a 3D network's steps along its last axis, in place: convolutions and pools keep the slices apart."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = (*module.stride[:2], 1)
        elif isinstance(module, (nn.MaxPool3d, nn.AvgPool3d)):
            kernel = module.kernel_size if isinstance(module.kernel_size, int) else module.kernel_size[0]
            # a maximum over 3 slices may stay, a mean over 2 would shift them
            module.kernel_size = (kernel, kernel, kernel if kernel % 2 else 1)
            module.stride = (2, 2, 1)
    return network


@dataclass(frozen=True)
class ImageModel:
    """A network of stage 1.

    Attributes:
        name: in tables; with `SWA` behind it, of the averaged weights.
        features: F.
        make: from the number of maps, whether there is an FC layer, and the slices' size.
    """

    name: str
    features: int
    make: Callable[[int, bool, Sequence[int]], nn.Module]


IMAGE_MODELS = {
    "resnet18": ImageModel("ResNet", 512, lambda maps, fc, size: SliceResNet(maps, fc)),
    "resnet18_3d": ImageModel("ResNet3D", 512, lambda maps, fc, size: VolumeResNet(maps, fc)),
    "densenet_3d": ImageModel("DenseNet3D", 1024, lambda maps, fc, size: VolumeDenseNet(maps, fc)),
    "vit": ImageModel("ViT", 192, SliceTransformer),
}


def check_image_model(image_model: str, size: Sequence[int], imagenet_weights: str = "none") -> None:
    """Refuse a network that is not there, or that cannot take the slices or the weights to start from.

    Args:
        image_model: a key of IMAGE_MODELS.
        size: H, W of the network's input.
        imagenet_weights: as of `scripts.model.networks.image_level_model`.

    Raises:
        InputError: that.
    """
    if image_model not in IMAGE_MODELS:
        raise InputError(f"image_model {image_model!r} is unknown; use one of {', '.join(IMAGE_MODELS)}")
    shown = f"{size[0]} x {size[1]} pixels; change cropped_size and full_size, or image_model"
    if image_model == "vit" and any(side % PATCH for side in size):
        raise InputError(f"image_model vit takes sides that are multiples of {PATCH}, not {shown}")
    if image_model == "vit" and find_spec("einops") is None:
        raise InputError("image_model vit needs einops; pip install 'qnet-hemochromatosis[transformer]'")
    if image_model == "densenet_3d" and min(size) < DENSENET_LEAST:
        raise InputError(f"image_model densenet_3d takes sides from {DENSENET_LEAST} on, not {shown}")
    if image_model == "resnet18_3d" and imagenet_weights == "download":
        raise InputError(
            "imagenet_weights: ImageNet's are of a ResNet18 on slices; give the path of MedicalNet's"
            " resnet_18_23dataset.pth (huggingface.co/TencentMedicalNet/MedicalNet-Resnet18), or none to start"
            " resnet18_3d from random weights"
        )
    if image_model in ("densenet_3d", "vit") and imagenet_weights != "none":
        raise InputError(
            f"imagenet_weights {imagenet_weights!r} are of a ResNet18; add --imagenet_weights none to start"
            f" {image_model} from random weights"
        )


def image_level_network(image_model: str, num_maps: int, feed_forward: bool, size: Sequence[int]) -> nn.Module:
    """A network of stage 1 with random weights.

    Args:
        image_model: a key of IMAGE_MODELS.
        num_maps: C, at least 1.
        feed_forward: whether it has the FC layer of two outputs.
        size: H, W of the slices.

    Raises:
        InputError: see `check_image_model`.
    """
    check_image_model(image_model, size)
    return IMAGE_MODELS[image_model].make(num_maps, feed_forward, size)
