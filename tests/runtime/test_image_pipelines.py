"""Pipelines of images give what transformers.pipeline gives, on the same weights and images.

Some tiny models are exported, one for each way that images go through a graph. For the others, whose graphs the
exporter's own tests compare with torch, the model itself stands in for its graph, and what is compared is all the rest.
"""

import inspect
import json
import shutil
from functools import cache
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.oneformer import image_processing_pil_oneformer
from transformers.models.sam import image_processing_pil_sam

from tiny_images import TINY, make
from wherry import pipeline
from wherry.bundle import Bundle, Variant
from wherry.cli import main
from wherry.errors import InputError
from wherry.files import read_json
from wherry.pipelines import TASKS
from wherry.pipelines.image_segmentation import QUERIES
from wherry.pipelines.images import pixels
from wherry.session import Port
from wherry.vision.segments import apart
from wherry_exporter import export
from wherry_exporter.load import without_losses
from wherry_exporter.samples import sample
from wherry_exporter.tasks import TASKS as EXPORTED

LABELS = ["cat", "a small boat", "house"]
TORCH = {
    "siglip": "zero-shot-image-classification",
    "yolos": "object-detection",
    "rt-detr": "object-detection",
    "deformable-detr": "object-detection",
    "detr-panoptic": "image-segmentation",
    "maskformer": "image-segmentation",
    "mask2former": "image-segmentation",
    "oneformer": "image-segmentation",
    "dinov2": "image-feature-extraction",
}


@pytest.fixture(scope="module")
def images():
    """Two of unlike shape, smooth and with edges, so that models see different things in them."""
    random = np.random.default_rng(0)
    found = []
    for height, width in ((90, 130), (120, 80)):
        blocks = random.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        found.append(Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC))
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return cache(lambda name: make(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def exported(folders, tmp_path_factory):
    """Our pipeline on a tiny model's bundle."""

    @cache
    def opened(name):
        folder = tmp_path_factory.mktemp("bundles") / name
        export(folders(name), folder, precision=["fp32"])
        return pipeline(model=folder, device="cpu")

    return opened


@pytest.fixture(scope="module")
def theirs(folders):
    """transformers' pipeline on it."""

    @cache
    def opened(name, task):
        with without_losses():
            return transformers.pipeline(task, model=str(folders(name)), device="cpu")

    return opened


@pytest.fixture
def by_torch(theirs, folders, monkeypatch):
    """Our pipeline with a torch model in the place of its graph."""

    def opened(name):
        folder, task = folders(name), TORCH[name]
        model = theirs(name, task).model
        monkeypatch.setattr("wherry.pipelines.base.Session", lambda *_, **__: ByTorch(model, task))
        config = read_json(folder / "config.json")
        bundle = Bundle(folder, task, config, {"fp32": Variant("fp32", {"model": ""}, {})}, {}, {})
        return import_module(f"wherry.pipelines.{TASKS[task].module}").PIPELINE(bundle)

    return opened


class ByTorch:
    """A session that is a torch model, with the inputs and outputs that its graph would have."""

    def __init__(self, model, task):
        self.model, self.takes = model, inspect.signature(model.forward).parameters
        self.inputs = {"pixel_values": Port("pixel_values", np.dtype(np.float32), ("batch", 3, "height", "width"))}
        texts = {"input_ids": np.array([[1, 2]])}
        if "task_inputs" in self.takes:
            texts["task_inputs"] = np.zeros((1, model.config.task_seq_len), np.int64)
            self.inputs["task_inputs"] = Port("task_inputs", np.dtype(np.int64), ("batch", texts["task_inputs"].size))
        found = self.run({**texts, "pixel_values": np.zeros((1, 3, *self.model_size()), np.float32)})
        self.outputs = {name: found[name] for name in EXPORTED[task].outputs if name in found}

    def model_size(self):
        size = getattr(getattr(self.model.config, "vision_config", self.model.config), "image_size", 64)
        return size if isinstance(size, list) else (size, size)

    def run(self, feeds, outputs=None):
        given = {name: torch.from_numpy(array) for name, array in feeds.items() if name in self.takes}
        with torch.no_grad():
            found = self.model(**given)
        return {name: found[name].numpy() for name in outputs or found if isinstance(found[name], torch.Tensor)}


def same(found, expected):
    """Whole results: labels and texts equal, scores near, boxes to the pixel, masks but for a pixel in a thousand."""
    assert type(found) is type(expected)
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, dict):
        assert set(found) == set(expected)
        for name in expected:
            same(found[name], expected[name])
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-3)
    elif isinstance(expected, int):
        assert abs(found - expected) <= 1
    elif isinstance(expected, Image.Image):
        one, other = np.asarray(found) > 0, np.asarray(expected) > 0
        assert (found.mode, one.shape) == (expected.mode, other.shape)
        assert (one & other).sum() >= 0.999 * (one | other).sum()
    else:
        assert found == expected


