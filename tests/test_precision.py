"""The number type of inference: chosen by what the processor can, by one switch, or by hand."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import ctnet
from ctnet.fused import precision
from ctnet.fused.precision import has_bfloat16, inference_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def switch():
    yield
    ctnet.set_precision("float32")


@pytest.fixture
def processor(tmp_path, monkeypatch):
    def pretend(text):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "cpuinfo")
        precision.cpu_has_bfloat16.cache_clear()

    yield pretend
    precision.cpu_has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", True),
        ("flags : fpu amx_bf16", True),
        ("flags : fpu avx2 avx512f", False),
        ("processor : 0\nFeatures : fp asimd bf16", True),
        ("Features : fp asimd", False),
        ("nothing", False),
    ],
)
def test_the_processor_says_what_it_can(processor, text, expected):
    processor(text)
    ctnet.set_precision("auto")
    assert has_bfloat16(CPU) == expected
    wanted = torch.bfloat16 if expected else torch.float32
    assert inference_dtype(CPU, torch.float32) == wanted


def test_other_types_and_other_devices_stay(processor):
    processor("flags : avx512_bf16")
    ctnet.set_precision("auto")
    assert inference_dtype(CPU, torch.float64) == torch.float64
    assert inference_dtype(torch.device("mps"), torch.float32) == torch.float32


def test_without_a_list_of_flags_it_is_float32(processor, tmp_path, monkeypatch):
    processor("")
    monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "missing")
    assert not has_bfloat16(CPU)


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match="unknown precision 'bf16'; did you mean 'bfloat16'"):
        ctnet.set_precision("bf16")
    said = subprocess.run(
        [sys.executable, "-c", "import ctnet, numpy as np\n"
         "ctnet.load('ctn-r2').predict(np.zeros((32, 32, 3), np.uint8), 'R1')"],
        env=os.environ | {"CTNET_PRECISION": "float16"}, capture_output=True, text=True,
    ).stderr  # fmt: skip
    assert "unknown precision 'float16'" in said


class TestPredict:
    @pytest.fixture
    def model(self):
        return ctnet.load("ctn-r1")

    @pytest.fixture
    def photo(self):
        y, x = np.mgrid[:96, :128]
        return np.stack([x * 2 % 256, y * 2 % 256, (x + y) % 256], 2).astype(np.uint8)

    def outputs(self, model, photo, name):
        ctnet.set_precision(name)
        return model.predict(photo, "R1").outputs.composite

    def test_bfloat16_is_close_and_not_the_same(self, model, photo):
        exact = self.outputs(model, photo, "float32")
        half = self.outputs(model, photo, "bfloat16")
        assert half.dtype == exact.dtype == torch.float32
        difference = (half - exact).norm() / exact.norm()
        assert 1e-4 < difference < 0.05
        assert torch.equal(self.outputs(model, photo, "float32"), exact)

    def test_what_was_fused_by_hand_stays(self, photo):
        exact = self.outputs(ctnet.load("ctn-r1"), photo, "float32")
        assert torch.equal(self.outputs(ctnet.load("ctn-r1").fuse(), photo, "bfloat16"), exact)

    def test_calls_of_the_network_are_not_concerned(self, model):
        ctnet.set_precision("bfloat16")
        image, palette = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long)
        with torch.no_grad():
            found = model(image, palette)
        ctnet.set_precision("float32")
        with torch.no_grad():
            assert torch.equal(model(image, palette), found)
