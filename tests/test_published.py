"""The importer against a functional re-formulation of the published network (paper.md's facts)."""

import json
import pickle
import sys
from collections import Counter
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import ctnet
from ctnet.labels import ClassAnchors, decode
from ctnet.models.base import build
from ctnet.models.checkpoint import load_network, save_checkpoint
from ctnet.models.config import ModelConfig
from ctnet.models.import_original import import_published
from ctnet.tasks import DEFAULT_TASKS, VOC_CLASSES

SIZE = (64, 64)
CODE_BLOCKS = {"seg": 0, "parts": 1, "edges": 2, "normals": 3, "saliency": 4}
# The published class ids are the rows; the colors are VOC's.
COLORS = {
    "background": (0, 0, 0),
    "cat": (64, 0, 0),
    "aeroplane": (128, 0, 0),
    "chair": (192, 0, 0),
    "pottedplant": (0, 64, 0),
    "sheep": (128, 64, 0),
    "bicycle": (0, 128, 0),
    "cow": (64, 128, 0),
    "bird": (128, 128, 0),
    "diningtable": (192, 128, 0),
    "sofa": (0, 192, 0),
    "train": (128, 192, 0),
    "boat": (0, 0, 128),
    "dog": (64, 0, 128),
    "bottle": (128, 0, 128),
    "horse": (192, 0, 128),
    "tvmonitor": (0, 64, 128),
    "bus": (0, 128, 128),
    "motorbike": (64, 128, 128),
    "car": (128, 128, 128),
    "person": (192, 128, 128),
}
PART_COLORS = [
    (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)
]  # fmt: skip


class Names:
    """Published key names of one layout."""

    def __init__(self, layout):
        v1 = layout == "v1"
        self.encoder = "encoder.layer" if v1 else "layer"
        self.mapping = [
            f"task_representation_block.mapping.{2 * i}" if v1 else f"fcs.mapping.{2 * i + 1}"
            for i in range(6)
        ]
        self.image = ["decoder.skip_orig_img_0", "decoder.skip_orig_img_1"] if v1 else [
            "skip_orig_img_cond_pt0", "skip_orig_img_cond_pt1"
        ]  # fmt: skip
        self.skips = [f"decoder.skip_{i}" if v1 else f"skip_{i}_cond" for i in range(1, 6)]
        self.stages = [f"decoder.dec_{i}" if v1 else f"regular_{i}_cond" for i in (4, 3, 2, 1, 0)]
        if not v1:
            self.stages[-1] = "final_cond_0"
        self.head = "decoder.last_conv" if v1 else "conv_last"
        self.gamma, self.beta = (
            ("affine_gamma", "affine_beta") if v1 else ("transform_gamma", "transform_beta")
        )


