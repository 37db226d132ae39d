"""Published flow networks: each under its own names, equal to a plain forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixeltrail import cli, flow_networks
from pixeltrail.checkpoints import flow
from plainflow import FIRST, SECOND, Weights, flownet, niklaus, nvlabs, nvlabs_old, pwcnet, spynet

MEAN = torch.tensor([0.45, 0.432, 0.411])
NETWORKS: dict[str, tuple[Callable[[Weights], Tensor], str, dict[str, object]]] = {
    "FlowNetPytorch": (
        lambda net: flownet(net, compare=False, norm=False, biases=(False, False, False), mean=MEAN), "flownets", {},
    ),
    "FlowNetPytorch BN": (
        lambda net: flownet(net, compare=True, norm=True, biases=(False, False, False), mean=MEAN),
        "flownetc", {"norm": True},
    ),
    "NVIDIA FlowNet2": (
        lambda net: flownet(net, compare=False, norm=False, biases=(True, True, False), mean=None),
        "flownets", {"deconv_bias": True, "flow_bias": True, "mean": None},
    ),
    "NVIDIA FlowNet2 C": (
        lambda net: flownet(net, compare=True, norm=False, biases=(True, True, True), mean=None),
        "flownetc", {"deconv_bias": True, "flow_bias": True, "up_bias": True, "mean": None},
    ),
    "PWC-Net": (lambda net: pwcnet(net, nvlabs, 0.9999), "pwcnet", {"convolutions": 3}),
    "PWC-Net old": (lambda net: pwcnet(net, nvlabs_old, 0.9999, 2), "pwcnet", {"convolutions": 2}),
    "pytorch-pwc": (lambda net: pwcnet(net, niklaus, 0.999), "pwcnet", {"inside": 0.999}),
    "pytorch-spynet": (lambda net: spynet(net, 2), "spynet", {"levels": 2}),
}  # fmt: skip


@pytest.mark.parametrize("title", NETWORKS)
def test_each_family_is_recognised_and_sees_what_its_plain_network_sees(title: str, tmp_path: Path) -> None:
    plain, name, expected_settings = NETWORKS[title]
    net = Weights()
    with torch.inference_mode():
        expected = plain(net)
    state = {k: v.half() if "running" not in k and v.is_floating_point() else v for k, v in net.state.items()}
    left = []
    if title == "PWC-Net":  # the published class has this layer, and never uses it
        state |= {"deconv2.weight": torch.zeros(2, 2, 4, 4), "deconv2.bias": torch.zeros(2)}
        state, left = {f"module.{key}": value for key, value in state.items()}, ["deconv2 (2)"]
    if title == "NVIDIA FlowNet2 C":  # the first of the networks in the whole FlowNet2
        state = {f"flownetc.{key}": value for key, value in state.items()}
        state |= {"flownets_1.predict_flow6.weight": torch.zeros(1), "flownets_1.predict_flow6.bias": torch.zeros(1)}
        left = ["flownets_1 (2)"]
    content = {"arch": "x", "div_flow": 20, "state_dict": state} if "FlowNet" in title else state
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization="BN" not in title)
    converted = flow.read(tmp_path / "x.pth")
    (tmp_path / "x.pth").unlink()
    assert converted is not None
    card = converted.card
    assert card["family"] == title.removesuffix(" BN").removesuffix(" old").removesuffix(" C")
    assert (card["network"], card["settings"], card["left_out"]) == (name, expected_settings, left)
    assert expected.std() > 0.01
    with torch.inference_mode():
        found = converted.network(FIRST, SECOND)[-1]
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 1e-3 * expected.std()  # rounding grows on the way through random layers


def test_caffe_has_the_same_names_and_blue_first() -> None:
    names = {"conv_redir.0.weight", "predict_flow6.weight"}
    assert flow.recognise([*names]) == "flownet"
    assert flow.FAMILIES["flownet-caffe"].settings(names) == ("flownetc", {"bgr": True})


def test_command_converts_and_names_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    net = Weights()
    with torch.inference_mode():
        expected = spynet(net, 2)
    torch.save(net.state, "spynet.pth")
    assert cli.main(["convert", "spynet.pth", "--out", "spynet.safetensors"]) == 0
    assert capsys.readouterr().out == "pytorch-spynet -> spynet.safetensors\n"
    with torch.inference_mode():
        found = flow_networks.load("spynet.safetensors")(FIRST, SECOND)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    key = "moduleBasic.1.moduleBasic.4.weight"
    for state, family, words in (
        ({k: v for k, v in net.state.items() if k != key}, "", "lacks netBasic.1.netBasic.4.weight of pytorch-spynet"),
        (net.state | {key: torch.zeros(32, 64, 5, 5)}, "", f"{key} is (32, 64, 5, 5), the network expects"),
        (net.state | {key: torch.full((32, 64, 7, 7), torch.nan)}, "", "holds NaN or infinity"),
        (net.state, "pwcnet", "has not the names of PWC-Net but netBasic.0"),
        (net.state, "spinet", "unknown family 'spinet'; did you mean spynet"),
        ({"a.weight": torch.zeros(1)}, "", "is of no network known here (it names a.weight)"),
    ):
        torch.save(state, "x.pth")
        assert cli.main(["convert", "x.pth", "--out", "y.safetensors", *(["--method", family] if family else [])]) == 2
        told = capsys.readouterr().err
        assert words in " ".join(told.split())
        assert told.count("\n") == 1
    assert not list(tmp_path.glob("y.*"))