def in_order(boxes):
    """Boxes of like scores may change places."""
    return sorted(boxes, key=lambda each: (round(-each["score"], 4), each["label"], *each["box"].values()))


def test_image_classification(bundle, images):
    """Real weights."""
    ours = pipeline(model=bundle("efficientnet").folder, device="cpu")
    reference = transformers.pipeline("image-classification", model=str(sample("efficientnet")), device="cpu")
    same(ours(images), reference(images))
    same(ours(images[0], top_k=3, function_to_apply="none"), reference(images[0], top_k=3, function_to_apply="none"))


def test_object_detection(exported, theirs, images):
    ours, reference = exported("detr"), theirs("detr", "object-detection")
    for threshold in (0.1, 0.25):
        same(ours(images, threshold=threshold), reference(images, threshold=threshold))
    assert len(ours(images[0], threshold=0.1)) > 2


@pytest.mark.parametrize("name", ["yolos", "rt-detr", "deformable-detr"])
def test_how_detectors_score(by_torch, theirs, images, name):
    ours, reference = by_torch(name), theirs(name, "object-detection")
    for threshold in (0.2, 0.5):
        found, expected = ours(images, threshold=threshold), reference(images, threshold=threshold)
        same([in_order(each) for each in found], [in_order(each) for each in expected])
    assert len(ours(images[0], threshold=0.2)) > 2


def test_semantic_segmentation(exported, theirs, images):
    found = exported("segformer")(images)
    same(found, theirs("segformer", "image-segmentation")(images))
    assert max(map(len, found)) > 1


@pytest.mark.usefixtures("resized_masks")
@pytest.mark.parametrize("subtask", ["panoptic", "instance", "semantic"])
@pytest.mark.parametrize("name", ["detr-panoptic", "maskformer", "mask2former", "oneformer"])
def test_segmentation_by_queries(by_torch, theirs, images, name, subtask):
    options = {"subtask": subtask, "threshold": 0.3, "mask_threshold": 0.3, "overlap_mask_area_threshold": 0.4}
    reference = theirs(name, "image-segmentation")
    with reference.model.register_forward_hook(unlike):
        found, expected = by_torch(name)(images, **options), reference(images, **options)
    same([in_order_of_area(each) for each in found], [in_order_of_area(each) for each in expected])
    assert min(map(len, found)) > 1


@pytest.mark.usefixtures("resized_masks")
def test_segmentation_as_it_is_told(by_torch, theirs, images):
    """OneFormer is told the subtask in words: what it sees differs from one to another, as it does in transformers."""
    options = {"threshold": 0.0, "overlap_mask_area_threshold": 0.0}
    their = theirs("oneformer", "image-segmentation")
    ours = by_torch("oneformer")
    for subtask in ("semantic", "panoptic", None):
        given = options if subtask is None else {**options, "subtask": subtask}
        same(ours(images[0], **given), their(images[0], **given))
    image = pixels([ours.processor(images[0], name="image")])
    first, second, _ = (
        ours.session.run({**image, "task_inputs": told})["class_queries_logits"] for told in ours.told.values()
    )
    assert np.abs(first - second).max() > 1e-3


