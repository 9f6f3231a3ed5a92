"""Programs that need not be taken apart give what torch gives, and those that must be are."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxruntime import InferenceSession
from torch import nn
from torch.export import Dim

from wherry_exporter import spared
from wherry_exporter.convert import convert


class Written(nn.Module):
    """Runs a function of a tensor of eight columns."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, data):
        return {"found": self.function(data)}


def added(data):
    made = data / 2
    before = made * 2
    made.add_(1).mul_(before)
    return made - before


def added_in_another_type(data):
    made = (data * 3).to(torch.int32)
    made += torch.ones(1, dtype=torch.int64)
    return made.to(torch.float32) / 2


def compared(data):
    """Whose answer has the type of what it is written over."""
    made = data * 3
    made.gt_(data + 1)
    return made / 2


def masked(data):
    made = data + 1
    made.masked_fill_(data > 0, -5.0)
    return made


def shifted(data):
    made = data.new_zeros(data.shape)
    made[:, 1:] = data[:, :-1].clone()
    made[:, 0] = data[:, 3] * 2
    return made / 2


def turned(data):
    made = data.clone()
    made[..., 1] = made[..., 0] * 2
    made[2:, 3:5] = made[2:, 3:5] / 3
    return made / 2


def replaced(data):
    made = data * 2
    doubled = made + 1
    made.copy_(data - 1)
    return made * doubled


def in_another_type_behind(data):
    doubled = data * 2
    doubled.add_(1)
    return doubled.to(torch.int64).reshape(-1).to(torch.float32)


def behind_a_view(data):
    made = (data + 1).reshape(-1, 2, 4).transpose(1, 2)
    made += 3
    return made * 2


def viewed_behind(data):
    """The view sees what is written."""
    made = data + 1
    view = made[:, 2:]
    made.add_(10)
    return view * 2


def written_through_a_view(data):
    made = data + 1
    view = made.reshape(-1, 2, 4)
    view.mul_(2)
    return made - 1


def widened(data):
    """A column over several."""
    made = data + 1
    made[:, 2:6] = data[:, :1]
    return made


def given_back(data):
    """What comes out goes by the name that it had before it was written over."""
    made = data + 1
    made[:, 0] = data[:, 1]
    return made


WHOLE = [added, masked, shifted, turned, replaced, in_another_type_behind, behind_a_view]
APART = [added_in_another_type, compared, viewed_behind, written_through_a_view, widened, given_back]


def images(data):
    return data[None, None].repeat(2, 4, 1, 1)


class Layer(nn.Module):
    """One layer on images, with random numbers in all that it has learned."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer.eval()
        for each in [*layer.parameters(), *(each for each in layer.buffers() if each.is_floating_point())]:
            nn.init.uniform_(each.data, 0.5, 1.5)

    def forward(self, data):
        return {"found": self.layer(images(data))}


LAYERS = {
    "same": (lambda: nn.Conv2d(4, 3, 3, padding="same", dilation=2), True),
    "same, unlike": (lambda: nn.Conv2d(4, 3, 2, padding="same"), False),
    "valid": (lambda: nn.Conv2d(4, 3, (1, 2), padding="valid", bias=False), True),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), True),
    "normal": (lambda: nn.BatchNorm2d(4), True),
    "normal in itself": (lambda: nn.BatchNorm2d(4, track_running_stats=False), False),
    "average": (lambda: nn.AdaptiveAvgPool2d(1), True),
    "average of rows": (lambda: nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(1)), True),
    "weighted": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 1), dim=0), True),
}


@pytest.fixture
def apart(monkeypatch):
    """What was taken apart."""
    programs = []
    take = spared._take_apart
    monkeypatch.setattr(spared, "_take_apart", lambda *given: programs.append(given) or take(*given))
    return programs


def agrees(module, folder):
    torch.manual_seed(0)
    graph = convert(module, {"data": torch.randn(5, 8)}, {"data": {0: Dim.DYNAMIC}}, ["data"])
    ir.save(graph, folder / "model.onnx")
    session = InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for rows in (5, 9):
        data = torch.randn(rows, 8)
        with torch.no_grad():
            expected = module(data.clone())["found"].numpy()
        np.testing.assert_allclose(session.run(["found"], {"data": data.numpy()})[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [*WHOLE, *APART], ids=lambda function: function.__name__)
def test_what_is_written_over(function, apart, tmp_path):
    agrees(Written(function), tmp_path)
    assert bool(apart) == (function in APART)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, apart, tmp_path):
    torch.manual_seed(1)
    layer, whole = LAYERS[name]
    agrees(Layer(layer()), tmp_path)
    assert bool(apart) != whole


def test_a_number_less_a_tensor(apart, tmp_path):
    agrees(Written(lambda data: torch.rsub(data, 1.0, alpha=2) + (1 - data)), tmp_path)
    assert not apart


def kept_apart_by_little(data):
    """Zeros by zeros and a little."""
    nothing = data * 0
    return nothing / (nothing.abs() + 1e-10) + data / (1 + 1e-6)


class Bounded(nn.Module):
    """Two pairs of bounds for one tensor."""

    def __init__(self):
        super().__init__()
        for name, bound in (("low", -0.5), ("high", 0.25), ("lower", -1.0), ("higher", 0.75)):
            self.register_buffer(name, torch.tensor(bound))

    def forward(self, data):
        made = data * 3
        return {"found": made.clamp(self.low, self.high) * 2 + made.clamp(self.lower, self.higher)}


def averaged(data):
    """Means of what comes to a place; nothing comes to the last, and to the first not alone where that counts too."""
    places = (torch.arange(data.shape[1]) % 3).expand(data.shape[0], -1)
    start = data.new_full((data.shape[0], 4), 5.0)
    alone, among = (start.scatter_reduce(1, places, data, "mean", include_self=kept) for kept in (False, True))
    return torch.cat([alone, among], 1)


@pytest.mark.parametrize(
    "module", [Written(kept_apart_by_little), Written(averaged), Bounded()], ids=["a little", "means", "bounds"]
)
def test_what_translations_and_rules_would_change(module, tmp_path):
    agrees(module, tmp_path)
