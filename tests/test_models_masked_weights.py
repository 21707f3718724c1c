"""Weights of whole masked Prithvi models: geowb's files and the published ones."""

import functools

import pytest
import torch

from geowb.errors import ModelError, WeightsMismatch
from geowb.models import build, load, save
from geowb.models.masked import build_masked
from geowb.models.registry import MODELS, SHIPPED
from geowb.models.wrapper import terratorch

# By geowb's own import: TerraTorch's lowers the precision of matrix products for the process.
prithvi_vit = terratorch().models.backbones.prithvi_vit


@pytest.fixture(scope="module")
def published():
    """Tensors of a published prithvi_demo, by TerraTorch's names, and what it reconstructs."""
    torch.manual_seed(3)
    model = prithvi_vit.PrithviMAE(in_chans=6, **MODELS["prithvi_demo"].encoder).eval()
    return model, model.state_dict()


def flat(state):
    return {k.removeprefix("encoder.").removeprefix("decoder."): v for k, v in state.items()}


@pytest.mark.parametrize("names", [dict, flat])
def test_a_published_model_reconstructs_as_terratorch_does(tmp_path, published, names):
    theirs, state = published
    torch.save(names(state), tmp_path / "demo.pt")
    ours = build_masked("prithvi_demo", frames=3, weights=str(tmp_path / "demo.pt")).eval()
    assert ours.card["weights"].startswith("masked model from demo.pt, sha256 ")
    x = torch.rand(2, 6, 3, 64, 64) * 3000
    normal = (x - ours.mean) / ours.std
    with torch.no_grad():
        torch.manual_seed(0)
        loss, image, mask = theirs(normal, mask_ratio=0.5)
        made = ours.fill(x, mask.bool())
    assert torch.allclose(made.prediction, image * ours.std + ours.mean, atol=0.5)  # counts
    assert made.loss.item() == pytest.approx(loss["loss"].item(), rel=1e-4)


def test_geowbs_own_file_is_the_shipped_model():
    ours = build_masked("prithvi_demo", frames=3, weights="pretrained").eval()
    shipped = load(SHIPPED / "prithvi_demo" / "model.safetensors").eval()
    for key, value in shipped.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    assert ours.card["mean"] == shipped.card["mean"]
    assert ours.card["pretrained"]


def test_given_statistics_are_kept():
    plain = build_masked("prithvi_demo", weights="pretrained")
    ours = build_masked("prithvi_demo", weights="pretrained", mean=[1.0] * 6)
    assert ours.card["mean"] == [1.0] * 6
    assert ours.mean.flatten().tolist() == [1.0] * 6
    assert ours.card["std"] == plain.card["std"]
    assert torch.equal(ours.std, plain.std)


def test_another_number_of_dates():
    ours = build_masked("prithvi_demo", frames=4, weights="pretrained").eval()
    assert ours.fill(
        torch.rand(1, 6, 4, 32, 32), torch.eye(32, dtype=torch.bool).expand(1, 4, -1, -1)
    )


def test_what_does_not_fit_is_told(tmp_path, published):
    _, state = published
    torch.save({k: v for k, v in state.items() if k.startswith("encoder.")}, tmp_path / "e.pt")
    with pytest.raises(WeightsMismatch, match="no decoder that fills patches"):
        build_masked("prithvi_demo", frames=3, weights=str(tmp_path / "e.pt"))
    with pytest.raises(WeightsMismatch, match="knows the bands BLUE, GREEN"):
        build_masked("prithvi_demo", bands=["RED", "GREEN", "BLUE"], weights="pretrained")
    file = save(build("unet"), tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match="holds a 'unet', not a 'prithvi_demo'"):
        build_masked("prithvi_demo", weights=str(file))
    with pytest.raises(ModelError, match="'swin_demo' takes no weights here"):
        build_masked("swin_demo", weights="pretrained")


