"""Every model behind the same four verbs: the shipped one and a real architecture pass the same tests."""

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipbook import backbones, clap, world


@pytest.fixture(scope="module", params=["glyph", "ViT-B-32/random"])
def backbone(request):
    return backbones.load(request.param, "cpu")


def test_features(backbone):
    images = world.render(world.sample(6, seed=1))
    x = backbone.embed_images(images)
    assert x.shape == (6, backbone.dim) and x.dtype == torch.float32 and x.device.type == "cpu"
    assert torch.allclose(backbone.embed_images(images, batch_size=4), x, atol=1e-4)
    t = backbone.embed_texts(["a cat", "a photo of a horse"])
    assert t.shape == (2, backbone.dim) and t.dtype == torch.float32
    assert not torch.allclose(x.norm(dim=1), torch.ones(6), atol=1e-3), "features are not normalised"
    assert torch.allclose(backbone.embed_texts(["a photo of a horse"]), t[1:], atol=1e-4)


def test_tensors_go_through_the_models_own_preprocessing(backbone):
    """A tensor image and the same picture through open_clip's PIL transform: the same features."""
    side = backbone.image_size
    picture = world.render(world.sample(1, seed=2), side)  # already at the model's size: no resampling
    pil = Image.fromarray((picture[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    prepared = backbone.preprocess(pil)[None]
    assert torch.allclose(backbone.embed_images(picture), backbone.embed_prepared(prepared), atol=1e-4)


def test_images_of_other_sizes(backbone):
    picture = world.render(world.sample(2, seed=3), 96)
    wide = torch.nn.functional.pad(picture, (30, 30), value=0.5)  # a centre crop takes the sides off again
    x, y = backbone.embed_images(picture), backbone.embed_images(wide)
    assert float(torch.nn.functional.cosine_similarity(x, y).min()) > 0.98


def test_noise_tokens(backbone):
    texts = ["a cat", "a realistic painting of a small red anchor"]
    plain = backbone.embed_texts(texts)
    assert torch.equal(backbone.embed_noised_texts(texts, n_tokens=0), plain)
    noised = {}
    for position in ("front", "middle", "end"):
        draw = lambda: torch.Generator().manual_seed(0)
        noised[position] = backbone.embed_noised_texts(texts, position=position, generator=draw())
        again = backbone.embed_noised_texts(texts, position=position, generator=draw())
        assert torch.equal(noised[position], again)
        assert float((noised[position] - plain).abs().max()) > 1e-3
    assert not torch.allclose(noised["front"], noised["end"], atol=1e-3)
    assert torch.equal(backbone.embed_texts(texts), plain), "no hook is left behind"


def test_noise_is_what_the_tower_sees():
    """Noise equal to the embedding of real tokens gives the feature of the text with these tokens."""
    backbone = backbones.load("glyph", "cpu")
    words = backbone.tokenizer(["red red"])[0, 1:3]
    values = backbone._embedding().weight[words]

    original = torch.randn
    torch.randn = lambda *shape, generator=None: values.expand(*shape)
    try:
        x = backbone.embed_noised_texts(["a cat"], n_tokens=2, std=1.0)
        y = backbone.embed_noised_texts(["a cat"], n_tokens=2, std=1.0, position="end")
    finally:
        torch.randn = original
    assert torch.allclose(x, backbone.embed_texts(["red red a cat"]), atol=1e-5)
    assert torch.allclose(y, backbone.embed_texts(["a cat red red"]), atol=1e-5)


@pytest.mark.parametrize("name", ["glyph", "ViT-B-32/random"])
@pytest.mark.parametrize("position", ["front", "middle", "end"])
def test_noise_is_put_where_it_is_said_for_each_text_its_own(name, position):
    """The whole text tower by hand: embeddings of the words, noise between them, no padding."""
    backbone = backbones.load(name, "cpu")
    texts, model = ["a cat", "a realistic painting of a red anchor"], backbone.model
    found = backbone.embed_noised_texts(texts, 3, 0.4, position, torch.Generator().manual_seed(5))
    noise = 0.4 * torch.randn(2, 3, model.token_embedding.embedding_dim, generator=torch.Generator().manual_seed(5))
    for i, text in enumerate(texts):
        ids = torch.tensor([49406, *backbone.tokenizer.encode(text), 49407])
        ids[[0, -1]] = backbone.tokenizer(["a"])[0, [0, 2]]
        words = model.token_embedding(ids)
        before = {"front": 1, "middle": 1 + (len(ids) - 2) // 2, "end": len(ids) - 1}[position]
        x = torch.cat([words[:before], noise[i], words[before:]])
        x = (x + model.positional_embedding[: len(x)])[None]
        with torch.no_grad():
            x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[: x.shape[1], : x.shape[1]]))
        assert torch.allclose(found[i], x[0, -1] @ model.text_projection, atol=1e-4)


def test_noise_is_refused_where_the_end_token_is_not_the_highest():
    """Tokenizers of SigLIP and T5 end and pad with 1, and have no start."""

    def tokenizer(texts, context_length=32):
        rows = [[30 + len(word) for word in text.split()][: context_length - 1] for text in texts]
        return torch.tensor([row + [1] * (context_length - len(row)) for row in rows])

    other = replace(backbones.load("glyph", "cpu"), tokenizer=tokenizer)
    for call in (other.embed_noised_texts, lambda texts: clap.embed_views(other, texts, 3)):
        with pytest.raises(ValueError, match="noise tokens need a tokenizer whose end token has the highest id"):
            call(["a cat", "a dog"])
    assert other.too_long(["a " * 31, "a cat", "a " * 32]) == [2], "without noise it can tell what is cut"
    assert backbones.load("glyph", "cpu").too_long(["a " * 30, "a cat", "a " * 31]) == [2]


def test_features_of_coca_are_not_normalised(tmp_path):
    text = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    vision |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    config = {"embed_dim": 32, "custom_text": True, "vision_cfg": vision, "multimodal_cfg": text}
    config["text_cfg"] = text | {"embed_cls": True, "output_tokens": True}
    (tmp_path / "tiny-coca.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    coca = backbones.load("tiny-coca/random", "cpu")
    for x in (coca.embed_images(torch.rand(2, 3, 40, 40)), coca.embed_texts(["a cat", "a dog"])):
        assert float((x.norm(dim=1) - 1).abs().min()) > 1e-3


def test_shipped_is_open_clips_own():
    """The folder loads through open_clip alone, and the small vocabulary gives the book's words CLIP's tokens."""
    ours = backbones.load("glyph", "cpu")
    folder = backbones.ASSETS / "glyph"
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    assert type(theirs).__name__ == "CLIP" and 1 < ours.scale <= 100.01
    tokens = ours.tokenizer(["a cat"])
    assert torch.allclose(theirs.encode_text(tokens), ours.embed_texts(["a cat"]), atol=1e-5)
    full = open_clip.tokenizer.SimpleTokenizer()
    for text in world.caption(world.sample(300, seed=4, objects=2)) + list(world.NOVEL):
        assert ours.tokenizer.decode(ours.tokenizer.encode(text)) == full.decode(full.encode(text))
        assert len(ours.tokenizer.encode(text)) == len(full.encode(text)) <= 26, "room for 4 noise tokens"
    assert sum(f.stat().st_size for f in backbones.ASSETS.rglob("*") if f.is_file()) < 20 * 2**20


def test_weights_id_follows_the_weights():
    a = backbones.load("ViT-B-32/random", "cpu")
    assert a.weights_id == backbones.load("ViT-B-32/random", "cpu").weights_id and len(a.weights_id) == 16
    assert a.weights_id != backbones.load("glyph", "cpu").weights_id


def test_low_precision():
    full, half = backbones.load("glyph", "cpu"), backbones.load("glyph", "cpu", precision="bf16")
    images = world.render(world.sample(8, seed=5))
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(full.embed_images(images), half.embed_images(images)).min()) > 0.99
    assert float(cosine(full.embed_texts(["a cat"]), half.embed_texts(["a cat"])).min()) > 0.99


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["glyph", "ViT-B-32/random"])
def test_gpu_agrees_with_cpu(name, precision):
    cpu, gpu = backbones.load(name, "cpu"), backbones.load(name, "cuda", precision=precision)
    images = world.render(world.sample(8, seed=6))
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(cpu.embed_images(images), gpu.embed_images(images)).min()) > 0.99
    assert float(cosine(cpu.embed_texts(["a cat"]), gpu.embed_texts(["a cat"])).min()) > 0.99