@pytest.fixture
def resized_masks(monkeypatch):
    """What transformers' processor without torchvision takes from torchvision all the same."""

    def resize(masks, size, interpolation):
        return torch.nn.functional.interpolate(masks, size, mode=interpolation)

    torchvision = SimpleNamespace(resize=resize, InterpolationMode=SimpleNamespace(BILINEAR="bilinear"))
    monkeypatch.setattr(image_processing_pil_oneformer, "tvF", torchvision, raising=False)


def unlike(_model, _inputs, found):
    """Classes and masks that differ from query to query, in the place of a tiny model's, which all see the same."""
    random = torch.Generator().manual_seed(0)
    names = next(names for names in QUERIES if set(names) <= set(found))
    kinds, masks = (found[name] for name in names)
    found[names[0]] = 4 * torch.randn(kinds.shape, generator=random)
    coarse = 6 * torch.randn((*masks.shape[:2], 4, 5), generator=random)
    found[names[1]] = torch.nn.functional.interpolate(coarse, masks.shape[-2:], mode="bicubic")


def in_order_of_area(segments):
    return sorted(segments, key=lambda each: (each["label"], (np.asarray(each["mask"]) > 0).sum(), each["score"] or 0))


@pytest.mark.parametrize("kind", ["sam", pytest.param("sam_hq", marks=pytest.mark.sweep)])
def test_masks_of_what_points_are_on(exported, folders, images, kind):
    ours, folder = exported(kind), folders(kind)
    model = transformers.AutoModel.from_pretrained(folder)
    prepare = transformers.SamImageProcessorPil.from_pretrained(folder)
    for image in images:
        width, height = image.size
        things = [[(10, 20), (30, 5)], [(width - 1, height - 1)], [(40.5, 41)]]
        labels = [[1, 0], [1], [1]]
        prepared = prepare(image, return_tensors="pt")
        scale = torch.tensor(
            [new / old for new, old in zip(prepared.reshaped_input_sizes[0].flip(0), image.size, strict=True)]
        )
        expected = []
        for thing, kinds in zip(things, labels, strict=True):
            asked = {"input_points": (torch.tensor([[thing]]) * scale).float(), "input_labels": torch.tensor([[kinds]])}
            with torch.no_grad():
                found = model(prepared.pixel_values, **asked)
            masks = prepare.post_process_masks(
                found.pred_masks, prepared.original_sizes, prepared.reshaped_input_sizes, pad_size=prepare.pad_size
            )[0][0]
            best = found.iou_scores[0, 0].argmax()
            mask = Image.fromarray(masks[best].numpy().astype(np.uint8) * 255)
            expected.append({"score": float(found.iou_scores[0, 0, best]), "mask": mask})
        assert 0.01 < (np.asarray(expected[0]["mask"]) > 0).mean() < 0.99
        same(ours(image, points=things, labels=labels), expected)
        seen = ours.embed(image)
        assert [each["score"] for each in ours(seen, points=[(40.5, 41)])] == pytest.approx([expected[2]["score"]])
    assert len(ours(images, points=[(1, 1)])) == 2
    assert next(ours(iter(images), points=[(1, 1)])) == ours(images[0], points=[(1, 1)])


@pytest.mark.sweep
def test_masks_of_an_image_at_several_resolutions(exported, folders, images):
    """As Sam2Processor does it, whose image processor wants torchvision."""
    ours, folder = exported("sam2"), folders("sam2")
    model = transformers.Sam2Model.from_pretrained(folder)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    prepare = transformers.ViTImageProcessorPil(
        size={"height": 64, "width": 64}, resample=2, image_mean=mean, image_std=std
    )
    for image in images:
        width, height = image.size
        things, labels = [[(10, 20), (30, 5)], [(width - 1, height - 1), (3, 4)]], [[1, 0], [1, 1]]
        asked = {
            "input_points": torch.tensor([things]) * 64 / torch.tensor([width, height]),
            "input_labels": torch.tensor([labels]),
        }
        with torch.no_grad():
            found = model(prepare(image, return_tensors="pt").pixel_values, **asked)
        masks = torch.nn.functional.interpolate(found.pred_masks[0], (height, width), mode="bilinear") > 0
        best = found.iou_scores[0].argmax(-1)
        expected = [
            {"score": float(scores[at]), "mask": Image.fromarray(mask[at].numpy().astype(np.uint8) * 255)}
            for scores, mask, at in zip(found.iou_scores[0], masks, best, strict=True)
        ]
        assert 0.01 < (np.asarray(expected[0]["mask"]) > 0).mean() < 0.99
        same(ours(image, points=things, labels=labels), expected)
        assert ours(ours.embed(image), points=things, labels=labels) == ours(image, points=things, labels=labels)


