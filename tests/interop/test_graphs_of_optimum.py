"""What optimum-onnx exports runs in our pipelines as in transformers: merged decoders, and pairs of graphs."""

import pytest

from interop.models import generated, tiny
from wherry import pipeline

pytestmark = pytest.mark.interop
TEXTS = ["A light boat.", "A small ship is sailing up the river to the harbour."]
DECODER = {"decoder_model.onnx", "decoder_with_past_model.onnx"}
FORMS = {
    "gpt2": ("gpt2", "text-generation-with-past", {}, {"model.onnx"}),
    "t5": ("t5", "text2text-generation-with-past", {}, {"decoder_model_merged.onnx", "encoder_model.onnx", *DECODER}),
    "t5 in two": ("t5", "text2text-generation-with-past", {"no_post_process": True}, {"encoder_model.onnx", *DECODER}),
    "marian in two": (
        "marian",
        "text2text-generation-with-past",
        {"no_post_process": True},
        {"encoder_model.onnx", *DECODER},
    ),
}


@pytest.fixture(scope="module")
def folders(run_in, tokenizer, tmp_path_factory):
    """Name to (folder, names of its graphs)."""
    root, jobs = tmp_path_factory.mktemp("optimum"), []
    for name, (model, task, options, _) in FORMS.items():
        checkpoint = root / model
        if not checkpoint.exists():
            tiny(model).save_pretrained(checkpoint)
        job = {"name": name, "checkpoint": checkpoint, "folder": root / f"{name} in onnx"}
        jobs.append({**job, "task": task, "options": options})
    graphs = run_in("optimum", jobs, "export_optimum.py")
    for job in jobs:
        tokenizer.save_pretrained(job["folder"])
    return {job["name"]: (job["folder"], set(graphs[job["name"]])) for job in jobs}


@pytest.mark.parametrize("name", FORMS)
def test_a_folder_generates_as_in_torch(name, folders, tokenizer):
    model, _, _, names = FORMS[name]
    folder, graphs = folders[name]
    assert graphs == names
    pipe = pipeline(None, folder, device="cpu")
    plain = {"max_new_tokens": 24, "min_new_tokens": 24, "num_beams": 1}
    found = pipe(TEXTS, **plain)
    original = type(tiny(model)).from_pretrained(folder.parent / model)
    for text, (result,) in zip(TEXTS, found, strict=True):
        tokens = generated(original, tokenizer, pipe.prefix + text if hasattr(pipe, "prefix") else text, 24)
        assert result["generated_text"] == tokenizer.decode(tokens, skip_special_tokens=True)
