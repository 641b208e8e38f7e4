"""Conditioning against section 3 of the paper, written literally (:mod:`ctnet.reference`)."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import SUBPIXEL, TINY

from ctnet import reference
from ctnet.blocks import conditioned_batch_norm as conditioning
from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.blocks.decoder import Decoder
from ctnet.blocks.decoder_config import DECODERS, LEVELS, DecoderConfig
from ctnet.blocks.palette_pyramid import MixtureMap, palette_pyramid, soft_pyramid
from ctnet.blocks.task_composition import Condition, TaskCompositionBlock
from ctnet.blocks.task_representation import TaskRepresentationBlock, task_codes

LAYOUTS = ["single", "mosaic", "curved", "random", "partly", "unrequested"]


def gradients(output, inputs):
    """Gradients of a fixed functional that weighs every value of the output differently."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    found = torch.autograd.grad((output * weights).sum(), inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def assert_same_gradients(found, expected, names):
    """Equal to 1e-9 of each gradient's size; those that vanish in theory, of the largest."""
    largest = max(g.abs().max() for g in expected)
    for name, ours, theirs in zip(names, found, expected, strict=True):
        bound = 1e-9 * theirs.abs().max() + 1e-12 * largest
        assert (ours - theirs).abs().max() <= bound, name


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 64, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(make_model):
    return make_model("ctn").double()


