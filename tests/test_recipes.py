"""The code of docs/recipes runs as it is written there; what stands in for a model that is not at hand is made here."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFont

from wherry_exporter.samples import sample

RECIPES = Path(__file__).parents[1] / "docs" / "recipes"
PAGES = {"README": "boxes", "ocr": "ocr", "plates": "plates", "faces": "faces"}
LINES = ["A wherry is a light boat", "Invoice No. 40712", "Total: 18.50 GBP"]
PLATES = {"straight": ("AB12CDE",), "tilted": ("KX74NRV",), "of two lines": ("WH34", "RRY")}


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """A folder with the files that the pages tell to save, importable; models come to lie beside them."""
    folder = tmp_path_factory.mktemp("recipes")
    for page, module in PAGES.items():
        (code,) = re.findall(r"```python\n(.*?)```", (RECIPES / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
        (folder / f"{module}.py").write_text(code, encoding="utf-8")
    (folder / "ppocr").symlink_to(sample("ppocr"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield folder
    for module in PAGES.values():
        sys.modules.pop(module, None)


def graph(path, given, shape, outputs):
    """A graph that takes an image and, whatever it is, gives these arrays."""
    values = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(a)) for name, a in outputs.items()]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name, a in outputs.items()]
    taken = helper.make_tensor_value_info(given, TensorProto.FLOAT, shape)
    model = helper.make_model(
        helper.make_graph(values, "stand-in", [taken], made), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, path)


@pytest.fixture(scope="module")
def ocr(kitchen):
    return importlib.import_module("ocr")


@pytest.fixture(scope="module")
def page():
    picture = Image.new("RGB", (640, 320), "white")
    for place, line in enumerate(LINES):
        ImageDraw.Draw(picture).text((40, 40 + 80 * place), line, fill="black", font=ImageFont.load_default(36))
    return picture


@pytest.mark.parametrize("angle", [0, 8, -20, 90, 180])
def test_reading_a_page(ocr, page, angle):
    read = ocr.read(page.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor="white"))
    texts = [line["text"] for line in read]
    if angle == 180:
        texts.reverse()
    if angle == 90:  # all are equally far down
        texts.sort(key=LINES.index)
    assert texts == LINES
    assert all(line["score"] > 0.9 for line in read)


def test_where_the_lines_are(ocr, page):
    """The corners lie around the ink of each line, and not far from it."""
    dark = np.asarray(page.convert("L")) < 128
    for place, corners in enumerate(ocr.find_lines(page)):
        rows, columns = np.nonzero(dark[40 + 80 * place : 110 + 80 * place])
        ink = np.array([columns.min(), rows.min() + 40 + 80 * place, columns.max() + 1, rows.max() + 41 + 80 * place])
        assert np.abs(np.concatenate([corners[0], corners[2]]) - ink).max() < 14


def test_an_empty_page(ocr):
    assert ocr.read(Image.new("RGB", (300, 200), "white")) == []


def test_connected_regions(ocr):
    """Beside a flood fill, on noise, where regions wind about."""
    mask = np.random.default_rng(0).random((60, 80)) < 0.6
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    expected = set()
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            edge += near
        expected.add(frozenset(region))
    found = [frozenset(zip(map(int, y), map(int, x), strict=True)) for y, x in ocr.connected(mask)]
    assert set(found) == expected
    assert len(found) == len(expected)


def drawn_plate(lines, angle):
    plate = Image.new("RGB", (250, 10 + 54 * len(lines)), "gold")
    ImageDraw.Draw(plate).rectangle((0, 0, plate.width - 1, plate.height - 1), outline="black", width=3)
    for place, line in enumerate(lines):
        ImageDraw.Draw(plate).text((20, 6 + 52 * place), line, fill="black", font=ImageFont.load_default(46))
    return plate.convert("RGBA").rotate(angle, Image.Resampling.BICUBIC, expand=True)


@pytest.fixture(scope="module")
def street(kitchen):
    """A picture of a street with the plates on it, and their boxes; `plates.onnx` gives these, and some too many."""
    picture, boxes = Image.new("RGB", (1280, 720), (90, 110, 100)), []
    for place, (kind, lines) in enumerate(PLATES.items()):
        plate = drawn_plate(lines, 9 if kind == "tilted" else 0)
        corner = 80 + 400 * place, 150 + 130 * place
        picture.paste(plate, corner, plate)
        boxes.append([*corner, corner[0] + plate.width, corner[1] + plate.height])
    exact = np.array(boxes, np.float32)
    candidates = np.concatenate([exact + 5, exact, exact[:1] + 300]) / 2  # 1280 pixels become 640
    scores = np.array([0.7, 0.7, 0.7, 0.9, 0.8, 0.6, 0.3], np.float32)
    scores[5] = 0.75
    middles, sizes = (candidates[:, :2] + candidates[:, 2:]) / 2, candidates[:, 2:] - candidates[:, :2]
    output = np.concatenate([middles, sizes, scores[:, None]], axis=1).T[None]
    graph(kitchen / "plates.onnx", "images", [1, 3, 640, 640], {"output0": output.astype(np.float32)})
    return picture, exact


def test_plates(street):
    picture, boxes = street
    found = importlib.import_module("plates").plates(picture)
    assert [plate["text"] for plate in found] == ["".join(lines) for lines in PLATES.values()]
    np.testing.assert_allclose([plate["box"] for plate in found], boxes, atol=1e-3)
    assert all(plate["score"] > 0.8 for plate in found)


FACES = np.array([[120.0, 90.0], [180.0, 100.0], [145.0, 130.0], [115.0, 160.0], [165.0, 168.0]])


def portrait(points):
    """A picture with a dot at each of the points."""
    picture = Image.new("RGB", (320, 240), "black")
    for x, y in points:
        ImageDraw.Draw(picture).ellipse((x - 4, y - 4, x + 4, y + 4), fill="white")
    return picture


@pytest.fixture(scope="module")
def faces(kitchen):
    """The recipe on stand-ins: a YuNet that sees a face in two neighbouring squares, an ArcFace with one answer."""
    outputs = {}
    for step in (8, 16, 32):
        count = (640 // step) ** 2
        for name, size in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            outputs[f"{name}_{step}"] = np.zeros((1, count, size), np.float32)
    for square, score in (((9, 8), 0.9), ((8, 8), 0.8)):  # in the square of 640, where all is 2 times as large
        at = square[0] * 40 + square[1]
        corner = np.array(square[::-1])
        outputs["cls_16"][0, at] = outputs["obj_16"][0, at] = score
        outputs["bbox_16"][0, at] = [*(FACES.mean(axis=0) * 2 / 16 - corner), *np.log([120 * 2 / 16, 140 * 2 / 16])]
        outputs["kps_16"][0, at] = (FACES * 2 / 16 - corner).ravel() + (0 if score == 0.9 else 0.1)
    graph(kitchen / "yunet.onnx", "input", [1, 3, 640, 640], outputs)
    vector = np.arange(1, 513, dtype=np.float32)[None]
    graph(kitchen / "arcface.onnx", "input.1", [1, 3, 112, 112], {"683": vector})
    return importlib.import_module("faces")


def test_finding_a_face(faces):
    np.testing.assert_allclose(faces.find_faces(portrait(FACES)), [FACES], atol=1e-3)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_similarity_is_least_squares(faces, noise):
    points = np.random.default_rng(1).normal(size=(5, 2)) * 40
    a, b = 0.7 * np.exp(0.4j), 12 - 5j
    mapped = a * (points @ [1, 1j]) + b
    places = np.stack([mapped.real, mapped.imag], axis=1) + noise * np.random.default_rng(2).normal(size=(5, 2))
    x, y = points.T
    one, none = np.ones(5), np.zeros(5)
    system = np.concatenate([np.stack([x, -y, one, none], axis=1), np.stack([y, x, none, one], axis=1)])
    expected = np.linalg.lstsq(system, places.T.ravel(), rcond=None)[0]
    got = faces.similarity(points, places)
    np.testing.assert_allclose([got[0].real, got[0].imag, got[1].real, got[1].imag], expected, atol=1e-9)
    if not noise:
        np.testing.assert_allclose(got, [a, b], atol=1e-9)


def test_aligning_lays_the_points_where_they_belong(faces):
    a, b = faces.similarity(FACES, faces.PLACES)
    wanted = a * (FACES @ [1, 1j]) + b
    assert np.abs(wanted - faces.PLACES @ [1, 1j]).max() < 12
    for point, place in zip(FACES, wanted, strict=True):
        ink = np.asarray(faces.align(portrait([point]), FACES).convert("L"), np.float64)
        rows, columns = np.indices(ink.shape)
        middle = (ink * columns).sum() / ink.sum(), (ink * rows).sum() / ink.sum()
        np.testing.assert_allclose(middle, [place.real, place.imag], atol=0.1)


def test_comparing(faces):
    picture = portrait(FACES)
    (points,) = faces.find_faces(picture)
    vector = faces.embed(picture, points)
    assert vector.shape == (512,)
    assert vector @ vector == pytest.approx(1, abs=1e-6)