def test_quickgelu_mismatch_is_an_error():
    """Weights trained with QuickGELU in an architecture without it: open_clip warns, we stop, before the download."""
    with pytest.raises(ValueError, match="QuickGELU mismatch.* use the '-quickgelu' architecture"):
        backbones.load("ViT-B-32/openai", "cpu")


def test_no_network_is_one_clear_line(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="backbone 'ViT-B-32-quickgelu/openai' could not be fetched") as error:
        backbones.load("ViT-B-32-quickgelu/openai", "cpu")
    assert "\n" not in str(error.value)


def test_broken_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="no open_clip_config.json"):
        backbones.load(f"local-dir:{tmp_path}")
    shutil.copytree(backbones.ASSETS / "glyph", tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "open_clip_config.json").read_text())
    assert backbones.load(f"local-dir:{tmp_path / 'copy'}", "cpu").dim == config["model_cfg"]["embed_dim"]
    weights, vocabulary = (tmp_path / "copy" / name for name in ("open_clip_model.safetensors", "vocabulary.txt.gz"))
    for path, content, message in (
        (vocabulary, None, "a vocabulary of 49408 and weights for 4096 words; is there a vocabulary.txt.gz"),
        (vocabulary, b"junk", ""),
        (weights, weights.read_bytes()[:1000], ""),
        (weights, b"", ""),
        (weights, None, "no weights .* in the folder .*copy"),
    ):
        whole = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^backbone 'local-dir:.*copy'(:| could not be).*{message}") as error:
            backbones.load(f"local-dir:{tmp_path / 'copy'}", "cpu")
        assert "\n" not in str(error.value)
        path.write_bytes(whole)