def random_fractions(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(1)


class TestAgainstLiteral:
    @pytest.fixture(params=[TINY, SUBPIXEL], ids=["tiny", "subpixel"])
    def model(self, request, make_model):
        return make_model("ctn", decoder=request.param).double()

    @pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_ctn_and_all_its_gradients(self, model, image, make_ids, layout, train):
        model.train(train)
        palette = make_ids(layout, (2, 64, 32))
        image = image.clone().requires_grad_()
        names, parameters = zip(*model.named_parameters(), strict=True)
        inputs = [image, *parameters]
        found = model(image, palette)
        expected = reference.ctn(model, image, palette)
        assert found.shape == (2, 3, 64, 32)
        assert (found - expected).abs().max() <= 1e-10
        assert_same_gradients(
            gradients(found, inputs), gradients(expected, inputs), ["image", *names]
        )

    @pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
    def test_soft_palettes_and_their_gradients(self, model, image, train):
        model.train(train)
        image = image.clone().requires_grad_()
        fractions = random_fractions((2, 5, 64, 32)).requires_grad_()
        names, parameters = zip(*model.named_parameters(), strict=True)
        inputs = [image, fractions, *parameters]
        found = model(image, fractions)
        expected = reference.ctn(model, image, fractions)
        assert (found - expected).abs().max() <= 1e-10
        assert_same_gradients(
            gradients(found, inputs), gradients(expected, inputs), ["image", "fractions", *names]
        )

    @pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
    def test_paper_network(self, make_model, image, make_ids, train):
        model = make_model("ctn", "resnet18", "paper").double().train(train)
        image, palette = image[..., 32:, :], make_ids("partly", (2, 64, 32))[:, 16:48]
        with torch.no_grad():
            difference = model(image, palette) - reference.ctn(model, image, palette)
        assert difference.abs().max() <= 1e-10

    @pytest.mark.parametrize("decoder", ["compact", "light"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_small_networks_without_gradients(self, make_model, image, make_ids, layout, decoder):
        model = make_model("ctn", decoder=decoder).double()
        palette = make_ids(layout, (2, 64, 32))
        with torch.no_grad():
            difference = model(image, palette) - reference.ctn(model, image, palette)
        assert difference.abs().max() <= 1e-10

    @pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
    @pytest.mark.parametrize("name", list(DECODERS))
    def test_plain_decoder(self, name, train):
        torch.manual_seed(0)
        config, channels = DECODERS[name], (8, 12, 16, 20, 24)
        decoder = Decoder(config, channels, conditioned=False).double().train(train)
        picture = torch.randn(2, 3, 64, 32, dtype=torch.float64)
        features = [
            torch.randn(2, c, 64 >> i, 32 >> i, dtype=torch.float64)
            for i, c in enumerate(channels, 1)
        ]
        with torch.no_grad():
            found = decoder(picture, features, None)
            expected = reference.decoder(decoder, picture, features, None, name == "paper")
        assert found.shape == (2, 3, 64, 32)
        assert (found - expected).abs().max() <= 1e-10

    def test_tasks_make_a_difference(self, model, image):
        with torch.no_grad():
            answers = [model(image, torch.full((64, 32), k)) for k in range(5)]
        for first, second in itertools.combinations(answers, 2):
            assert (first - second).abs().max() > 0.01

    def test_a_request_is_felt_most_at_its_own_pixel(self, make_model):
        model = make_model("ctn", decoder="light")
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        palettes = torch.zeros(2, 64, 64, dtype=torch.long)
        palettes[1, 20, 33] = 1
        with torch.no_grad():
            first, second = (model(image, palette) for palette in palettes)
        change = (first - second).abs().sum(1)[0]
        own = change[20, 33].item()
        change[20, 33] = 0
        # Also than that of the three pixels that share its cell at every coarser level.
        assert own > 2 * change.max()

    def test_soft_one_hot_is_hard(self, model, image, make_ids):
        palette = make_ids("random", (2, 64, 32))
        soft = F.one_hot(palette, 5).permute(0, 3, 1, 2).double()
        difference = model(image, soft) - model(image, palette)
        assert difference.abs().max() <= 1e-12

    @pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
    @pytest.mark.parametrize("layout", ["single", "mosaic", "random"])
    def test_gradient_mode_changes_nothing(self, model, image, make_ids, layout, train):
        model.train(train)
        palette = make_ids(layout, (2, 64, 32))
        with torch.no_grad():
            without = model(image, palette)
        assert (model(image, palette) - without).abs().max() <= 1e-12


class TestNorm:
    @pytest.fixture
    def norm(self):
        torch.manual_seed(0)
        norm = ConditionedBatchNorm(3, 4, 6).double()
        norm.norm.running_mean.normal_()
        norm.norm.running_var.uniform_(0.5, 2)
        return norm

    @pytest.mark.parametrize("layout", ["single", "random"])
    def test_running_statistics_follow_the_batch(self, norm, make_ids, layout):
        x = 2 * torch.randn(2, 3, 4, 6, dtype=torch.float64) + 5
        levels = palette_pyramid(make_ids(layout, (2, 4, 6)), 5, (1,), torch.float64)
        mean, variance = norm.norm.running_mean.clone(), norm.norm.running_var.clone()
        norm.train()(x, levels[1], torch.randn(5, 4, dtype=torch.float64))
        batch = x.transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.norm.running_mean, 0.9 * mean + 0.1 * batch.mean(1))
        torch.testing.assert_close(norm.norm.running_var, 0.9 * variance + 0.1 * batch.var(1))
        assert norm.norm.num_batches_tracked == 1
        norm.eval()(x, levels[1], torch.randn(5, 4, dtype=torch.float64))
        assert norm.norm.num_batches_tracked == 1

    def test_a_pixels_request_changes_that_pixel_only(self, norm, make_ids):
        palette = make_ids("random", (1, 8, 8))
        other = palette.clone()
        other[0, 3, 5] = (palette[0, 3, 5] + 1) % 5
        x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
        embeddings = torch.randn(5, 4, dtype=torch.float64)
        answers = [
            norm.eval()(x, palette_pyramid(p, 5, (1,), torch.float64)[1], embeddings)
            for p in (palette, other)
        ]
        changed = (answers[0] != answers[1]).any(1)[0]
        assert changed.nonzero().tolist() == [[3, 5]]

    def test_starts_as_a_plain_norm_where_nothing_is_asked(self):
        norm = ConditionedBatchNorm(3, 4, 6).double()
        x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
        empty = palette_pyramid(torch.full((2, 4, 6), 255), 5, (1,), torch.float64)[1]
        found = norm(x, empty, torch.randn(5, 4, dtype=torch.float64))
        torch.testing.assert_close(found, F.batch_norm(x, None, None, training=True))

    def test_trains_in_bfloat16(self, norm, make_ids):
        norm = norm.float().train()
        x = torch.randn(2, 3, 16, 16, requires_grad=True)
        embeddings = torch.randn(5, 4, requires_grad=True)
        level = palette_pyramid(make_ids("random", (2, 32, 32)), 5, (2,))[2]
        inputs = [x, embeddings, *norm.parameters()]
        expected = gradients(norm(x, level, embeddings), inputs)
        with torch.autocast("cpu", torch.bfloat16):
            output = norm(x.bfloat16(), level, embeddings)
        for ours, theirs in zip(gradients(output.float(), inputs), expected, strict=True):
            assert ours.dtype == torch.float32
            assert (ours - theirs).abs().max() <= 0.15 * theirs.abs().max()

    def test_sums_of_many_cells_keep_up_in_bfloat16(self, norm, make_ids):
        norm = norm.float().train()
        level = palette_pyramid(make_ids("random", (2, 512, 512)), 5, (2,))[2]
        x, embeddings = torch.randn(2, 3, 256, 256), torch.randn(5, 4, requires_grad=True)
        (expected,) = torch.autograd.grad(norm(x, level, embeddings).sum(), embeddings)
        with torch.autocast("cpu", torch.bfloat16):
            output = norm(x.bfloat16(), level, embeddings)
        assert output.dtype == torch.bfloat16
        (found,) = torch.autograd.grad(output.float().sum(), embeddings)
        assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


class TestStart:
    """What an untrained network does: the request has to matter, or it is never learned."""

    def test_tasks_have_embeddings_of_their_own(self):
        torch.manual_seed(0)
        embeddings = TaskRepresentationBlock(5)()
        assert 0.3 < embeddings.square().mean().sqrt() < 3
        centered = embeddings - embeddings.mean(0)
        assert centered.square().mean() > 0.2 * embeddings.square().mean()

    def test_gammas_lie_around_one_and_betas_around_zero(self):
        torch.manual_seed(0)
        norm, embeddings = ConditionedBatchNorm(200, 128, 256), TaskRepresentationBlock(5)()
        gamma, beta = (table.detach() for table in norm.table(embeddings))
        assert gamma.mean() == pytest.approx(1, abs=0.1)
        assert beta.mean() == pytest.approx(0, abs=0.1)
        for table in (gamma, beta):
            assert 0.05 < table.std(0).mean() < 0.6


class TestGradcheck:
    """Numerical derivatives of a conditioned block: input, embeddings, every parameter."""

    def check(self, make_levels, side, train, *extra):
        torch.manual_seed(0)
        config = DecoderConfig(stages=(1,) * 5, hidden=(3,) * 6, embedding=2, bias=True)
        block = (
            TaskCompositionBlock(torch.nn.Conv2d(1, 2, 1), 2, 2, config, conditioned=True)
            .double()
            .train(train)
        )
        names, parameters = zip(*block.named_parameters(), strict=True)
        x = torch.randn(1, 1, side, side, dtype=torch.float64, requires_grad=True)
        embeddings = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)

        def call(x, embeddings, *rest):
            levels = make_levels(*rest[: len(extra)])
            state = dict(zip(names, rest[len(extra) :], strict=True))
            state |= {name: buffer.clone() for name, buffer in block.named_buffers()}
            condition = Condition(embeddings, levels)
            return torch.func.functional_call(block, state, (x, condition))

        assert torch.autograd.gradcheck(call, (x, embeddings, *extra, *parameters))

    @pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
    @pytest.mark.parametrize(
        ("layout", "rows"),
        [("single", range(1, 2)), ("curved", range(2, 33)), ("random", range(33, 73))],
        ids=["one", "few", "many"],
    )
    def test_hard_palette(self, make_ids, layout, rows, train):
        palette = make_ids(layout, (1, 16, 16))
        levels = palette_pyramid(palette, 5, (2,), torch.float64)
        assert conditioning.ONE_HOT_ROWS == 32
        assert len(levels[2].weights) in rows
        self.check(lambda: levels, 8, train)

    @pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
    def test_soft_palette(self, train):
        fractions = random_fractions((1, 5, 8, 8)).requires_grad_()
        self.check(lambda fractions: soft_pyramid(fractions, (2,)), 4, train, fractions)

    @pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
    def test_both_ways_to_sum_gradients_agree(self, monkeypatch, make_ids, train):
        torch.manual_seed(0)
        norm = ConditionedBatchNorm(3, 4, 6).double().train(train)
        level = palette_pyramid(make_ids("random", (2, 16, 16)), 5, (2,), torch.float64)[2]
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
        embeddings = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
        inputs = [x, embeddings, *norm.parameters()]
        found = []
        for rows in (0, 10**6):
            monkeypatch.setattr(conditioning, "ONE_HOT_ROWS", rows)
            found.append(gradients(norm(x, level, embeddings), inputs))
        for first, second in zip(*found, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-11, atol=1e-11)


class TestPyramid:
    @pytest.mark.parametrize("tasks", [1, 2, 5, 10, 40])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_cell_holds_its_shares(self, make_ids, layout, tasks):
        palette = make_ids(layout, (2, 64, 32), tasks=tasks)
        levels = palette_pyramid(palette, tasks, LEVELS, torch.float64)
        assert list(levels) == list(LEVELS)
        for stride, level in levels.items():
            weights, index = level.weights, level.index
            assert weights.dtype == torch.float64
            if index is None:
                assert len(weights) == 1
                index = torch.zeros(2, 64 // stride, 32 // stride, dtype=torch.long)
            cells = (2, 64 // stride, 32 // stride)
            assert index.shape == cells
            asked = torch.stack([palette == k for k in range(tasks)], -1).double()
            counts = asked.view(2, cells[1], stride, cells[2], stride, tasks).sum((2, 4))
            expected = counts / counts.sum(-1, keepdim=True).clamp(min=1)
            assert (weights[index] - expected).abs().max() <= 1e-15

    @pytest.mark.parametrize("tasks", [5, 10])
    def test_rows_are_distinct_mixtures(self, make_ids, tasks):
        # Ten tasks at stride 32 need more than 62 bits for a key of their counts.
        assert (1025**tasks >= 2**62) == (tasks == 10)
        palette = make_ids("mosaic", (3, 96, 96), tasks=tasks)
        for level in palette_pyramid(palette, tasks, (2, 8, 32)).values():
            assert len(level.weights.unique(dim=0)) == len(level.weights)
            assert set(level.index.flatten().tolist()) == set(range(len(level.weights)))
            assert len(level.weights) <= 9

    @pytest.mark.parametrize("value", [0, 3, 255])
    def test_one_request_needs_no_index(self, value):
        levels = palette_pyramid(torch.full((2, 32, 64), value), 5, LEVELS)
        expected = [float(k == value) for k in range(5)]
        for level in levels.values():
            assert level.index is None
            assert level.weights.tolist() == [expected]

    def test_one_palette_of_a_batch_may_differ(self, make_ids):
        palette = torch.cat([make_ids("single", (1, 32, 32)), make_ids("random", (1, 32, 32))])
        level = palette_pyramid(palette, 5, (2,))[2]
        assert (level.weights[level.index[0]] == F.one_hot(torch.tensor(3), 5)).all()
        assert len(level.index[1].unique()) > 10

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
    def test_shares_are_exact_in_any_type(self, make_ids, dtype):
        palette = make_ids("partly", (1, 64, 64))
        for level in palette_pyramid(palette, 5, LEVELS, dtype).values():
            assert level.weights.dtype == dtype
            sums = level.weights.double().sum(1)
            assert torch.isin(sums.round(decimals=2), torch.tensor([0.0, 1.0]).double()).all()

    def test_soft_means(self):
        fractions = random_fractions((2, 5, 32, 64))
        maps = reference.embedding_maps(fractions, torch.eye(5, dtype=torch.float64))
        for stride, level in soft_pyramid(fractions, LEVELS).items():
            assert isinstance(level, MixtureMap)
            found = level.weights[level.index].permute(0, 3, 1, 2)
            torch.testing.assert_close(found, maps[stride])


class TestRepresentation:
    def test_embeddings(self):
        representation = TaskRepresentationBlock(5).double()
        embeddings = representation()
        assert embeddings.shape == (5, 128)
        torch.testing.assert_close(embeddings, reference.task_representation_block(representation))

    def test_codes_are_unit_orthogonal_and_travel_with_the_weights(self):
        representation = TaskRepresentationBlock(5)
        codes = representation.state_dict()["codes"]
        assert codes.shape == (5, 100)
        torch.testing.assert_close(codes @ codes.T, torch.eye(5))
        assert ((codes > 0).sum(1) == 20).all()
        assert not representation.codes.requires_grad

    @pytest.mark.parametrize(("tasks", "length"), [(1, 20), (2, 100), (7, 140)])
    def test_room_for_more_tasks(self, tasks, length):
        codes = task_codes(tasks, length)
        assert codes.shape == (tasks, length)
        torch.testing.assert_close(codes @ codes.T, torch.eye(tasks))

    @pytest.mark.parametrize(("tasks", "length"), [(1, 19), (6, 100)])
    def test_codes_too_short(self, tasks, length):
        with pytest.raises(ValueError, match=f"at least {tasks * 20} entries, got {length}"):
            TaskRepresentationBlock(tasks, length)