def test_masks_of_all_there_is(exported, theirs, images, monkeypatch):
    """Theirs but for the choice among masks that overlap, for which transformers wants torchvision."""
    ours, reference = exported("sam"), theirs("sam", "mask-generation")

    def sorted_out(masks, scores, _boxes, _overlap):
        order = scores.argsort(descending=True)
        return [image_processing_pil_sam._rle_to_mask(masks[at]) for at in order], scores[order], None, None

    monkeypatch.setattr(reference.image_processor, "post_process_for_mask_generation", sorted_out)
    for image in images:
        options = {"points_per_crop": 5, "pred_iou_thresh": 0.85, "stability_score_thresh": 0.05}
        found, expected = ours(image, **options, crops_nms_thresh=1.0), reference(image, **options)
        pictures = [Image.fromarray(np.asarray(mask).astype(np.uint8) * 255) for mask in expected["masks"]]
        scores = expected["scores"].tolist()
        assert len(scores) > 2
        same(found, [{"score": score, "mask": mask} for score, mask in zip(scores, pictures, strict=True)])
        assert len(ours(image, **options, crops_nms_thresh=0.5)) < len(found)
        assert ours(image, pred_iou_thresh=1.0, points_per_crop=2) == []


def test_boxes_that_are_mostly_those_of_a_better_one():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4], [20, 20, 30, 30], [0, 0, 10, 10], [5, 5, 5, 5]])
    scores = np.array([0.7, 0.9, 0.8, 0.1, 0.6, 0.2])
    assert apart(boxes, scores, 0.7) == [1, 2, 5, 3]  # 0 and 4 share 80 of 100 with 1; 2 shares 40 of 80
    assert apart(boxes, scores, 0.8) == [1, 2, 0, 5, 3]
    assert apart(boxes, scores, 0.4) == [1, 5, 3]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"points": [(200, 3)]}, r"point \(200, 3\) lies outside the image, which is 130x90"),
        ({"points": []}, "there is none"),
        ({"points": [(1, 2, 3)]}, "points must be"),
        ({"points": ["here"]}, "points must be"),
        ({"points": [(1, float("nan"))]}, "finite"),
        ({"points": [(1, 2)], "labels": [[1, 0]]}, "a label for each point"),
        ({"points": [(1, 2)], "labels": [2]}, "labels must be 1"),
        ({"labels": [1]}, "labels go with points"),
        ({"pred_iou_thresh": 3}, "pred_iou_thresh"),
        ({"points_per_crop": 0}, "points_per_crop"),
    ],
)
def test_points_that_are_none(exported, images, options, part):
    with pytest.raises(InputError, match=part) as raised:
        exported("sam")(images[0], **options)
    assert "\n" not in str(raised.value)


def test_depth_estimation(exported, theirs, images):
    for found, expected in zip(exported("dpt")(images), theirs("dpt", "depth-estimation")(images), strict=True):
        np.testing.assert_allclose(found["predicted_depth"], expected["predicted_depth"].numpy(), atol=1e-3)
        levels = [np.asarray(each["depth"]).astype(int) for each in (found, expected)]
        assert found["depth"].mode == expected["depth"].mode == "L"
        assert abs(levels[0] - levels[1]).max() <= 1