def test_what_cannot_be_loaded_is_named_before_any_download(monkeypatch):
    for arguments, message in (
        ((None,), "name must be a str, got None"),
        (("glyph", "cdua"), "device must be one that torch can use here, such as 'cpu', got 'cdua'"),
        (("glyph", 3.5), "device must be one that torch can use here, such as 'cpu', got 3.5"),
    ):
        with pytest.raises(ValueError, match=message):
            backbones.load(*arguments)
    with pytest.raises(ValueError, match="precision must be one of fp32, fp16, bf16, got 'fp31'"):
        backbones.load("glyph", "cpu", precision="fp31")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="backbone 'ViT-B-16-SigLIP/webli' needs the package 'transformers'"):
        backbones.load("ViT-B-16-SigLIP/webli", "cpu")


@pytest.mark.parametrize("name", ["gliph", "ViT-B-32/opnai", "ViT-B-32", ""])
def test_unknown_backbone(name):
    with pytest.raises(ValueError, match="backbone .* is unknown; expected one of glyph"):
        backbones.load(name)


def test_bad_input_names_the_argument():
    backbone = backbones.load("glyph", "cpu")
    good = world.render(world.sample(2))
    for images, message in (
        (good[0], r"images must be a tensor \(n, 3, h, w\)"),
        (good * 255, r"images must be .* in \[0, 1\]"),
        (torch.full_like(good, float("nan")), "images must be .* finite"),
        ((good * 255).byte(), "images must be floating point"),
        (good[:0], "n > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone.embed_images(images)
    for texts in ("a cat", [], [3]):
        with pytest.raises(ValueError, match="texts must be a list"):
            backbone.embed_texts(texts)
    with pytest.raises(ValueError, match="batch_size must be an int of at least 1, got 0"):
        backbone.embed_texts(["a cat"], batch_size=0)
    long = "a " * 27
    with pytest.raises(ValueError, match=r"texts\[1\] = 'a a .* exceeds the context of 32"):
        backbone.embed_noised_texts(["a cat", long])
    for arguments in ({"n_tokens": -1}, {"std": float("nan")}, {"std": "a"}, {"position": "left"}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            backbone.embed_noised_texts(["a cat"], **arguments)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda' asked for"):
            backbones.load("glyph", "cuda")


@pytest.mark.parametrize("name", ["glyph", "ViT-B-32/random"])
def test_short_texts_are_encoded_short_and_exactly(name):
    """Padding is left out of the computation, noise tokens included, and the tower is as it was afterwards."""
    backbone = backbones.load(name, "cpu")
    texts = ["a cat", "an impressionistic photograph of a normal sized multicolored umbrella!~a"]
    tokens = backbone.tokenizer(texts)[1]
    assert (tokens[: tokens.argmax()] == 0).any(), "the id of padding is also that of an exclamation mark"
    seen = []
    handle = backbone.model.token_embedding.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    found = backbone.embed_texts(texts)
    noised = backbone.embed_noised_texts(texts, generator=torch.Generator().manual_seed(0))
    whole = backbone.model.encode_text(backbone.tokenizer(texts))
    handle.remove()
    context = backbone.model.context_length
    assert max(seen[:2]) < context and seen[2] == context == len(backbone.model.positional_embedding)
    assert torch.allclose(found, whole, atol=1e-5)
    alone = backbone.embed_noised_texts(texts[:1], generator=torch.Generator().manual_seed(0))
    assert torch.allclose(alone[0], noised[0], atol=1e-5), "how short depends on the batch, the result does not"
