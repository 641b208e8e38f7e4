"""What a GPU computes, against the CPU; skipped where there is none."""

import numpy as np
import pytest
import torch

import ctnet
from ctnet.data.palette_batches import make_palettes
from ctnet.fused.session import Session
from ctnet.rules import get_rule

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

SYSTEMS = ["ctn", "mhn", "stn"]


@pytest.fixture(scope="module", autouse=True)
def exact_products():
    """Full float32 in convolutions, so that figures compare with those of the CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))


def create(system):
    torch.manual_seed(0)
    return ctnet.create(system, "efficientnet_lite0", "light").eval()


def palettes(rule):
    return make_palettes(get_rule(rule), 2, (96, 128), np.random.default_rng(0))


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("rule", ["R1", "Rrnd"])
@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
class TestNetworks:
    @torch.no_grad()
    def test_float32_equals_the_cpu(self, image, system, rule, fused):
        model, palette = create(system), palettes(rule)
        expected = model(image, palette)
        model = model.cuda()
        model = model.fuse() if fused else model
        found = model(image.cuda(), palette.cuda()).cpu()
        assert (found - expected).norm() <= 1e-4 * expected.norm()

    @torch.no_grad()
    def test_bfloat16_is_close(self, image, system, rule, fused):
        model, palette = create(system), palettes(rule)
        expected = model(image, palette)
        model = model.cuda()
        if fused:
            found = model.fuse(torch.bfloat16)(image.cuda(), palette.cuda())
        else:
            with torch.autocast("cuda", torch.bfloat16):
                found = model(image.cuda(), palette.cuda())
        assert (found.float().cpu() - expected).norm() <= 0.1 * expected.norm()


@torch.no_grad()
def test_sessions_equal_the_network(image):
    model, palette = create("ctn").cuda(), palettes("R1")[:1].cuda()
    session = Session(model, image[:1].cuda())
    for _ in range(2):
        expected = model(image[:1].cuda(), palette)
        assert (session.decode(palette) - expected).norm() <= 1e-4 * expected.norm()
        palette[:, 20:40, 30:60] = 4


@torch.no_grad()
def test_the_compiled_look_up_equals_the_network(image):
    model, palette = create("ctn").cuda(), palettes("Rrnd").cuda()
    expected = model(image.cuda(), palette)
    found = model.fuse(compile=True)(image.cuda(), palette)
    assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("system", SYSTEMS)
def test_gradients_equal_those_of_the_cpu(image, system):
    palette, found = palettes("R1"), []
    for device in ("cpu", "cuda"):
        model = create(system).to(device).train()
        model(image.to(device), palette.to(device)).square().mean().backward()
        grads = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
        found.append(torch.cat([g.flatten() for g in grads]))
    assert (found[1] - found[0]).norm() <= 1e-2 * found[0].norm()
