"""Networks of timm, torchvision and torchaudio: the same features as theirs, weights from files, no network, bad names."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import pytest
import timm
import torch
import torchaudio
import torchvision
from huggingface_hub import errors
from tiny_networks import timm_weights
from torch import nn

from perceiver.checkpoints.allocation import AllocationError, cutting, limit_allocation
from perceiver.interop.backbones import Timm, TorchaudioSounds, TorchvisionImages
from perceiver.interop.backbones.request import BackboneError
from perceiver.interop.backbones.timm_images import TimmNetwork
from perceiver.interop.backbones.torchaudio_sounds import TorchaudioNetwork
from perceiver.interop.backbones.torchvision_images import TorchvisionNetwork
from perceiver.interop.files import WeightFileError


@pytest.fixture
def no_network() -> Iterator[None]:
    """Any connection fails the test."""
    with mock.patch.object(socket, "socket", side_effect=AssertionError("connected")):
        yield


@pytest.mark.parametrize(("model", "stage", "channels", "stride"), [("test_resnet", 2, 48, 8), ("test_vit", -1, 64, 16)])
def test_feature_maps_of_timm(model: str, stage: int, channels: int, stride: int, tmp_path: Path, no_network: None) -> None:
    file = timm_weights(tmp_path / "w.safetensors", model=model)
    adapter = Timm(model_name=f"{model}.r160_in1k", pretrained=str(file), stage=stage).build()
    assert (adapter.network.channels, adapter.network.strides) == (channels, (stride, stride))
    torch.manual_seed(0)
    reference = timm.create_model(model).eval()
    from safetensors.torch import load_file

    reference.load_state_dict(load_file(file))
    images = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        [expected] = reference.forward_intermediates(
            images, indices=[stage % 6 if stage < 0 else stage], intermediates_only=True
        )
    torch.testing.assert_close(adapter(images).parts[0], expected.movedim(1, -1))
    assert len(adapter.network.state_dict()) < len(reference.state_dict()), "what lies behind the cut is gone"


def test_facts_of_timm() -> None:
    request = Timm(model_name="test_resnet.r160_in1k", pretrained=False)
    assert request.facts() == {
        "shape": [3, 160, 160],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_fraction": 0.95,
        "interpolation": "bilinear",
    }
    assert Timm(model_name="test_resnet", pretrained=False, image_size=[32, 48]).facts()["shape"] == [3, 32, 48]
    grey = Timm(model_name="test_resnet", pretrained=False).build({"shape": [1, 64, 64]})
    assert grey(torch.rand(1, 1, 64, 64)).grid == (2, 2)


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    file = timm_weights(tmp_path / "w.safetensors", model="test_vit")
    with pytest.raises(WeightFileError, match="its weights are not those of timm's test_resnet"):
        Timm(model_name="test_resnet", pretrained=str(file)).build()
    with pytest.raises(FileNotFoundError, match="expected a file with weights"):
        Timm(model_name="test_resnet", pretrained=str(tmp_path / "no")).build()


@pytest.mark.parametrize(
    "name", ["hf-hub:owner/name", "local-dir:/tmp", "/etc/passwd", "resnet1800", "", "https://example.org"]
)
def test_names_that_would_fetch_or_open(name: str, no_network: None) -> None:
    with pytest.raises(BackboneError, match="timm: expected the name of a model, such as resnet18"):
        TimmNetwork(architecture=name)
    with pytest.raises(BackboneError, match="torchvision: expected one of"):
        TorchvisionNetwork(architecture=name)
    with pytest.raises(BackboneError, match="torchaudio: expected one of"):
        TorchaudioNetwork(architecture=name)


def test_stages_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"expected 0 to 4, or -1 to -5 for test_resnet, got 5"):
        TimmNetwork(architecture="test_resnet", stage=5)
    with pytest.raises(BackboneError, match="has no node 'layer9'; its parts: features"):
        TorchvisionNetwork(architecture="mobilenet_v3_small", stage="layer9")
    with pytest.raises(BackboneError, match=r"expected a feature map .* got shape \(1, 576\)"):
        TorchvisionNetwork(architecture="mobilenet_v3_small", stage="flatten")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.LocalEntryNotFoundError("offline"), r"model.safetensors must be downloaded.*hf download timm/test_resnet"),
        (OSError("no route"), r"the Hub cannot be reached.*copy DIR here and set pretrained=DIR/model.safetensors"),
        (errors.OfflineModeIsEnabled("offline"), "the Hub cannot be reached"),
        (errors.GatedRepoError("403", response=mock.Mock()), "access to this model is restricted. Accept its conditions"),
        (errors.RepositoryNotFoundError("404", response=mock.Mock()), "the Hub has no such model, or it is private"),
        (errors.EntryNotFoundError("404"), "it has no file model.safetensors"),
    ],
    ids=lambda case: type(case).__name__,
)
def test_one_clear_error_without_weights(error: Exception, said: str) -> None:
    with mock.patch.object(huggingface_hub, "hf_hub_download", side_effect=error), pytest.raises(BackboneError, match=said):
        Timm(model_name="test_resnet").build()


def test_torchvision(tmp_path: Path, no_network: None) -> None:
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    adapter = TorchvisionImages(
        model_name="mobilenet_v3_small", pretrained=str(tmp_path / "w.pth"), stage="features.3"
    ).build()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.features[:4](images)
    torch.testing.assert_close(adapter(images).parts[0], expected.movedim(1, -1))
    assert TorchvisionImages(model_name="mobilenet_v3_small").facts()["crop_fraction"] == 0.875
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightFileError, match="these are not weights of torchvision's mobilenet_v3_small"):
        TorchvisionImages(model_name="mobilenet_v3_small", pretrained=str(tmp_path / "other.pth")).build()


def test_torchvision_without_network() -> None:
    failing = mock.patch("torch.hub.load_state_dict_from_url", side_effect=OSError("no route"))
    with failing, pytest.raises(BackboneError, match=r"must be downloaded, but https://.* Download it on a machine with"):
        TorchvisionImages(model_name="mobilenet_v3_small").build()


def tiny_wav2vec2(**settings: Any) -> nn.Module:
    made: nn.Module = torchaudio.models.wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2],
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=2,
        encoder_num_layers=3,
        encoder_num_heads=2,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=16,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=False,
        encoder_layer_drop=settings["encoder_layer_drop"],
        aux_num_out=None,
    )
    return made.train(False)


def test_torchaudio(tmp_path: Path, no_network: None) -> None:
    with mock.patch.object(torchaudio.models, "wav2vec2_base", tiny_wav2vec2):
        torch.manual_seed(0)
        model = tiny_wav2vec2(encoder_layer_drop=0.0).eval()
        torch.save(model.state_dict(), tmp_path / "w.pth")
        adapter = TorchaudioSounds(model_name="wav2vec2_base", pretrained=str(tmp_path / "w.pth"), layers=2).build()
        sounds = torch.rand(2, 1, 4000)
        mask = torch.arange(4000) < torch.tensor([[4000], [100]])
        tokens = adapter(sounds, mask)
        with torch.no_grad():
            expected = model.extract_features(sounds[:1, 0])[0][1]
        torch.testing.assert_close(tokens.parts[0][:1], expected)
        assert tokens.mask is not None
        assert tokens.mask.sum(dim=1).tolist() == [12, 1], "a recording shorter than a frame is one frame"
        with pytest.raises(ValueError, match=r"sound: expected mono waveforms \(batch, 1, samples\)"):
            adapter(torch.rand(1, 2, 4000))
        with pytest.raises(ValueError, match="layers: expected 1 to 3"):
            TorchaudioSounds(model_name="wav2vec2_base", pretrained=False, layers=9).build()
    with pytest.raises(BackboneError, match="torchaudio: expected one of"):
        TorchaudioSounds(model_name="wav2vec2")


def test_limits_of_memory_hold_for_networks_that_are_cut() -> None:
    def network() -> nn.Module:
        with cutting() as keep:
            whole = nn.Sequential(nn.Linear(100, 100), nn.Linear(2000, 500))
            keep(whole[:1])
        return whole[:1]

    with limit_allocation(max_bytes=100_000, max_modules=20, reason="a small file"):
        network()
        nn.Linear(100, 50)
        with pytest.raises(AllocationError, match="more than 100.0 kB in all"):
            nn.Linear(100, 200)
    with limit_allocation(max_bytes=30_000, max_modules=20, reason="a small file"), pytest.raises(AllocationError):
        network()
    with limit_allocation(max_bytes=1000, max_modules=20, reason="a small file"), pytest.raises(AllocationError), cutting():
        nn.Linear(2**15, 2**14)