class FlatMAE(torch.nn.Module):
    """A 2-D masked autoencoder as it was published (He et al. 2022), written from the paper."""

    def __init__(self, width=192, depth=6, heads=6, inner=96, inner_depth=2, patch=8, grid=16):
        super().__init__()
        from timm.models.vision_transformer import Block

        self.grid, self.patch = grid, patch
        norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)
        self.patch_embed = torch.nn.Module()
        self.patch_embed.proj = torch.nn.Conv2d(3, width, patch, patch)
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = torch.nn.Parameter(torch.randn(1, grid**2 + 1, width))
        block = {"mlp_ratio": 4.0, "qkv_bias": True, "norm_layer": norm}
        self.blocks = torch.nn.ModuleList(Block(width, heads, **block) for _ in range(depth))
        self.norm = norm(width)
        self.decoder_embed = torch.nn.Linear(width, inner)
        self.mask_token = torch.nn.Parameter(torch.randn(1, 1, inner))
        self.decoder_pos_embed = torch.nn.Parameter(torch.randn(1, grid**2 + 1, inner))
        blocks = (Block(inner, heads, **block) for _ in range(inner_depth))
        self.decoder_blocks = torch.nn.ModuleList(blocks)
        self.decoder_norm = norm(inner)
        self.decoder_pred = torch.nn.Linear(inner, patch**2 * 3)

    def encode(self, x, shown):
        tokens = self.patch_embed.proj(x).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        tokens = tokens[:, shown]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        tokens = torch.cat((first, tokens), 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def forward(self, x, shown):
        inner = self.decoder_embed(self.encode(x, shown))
        whole = self.mask_token.repeat(len(x), self.grid**2, 1)
        whole[:, shown] = inner[:, 1:]
        tokens = torch.cat((inner[:, :1], whole), 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens)
        patches = self.decoder_pred(self.decoder_norm(tokens))[:, 1:]
        g, p = self.grid, self.patch
        return patches.reshape(-1, g, g, p, p, 3).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


RGB = ("RED", "GREEN", "BLUE")


@pytest.fixture(scope="module")
def flat_file(tmp_path_factory):
    torch.manual_seed(5)
    model = FlatMAE().eval()
    file = tmp_path_factory.mktemp("flat") / "mae.pth"
    torch.save({"model": model.state_dict()}, file)
    return model, file


def test_a_flat_autoencoder_keeps_its_places_and_reconstructs_as_written_from_the_paper(flat_file):
    theirs, file = flat_file
    ours = build_masked("mae_demo", bands=RGB, weights=str(file), mean=[0.0] * 3, std=[1.0] * 3)
    ours.eval()
    x = torch.randn(2, 3, 128, 128)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(1))
    noise = torch.empty(2, 256)
    noise[:, order] = torch.arange(256.0)
    with torch.no_grad():
        made = ours(x[:, :, None], noise=noise)
        expected = theirs(x, order[:64])
    assert torch.allclose(made.prediction[:, :, 0], expected, atol=1e-4)


def test_a_flat_autoencoder_gives_its_encoder(flat_file):
    theirs, file = flat_file
    ours = build("mae_demo", bands=RGB, frames=1, weights=str(file)).eval()
    x = torch.randn(1, 3, 1, 128, 128)
    with torch.no_grad():
        tokens = ours.network.encoder.forward_features(x)[-1]
        expected = theirs.encode(x[:, :, 0], torch.arange(256))
    assert torch.allclose(tokens, expected, atol=1e-4)
    swapped = build("mae_demo", bands=RGB[::-1], frames=1, weights=str(file))
    weight = swapped.network.encoder.patch_embed.proj.weight[:, :, 0]
    assert torch.equal(weight, theirs.patch_embed.proj.weight.flip(1))


def test_a_flat_autoencoder_of_other_bands_is_told(flat_file, tmp_path):
    theirs, file = flat_file
    with pytest.raises(WeightsMismatch, match="knows the bands RED, GREEN, BLUE"):
        build_masked("mae_demo", bands=("RED", "GREEN", "NIR_NARROW"), weights=str(file))
    state = dict(theirs.state_dict())
    state["patch_embed.proj.weight"] = torch.zeros(192, 4, 8, 8)
    torch.save(state, tmp_path / "four.pth")
    with pytest.raises(WeightsMismatch, match="takes weights for red, green and blue"):
        build_masked("mae_demo", bands=RGB, weights=str(tmp_path / "four.pth"))
