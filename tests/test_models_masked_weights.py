"""Weights of whole masked Prithvi models: geowb's files and the published ones."""

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