@pytest.mark.parametrize("pool", [False, True])
def test_image_feature_extraction(by_torch, theirs, images, pool):
    found = by_torch("dinov2")(images, pool=pool)
    expected = theirs("dinov2", "image-feature-extraction")(images, pool=pool)
    assert len(found) == len(expected) == 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, np.array(other), atol=1e-4)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_zero_shot_image_classification(exported, by_torch, theirs, images, name):
    ours = exported(name) if name == "clip" else by_torch(name)
    reference = theirs(name, "zero-shot-image-classification")
    same(ours(images, candidate_labels=LABELS), reference(images, candidate_labels=LABELS))
    options = {"candidate_labels": LABELS[:2], "hypothesis_template": "A {} here"}
    same(ours(images[0], **options), reference(images[0], **options))


def test_zero_shot_object_detection(exported, theirs, images):
    ours, reference = exported("owlvit"), theirs("owlvit", "zero-shot-object-detection")
    for image in images:
        found = ours(image, candidate_labels=LABELS, threshold=0.1)
        same(in_order(found), in_order(reference(image, candidate_labels=LABELS, threshold=0.1)))
        assert len(found) > 2
        assert ours(image, candidate_labels=LABELS, threshold=0.1, top_k=2) == found[:2]


@pytest.mark.parametrize(
    "name", ["trocr", "pix2struct", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("git", "blip"))]
)
def test_image_to_text(exported, folders, images, name, tmp_path):
    kind, _, processor, _ = TINY[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders(name))
    model = getattr(transformers, kind).from_pretrained(folders(name))
    processor = getattr(transformers, f"{processor}ImageProcessorPil").from_pretrained(folders(name))
    ours = exported(name)
    for options in ({}, {"num_beams": 3}):
        ids = model.generate(**processor(images, return_tensors="pt"), max_new_tokens=12, do_sample=False, **options)
        expected = [[{"generated_text": text}] for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        assert ours(images, max_new_tokens=12, **options) == expected
    assert "".join(ours.stream(images[0], max_new_tokens=12)) == ours(images, max_new_tokens=12)[0][0]["generated_text"]
    shutil.copytree(ours.bundle.folder, tmp_path / "short")
    told = tmp_path / "short/generation_config.json"  # whose length counts the token to begin with
    told.write_text(json.dumps(read_json(told) | {"max_length": 9}))
    (tmp_path / "short/wherry.json").unlink()
    short = pipeline("image-to-text", tmp_path / "short", device="cpu")
    ids = model.generate(**processor(images, return_tensors="pt"), max_length=9, do_sample=False)
    assert short(images) == [
        [{"generated_text": text}] for text in tokenizer.batch_decode(ids, skip_special_tokens=True)
    ]


def test_answers_about_an_image_are_the_likeliest(exported, folders, images):
    folder, ours = folders("vilt"), exported("vilt")
    model = transformers.ViltForQuestionAnswering.from_pretrained(folder)
    prepare = transformers.ViltImageProcessorPil.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    questions = ["What is it", "Where is the boat?"]
    expected = []
    for image, question in ((image, question) for image in images for question in questions):
        with torch.no_grad():
            logits = model(**tokenizer(question, return_tensors="pt"), **prepare(image, return_tensors="pt")).logits
        best = logits.sigmoid()[0].topk(3)
        answers = [model.config.id2label[number] for number in best.indices.tolist()]
        expected.append(
            [{"score": score, "answer": answer} for score, answer in zip(best.values.tolist(), answers, strict=True)]
        )
    assert len({found[0]["score"] for found in expected}) == 4
    same(ours(images, questions, top_k=3), expected)
    same(ours(image=images[1], question=questions, top_k=3, batch_size=2), expected[2:])
    same(ours({"image": images[0], "question": questions[1]}, top_k=3), expected[1])
    same(list(ours(iter(images), questions[0], top_k=3)), expected[::2])
    for given, part in ((([images[0]],), "a question is needed"), ((images[0], " "), "question 0 is empty")):
        with pytest.raises(InputError, match=part):
            ours(*given)


def test_answers_about_an_image_are_written(exported, folders, images, tmp_path, capsys):
    """As BLIP's generate writes them; questions of unlike lengths in a batch as alone."""
    folder, ours = folders("blip-vqa"), exported("blip-vqa")
    model = transformers.BlipForQuestionAnswering.from_pretrained(folder)
    prepare = transformers.BlipImageProcessorPil.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    questions = ["What is it", "Where is the boat?"]
    for options in ({}, {"num_beams": 3}):
        expected = []
        for image, question in ((image, question) for image in images for question in questions):
            given = {**tokenizer(question, return_tensors="pt"), **prepare(image, return_tensors="pt")}
            given = {name: given[name] for name in ("input_ids", "attention_mask", "pixel_values")}
            ids = model.generate(**given, max_new_tokens=12, do_sample=False, **options)
            expected.append([{"answer": tokenizer.decode(ids[0], skip_special_tokens=True).strip()}])
        assert len({found[0]["answer"] for found in expected}) > 1
        assert ours(images, questions, max_new_tokens=12, **options) == expected
        assert ours(images, questions, max_new_tokens=12, batch_size=4, **options) == expected
    with pytest.raises(InputError, match="unknown generation option top_k_answers"):
        ours(images[0], "What?", top_k_answers=3)
    with pytest.raises(InputError, match="this model writes at most 39 tokens, not 40: pass max_new_tokens"):
        ours(images[0], "What?", max_new_tokens=40)
    images[0].save(tmp_path / "boat.png")
    words = ["run", str(ours.bundle.folder), str(tmp_path / "boat.png"), "--question", questions[0]]
    assert main([*words, "--max-new-tokens", "12"]) == 0
    (answer,) = ours(images[0], questions[0], max_new_tokens=12)
    assert capsys.readouterr().out == f"{tmp_path / 'boat.png'}\n  {answer['answer']}\n"


def test_a_batch_gives_what_its_images_give_alone(exported, images):
    many = [*images, images[0], images[0], images[1]]
    ours = exported("detr")
    alone = [ours(image, threshold=0.1) for image in many]
    same(ours(many, threshold=0.1, batch_size=4), alone)


def test_an_iterator_is_read_as_results_are_asked_for(exported, images):
    taken = []

    def given():
        for image in images * 3:
            taken.append(image)
            yield image

    results = exported("dpt")(given())
    assert not taken
    next(results)
    assert len(taken) == 1
    assert len(list(results)) == 5


@pytest.fixture
def photo(images, tmp_path):
    path = tmp_path / "photo.png"
    images[0].save(path)
    return path


@pytest.fixture
def wherry(capsys, exported):
    """`wherry run` on a tiny model's bundle."""

    def run(name, *words):
        folder = exported(name).bundle.folder
        capsys.readouterr()  # what an export says
        code = main(["run", str(folder), "--device", "cpu", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def test_boxes_at_the_command_line(wherry, exported, photo, tmp_path):
    expected = exported("detr")(photo, threshold=0.1)
    code, out, _ = wherry("detr", photo, "--threshold", "0.1", "--output", tmp_path / "found.png")
    lines = out.splitlines()
    assert (code, lines[0], lines[1].split()) == (0, str(photo), ["label", "score", "xmin", "ymin", "xmax", "ymax"])
    best = expected[0]
    assert lines[3].split() == [
        best["label"],
        f"{best['score']:.4f}",
        *map(str, best["box"].values()),
    ]
    drawn, given = np.asarray(Image.open(tmp_path / "found.png")), np.asarray(Image.open(photo))
    assert drawn.shape == given.shape
    changed = (drawn != given).any(-1)
    assert 0 < changed.mean() < 1
    code, out, _ = wherry("detr", photo, "--threshold", "0.1", "--json")
    same(json.loads(out), expected)
    code, out, _ = wherry("detr", photo, "--threshold", "1")
    assert (code, out) == (0, f"{photo}\n  nothing found: a lower --threshold shows what is less sure\n")


def test_masks_at_the_command_line(wherry, exported, photo, tmp_path):
    expected = exported("segformer")(photo)
    code, out, _ = wherry("segformer", photo, "--output", tmp_path / "found.webp")
    assert (code, len(out.splitlines())) == (0, 3 + len(expected))
    assert Image.open(tmp_path / "found.webp").size == Image.open(photo).size
    found = json.loads(wherry("segformer", photo, "--json")[1])
    for one, other in zip(found, expected, strict=True):
        assert (one["label"], one["score"]) == (other["label"], None)
        runs, (height, width) = one["mask"]["counts"], one["mask"]["size"]
        mask = np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T
        np.testing.assert_array_equal(mask * 255, np.asarray(other["mask"]))


def test_points_at_the_command_line(wherry, exported, photo, tmp_path):
    expected = exported("sam")(photo, points=[(10, 20), (100, 60.5)])
    code, out, _ = wherry("sam", photo, "--points", "10,20 100,60.5", "--output", tmp_path / "found.png")
    assert (code, len(out.splitlines())) == (0, 3 + len(expected))
    assert out.splitlines()[3].split()[:2] == ["0", f"{expected[0]['score']:.4f}"]
    assert (np.asarray(Image.open(tmp_path / "found.png")) != np.asarray(Image.open(photo))).any()
    found = json.loads(wherry("sam", photo, "--points", "10,20 100,60.5", "--json")[1])
    assert [each["score"] for each in found] == [each["score"] for each in expected]


def test_depth_at_the_command_line(wherry, exported, photo, tmp_path):
    code, out, _ = wherry("dpt", photo, "--output", tmp_path / "depth.png")
    assert (code, "130x90 pixels, from" in out) == (0, True)
    depth = exported("dpt")(photo)["depth"].convert("RGB")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "depth.png")), np.asarray(depth))