def published_shapes(layout):
    """Shape of every tensor of the published network's state dict."""
    names, shapes = Names(layout), {}

    def layer(name, *shape, bias=True):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def norm(name, channels, affine=True):
        kinds = ("weight", "bias") if affine else ()
        shapes.update({f"{name}.{kind}": (channels,) for kind in kinds})
        shapes.update({f"{name}.running_{kind}": (channels,) for kind in ("mean", "var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    def block(name, inputs, outputs, side, hidden):
        layer(f"{name}.conv1", outputs, inputs, side, side)
        norm(f"{name}.spatial_cond.param_free_norm", outputs, affine=False)
        layer(f"{name}.spatial_cond.conv_shared.0", hidden, 128, 1, 1)
        layer(f"{name}.spatial_cond.{names.gamma}", outputs, hidden, 1, 1)
        layer(f"{name}.spatial_cond.{names.beta}", outputs, hidden, 1, 1)

    layer(f"{names.encoder}1.0", 64, 3, 7, 7, bias=False)
    norm(f"{names.encoder}1.1", 64)
    inputs = 64
    for number, (depth, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=2):
        for i in range(depth):
            name = f"{names.encoder}{number}.{'1.' if number == 2 else ''}{i}"
            layer(f"{name}.conv1", width, inputs, 3, 3, bias=False)
            norm(f"{name}.bn1", width)
            layer(f"{name}.conv2", width, width, 3, 3, bias=False)
            norm(f"{name}.bn2", width)
            if inputs != width:
                layer(f"{name}.downsample.0", width, inputs, 1, 1, bias=False)
                norm(f"{name}.downsample.1", width)
            inputs = width
    for i, name in enumerate(names.mapping):
        layer(name, 128, 128 if i else 100)
    block(names.image[0], 3, 64, 3, 128)
    block(names.image[1], 64, 64, 3, 128)
    for name, width, hidden in zip(
        names.skips, (64, 64, 128, 256, 512), (128, 128, 256, 256, 256), strict=True
    ):
        block(name, width, width, 1, hidden)
    for name, inputs, outputs, hidden in zip(
        names.stages,
        (512 + 256, 512 + 128, 256 + 64, 256 + 64, 128 + 64),
        (512, 256, 256, 128, 64),
        (256, 256, 128, 128, 128),
        strict=True,
    ):
        block(name, inputs, outputs, 3, hidden)
    layer(names.head, 3, 64, 1, 1)
    return shapes


def random_state(layout, seed):
    """Weights that keep the scale of activations, in half precision to spare the disk."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in published_shapes(layout).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        value = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            value = 0.5 + value.square()
        elif len(shape) > 1:
            value *= (0.4 if "_gamma" in name else 1) * (2 / value[0].numel()) ** 0.5
        elif "bn" in name or ".1.weight" in name:
            value = 0.5 + 0.2 * value
        state[name] = value.half()
    return state


def fake_state(layout, prefix=""):
    """Zeros of the right shapes that take no room in a file of ``torch.save``."""
    return {
        prefix + name: torch.zeros((), dtype=torch.half).expand(shape)
        for name, shape in published_shapes(layout).items()
    }


class Published:
    """The published network's answers, by functions on its state dict, in float64."""

    def __init__(self, state, layout):
        self.names = Names(layout)
        self.state = {key: value.double() for key, value in state.items()}
        self.v1 = layout == "v1"

    def conv(self, x, name, stride=1):
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)

    def norm(self, x, name):
        s = self.state
        mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
        weight, bias = s.get(f"{name}.weight"), s.get(f"{name}.bias")
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)

    def residual(self, x, name, stride):
        out = F.relu(self.norm(self.conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
        out = self.norm(self.conv(out, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in self.state:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return F.relu(out + x)

    def encode(self, x):
        encoder = self.names.encoder
        x = F.relu(self.norm(self.conv(x, f"{encoder}1.0", 2), f"{encoder}1.1"))
        levels = [x]
        x = F.max_pool2d(x, 3, 2, 1)
        for number, depth in enumerate((3, 4, 6, 3), start=2):
            for i in range(depth):
                name = f"{encoder}{number}.{'1.' if number == 2 else ''}{i}"
                x = self.residual(x, name, 2 if number > 2 and i == 0 else 1)
            levels.append(x)
        return levels

    def embedding(self, task):
        code = torch.zeros(100)
        code[20 * CODE_BLOCKS[task] : 20 * CODE_BLOCKS[task] + 20] = 1
        x = (code / (code.norm() + (1e-8 if self.v1 else 0))).double()
        for name in self.names.mapping:
            weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
            x = F.leaky_relu(F.linear(x, weight, bias), 0.2)
        return x

    def block(self, x, name, request):
        x = self.norm(self.conv(x, f"{name}.conv1"), f"{name}.spatial_cond.param_free_norm")
        hidden = F.leaky_relu(self.conv(request, f"{name}.spatial_cond.conv_shared.0"), 0.01)
        gamma = self.conv(hidden, f"{name}.spatial_cond.{self.names.gamma}")
        beta = self.conv(hidden, f"{name}.spatial_cond.{self.names.beta}")
        return F.leaky_relu(x * gamma + beta, 0.01)

    def __call__(self, image, palette):
        names = self.names
        mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
        image = (image - mean) / std
        embeddings = torch.stack([self.embedding(task) for task in DEFAULT_TASKS])
        requests = [embeddings[palette].permute(0, 3, 1, 2)]
        for _ in range(5):
            height, width = requests[-1].shape[2:]
            requests.append(
                F.interpolate(requests[-1], size=(height // 2, width // 2), mode="bilinear")
            )
        sides = [image]
        for name in names.image:
            sides = [self.block(sides[0], name, requests[0])]
        for name, level, request in zip(names.skips, self.encode(image), requests[1:], strict=True):
            sides.append(self.block(level, name, request))
        x = sides.pop()
        for name, request in zip(names.stages, requests[4::-1], strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = self.block(torch.cat([x, sides.pop()], 1), name, request)
        return self.conv(x, names.head)


def lightning(state, codes=True):
    """The parts of a Lightning 1.3 checkpoint, whose callbacks are named by their classes."""
    module = ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    state = {f"model.{key}": value for key, value in state.items()}
    if codes:
        for task, block in CODE_BLOCKS.items():
            state[f"task_z_code_dict.{task}"] = torch.zeros(100).index_fill(
                0, torch.arange(20 * block, 20 * block + 20), 1.0
            )
    return module, {
        "epoch": 99,
        "callbacks": {module.ModelCheckpoint: {"best_model_score": None}},
        "lr_schedulers": [{"milestones": Counter([60, 80, 94])}],
        "hyper_parameters": {"data_set_cfg": {"img_size": (256, 256)}},
        "state_dict": state,
    }


def save(content, path, module=None):
    # A class can be pickled only while its module and the packages above it are importable.
    stubs = {}
    if module is not None:
        package, callbacks, _ = module.__name__.split(".")
        above = (package, f"{package}.{callbacks}")
        stubs = {name: ModuleType(name) for name in above} | {module.__name__: module}
    sys.modules.update(stubs)
    try:
        if path.suffix == ".safetensors":
            save_file({key: value.contiguous() for key, value in content.items()}, path)
        else:
            torch.save(content, path)
    finally:
        for name in stubs:
            del sys.modules[name]
    return path


@pytest.fixture(scope="module", params=["v0", "v1"])
def layout(request):
    return request.param


@pytest.fixture(scope="module")
def state(layout):
    return random_state(layout, seed=5)


@pytest.fixture(scope="module")
def model(layout, state, tmp_path_factory):
    path = save(state, tmp_path_factory.mktemp("published") / f"{layout}.pth")
    model = import_published(path)
    path.unlink()
    return model


@pytest.fixture
def image():
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def double(model):
    yield model.double()
    model.float()


@pytest.mark.parametrize("kind", ["normals", "mosaic"])
def test_answers_are_those_of_the_published_network(double, state, layout, image, kind):
    if kind in DEFAULT_TASKS:
        palette = torch.full((1, *SIZE), DEFAULT_TASKS.index(kind))
    else:
        palette = torch.zeros(1, *SIZE, dtype=torch.long)
        palette[:, :21, 35:], palette[:, 21:, :35], palette[:, 21:, 35:] = 4, 2, 3
        palette[:, 40:50, 5:20] = 1
    with torch.no_grad():
        wanted = Published(state, layout)(image, palette)
        found = double(image, palette)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["plain.safetensors", "prefixed.safetensors", "lightning.ckpt"])
def test_every_kind_of_file_gives_the_same_network(model, state, tmp_path, kind):
    module = None
    if kind == "lightning.ckpt":
        module, content = lightning(state)
    else:
        content = lightning(state)[1]["state_dict"] if kind.startswith("prefixed") else state
    path = save(content, tmp_path / kind, module)
    again = import_published(path)
    path.unlink()
    assert again.config == model.config and not again.training
    for (name, value), (other, wanted) in zip(
        again.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert name == other and value.dtype == wanted.dtype
        assert torch.equal(value, wanted), name


def test_the_codes_of_a_lightning_checkpoint_are_taken(tmp_path):
    module, content = lightning(fake_state("v1"))
    content["state_dict"]["task_z_code_dict.seg"] = torch.arange(100.0)
    codes = import_published(save(content, tmp_path / "x.ckpt", module)).representation.codes
    assert torch.allclose(codes[0], F.normalize(torch.arange(100.0), dim=0))
    assert codes.norm(dim=1).tolist() == pytest.approx([1] * 5)
    assert codes[3].nonzero().flatten().tolist() == list(range(80, 100))


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An imported network whose weights are zero, so that its head's bias is all it says."""
    return import_published(save(fake_state("v1"), tmp_path_factory.mktemp("empty") / "x.pth"))


def head_says(model, color):
    with torch.no_grad():
        model.decoder.head.bias.copy_(torch.logit(torch.tensor(color) / 255, eps=1e-4))
    return model


@pytest.mark.parametrize("name", ["background", "sheep", "tvmonitor", "person"])
@pytest.mark.parametrize("long_side", [32, 48])
def test_predictions_have_voc_ids(empty, name, long_side):
    model = head_says(empty, COLORS[name])
    prediction = model.predict(np.zeros((48, 40, 3), np.uint8), "single:seg", long_side)
    seg = prediction.labels["seg"]
    assert seg.shape == (48, 40) and (seg == VOC_CLASSES.index(name)).all()


def test_rules_read_the_segmentation_in_voc_ids(empty):
    picture = np.zeros((32, 32, 3), np.uint8)
    prediction = head_says(empty, COLORS["train"]).predict(picture, "R2")
    assert prediction.palette.requested() == ("saliency",)


def test_parts_have_our_ids(empty):
    for part, color in enumerate(PART_COLORS):
        head_says(empty, color)
        found = empty.predict(np.zeros((32, 32, 3), np.uint8), "single:parts").labels["parts"]
        assert (found == part).all()


def test_classes_are_those_of_the_nearest_published_color(empty):
    outputs = 3 * torch.randn(2, 3, 40, 50, generator=torch.Generator().manual_seed(3))
    points = 255 * torch.sigmoid(outputs.double()).permute(0, 2, 3, 1)
    rows = torch.tensor([*COLORS.values()], dtype=torch.float64)
    published = (points[..., None, :] - rows).norm(dim=-1).argmin(-1)
    names = np.array([*COLORS])[published.numpy()]
    palette = torch.zeros(2, 40, 50, dtype=torch.long)
    found = ctnet.to_labels(outputs, palette, empty)["seg"].values
    assert (np.array(VOC_CLASSES)[found.numpy()] == names).all()
    assert len(np.unique(names)) == 21
    ours = decode(outputs, palette, empty.tasks)["seg"].values
    assert not torch.equal(found, ours)


def test_color_maps_beside_the_checkpoint_are_taken(tmp_path):
    rng = np.random.default_rng(4)
    maps = {"seg": rng.integers(256, size=(21, 3)), "parts": rng.integers(256, size=(7, 3))}
    file = tmp_path / "colourmaps.json"
    file.write_text(json.dumps({task: colors.tolist() for task, colors in maps.items()}))
    path = save(fake_state("v0"), tmp_path / "x.pth")
    anchors = {entry.task: entry.points for entry in import_published(path).config.anchors}
    for row, name in enumerate(COLORS):
        assert np.allclose(anchors["seg"][VOC_CLASSES.index(name)], maps["seg"][row] / 255)
    assert np.allclose(anchors["parts"], maps["parts"] / 255)
    for content, message in [
        ("{", "no table of colors"),
        ('{"seg": []}', "no table of colors"),
        (json.dumps({"seg": [[0, 0, 0]], "parts": []}), "must hold 21 colors"),
        (json.dumps({task: (c + 300).tolist() for task, c in maps.items()}), "from 0 to 255"),
    ]:
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            import_published(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("decoder.dec_0.conv1.bias"),
            r"v1.*missing decoder\.dec_0\.conv1\.b\w*\.$",
        ),
        (
            lambda s: s.pop("decoder.skip_1.spatial_cond.param_free_norm.running_var"),
            "missing decoder.skip_1",
        ),
        (lambda s: s.update({"decoder.extra": torch.zeros(1)}), r"unknown decoder\.extra\.$"),
        (
            lambda s: s.update({"task_z_code_dict.seg": torch.zeros(100)}),
            "missing task_z_code_dict",
        ),
        (
            lambda s: s.update({"encoder.layer3.0.conv1.weight": torch.zeros(128, 64, 1, 1)}),
            r"layer3.*\(128, 64, 1, 1\).*has \(128, 64, 3, 3\)",
        ),
        (
            lambda s: s.update(
                {"decoder.dec_4.spatial_cond.affine_gamma.weight": torch.zeros(512, 256)}
            ),
            r"affine_gamma.*\(512, 256\).*\(512, 256, 1, 1\)",
        ),
        (
            lambda s: s.update({"decoder.last_conv.weight": torch.zeros(3, 64, 3, 3)}),
            r"\(3, 64, 1, 1\)",
        ),
        (lambda s: s.update({"decoder.dec_4.conv1.bias": 1.0}), "is a float, expected a tensor"),
    ],
)
def test_other_keys_and_shapes_are_refused(tmp_path, change, message):
    state = fake_state("v1")
    change(state)
    with pytest.raises(ValueError, match=message):
        import_published(save(state, tmp_path / "x.pth"))


def test_keys_are_named_as_in_the_file(tmp_path):
    state = fake_state("v0", "model.")
    del state["model.fcs.mapping.11.bias"]
    state["conv_last.bias"] = torch.zeros(3)
    with pytest.raises(
        ValueError, match=r"v0.*missing model\.fcs\.mapping\.11\.bias; unknown conv"
    ):
        import_published(save(state, tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"a.weight": torch.zeros(1)},
            r"unknown layout.*decoder\.last_conv.*got a\.weight",
        ),
        ([torch.zeros(1)], "got a list"),
        ({}, "an empty dict"),
        ({"state_dict": {}}, "an empty dict"),
        ({"epoch": 3}, "'epoch' is a int"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        import_published(save(content, tmp_path / "x.pth"))


def test_codes_without_length_are_refused(tmp_path):
    module, content = lightning(fake_state("v1"))
    content["state_dict"]["task_z_code_dict.normals"].zero_()
    with pytest.raises(ValueError, match=r"code of normals .* length 0\.0"):
        import_published(save(content, tmp_path / "x.ckpt", module))


class Malicious:
    """What a pickle does when it is loaded carelessly."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return type(self.marker).touch, (self.marker,)


@pytest.mark.parametrize(
    "write", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x, protocol=2))]
)
@pytest.mark.parametrize("suffix", ["pth", "ckpt"])
def test_code_in_a_pickle_is_not_run(tmp_path, write, suffix):
    path, marker = tmp_path / f"x.{suffix}", tmp_path / "ran"
    write({"state_dict": {"a": Malicious(marker)}}, path)
    with pytest.raises(ValueError, match="refused"):
        import_published(path)
    assert not marker.exists()


def test_a_refusal_names_the_reason(tmp_path):
    torch.save({"state_dict": {"a": Malicious(tmp_path / "ran")}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"more than weights \([\w.]+\)"):
        import_published(tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04 no archive", b"text\n"])
def test_damaged_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"refused|cannot be read"):
        import_published(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        import_published(tmp_path / "none.pth")


def test_an_import_survives_a_round_trip(empty, tmp_path, tiny):
    config = replace(empty.config, encoder="efficientnet_lite0", decoder=tiny)
    save_checkpoint(build(config), tmp_path)
    loaded = load_network(tmp_path)
    assert loaded.config == config
    assert loaded.config.anchors[0].points[VOC_CLASSES.index("cat")] == (64 / 255, 0, 0)


def test_configs_without_anchors_are_as_before():
    plain = ctnet.create("ctn").config.to_dict()
    assert "anchors" not in plain
    assert ModelConfig.from_dict(plain).anchors == ()


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        ([ClassAnchors("edges", ((0, 0, 0),))], r"got \['edges'\], allowed: seg, parts"),
        ([ClassAnchors("parts", ((0, 0, 0),) * 7)] * 2, "each once"),
        ([ClassAnchors("parts", ((0, 0, 0),) * 6)], "are 7 points"),
        ([ClassAnchors("parts", ((0, 0, 2),) * 7)], "are 7 points"),
        ([ClassAnchors("parts", ((0, 0),) * 7)], "are 7 points"),
    ],
)
def test_wrong_anchors_are_refused(anchors, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(anchors=tuple(anchors))