def test_labels_at_the_command_line(wherry, photo):
    code, out, _ = wherry("clip", photo, photo, "--labels", "cat, house")
    assert code == 0
    assert sorted(line.split()[0] for line in out.splitlines()) == sorted([str(photo), "cat", "house"] * 2)


def test_answers_at_the_command_line(wherry, exported, photo):
    expected = exported("vilt")(photo, "What is it")
    code, out, _ = wherry("vilt", photo, "--question", "What is it")
    assert (code, out.splitlines()[:2]) == (0, [str(photo), f"  {expected[0]['answer']}  {expected[0]['score']:.4f}"])
    code, out, _ = wherry("vilt", photo, "--question", "What is it", "--json")
    same(json.loads(out), expected)


@pytest.mark.parametrize(
    ("name", "words", "part"),
    [
        ("clip", ["photo"], "needs --labels"),
        ("vilt", ["photo"], "needs --question"),
        ("detr", ["photo", "--labels", "cat"], "--labels is not for"),
        ("detr", ["photo", "--threshold", "7"], "threshold must be from 0 to 1"),
        ("detr", ["photo", "--max-new-tokens", "7"], "--max-new-tokens is for text-generation"),
        ("detr", ["photo", "photo", "--output", "found.png"], "not 2"),
        ("detr", ["photo", "--output", "found.pdf"], "must end in .png"),
        ("trocr", ["photo", "--output", "found.png"], "--output is for object-detection"),
        ("segformer", ["photo", "--subtask", "instance"], "classifies each pixel"),
        ("segformer", ["photo", "--subtask", "stuff"], "unknown subtask"),
        ("sam", ["photo", "--points", "10;20"], "give points as 450,600"),
        ("sam", ["photo", "--points", "10,2000"], "lies outside the image"),
        ("detr", ["photo", "--points", "1,2"], "--points is not for"),
        ("detr", ["no such image.jpg"], "cannot read no such image.jpg"),
        ("detr", [__file__], "is no image that can be read"),
    ],
)
def test_misuse_at_the_command_line(wherry, photo, name, words, part):
    code, out, error = wherry(name, *(photo if word == "photo" else word for word in words))
    assert (code, out) == (2, "")
    assert part in error
    assert error.startswith("wherry: ")
    assert error.count("\n") == 1


def test_an_output_that_cannot_be_written(wherry, photo, tmp_path):
    code, _, error = wherry("detr", photo, "--output", tmp_path / "absent" / "found.png")
    assert code == 1
    assert error.count("\n") == 1
