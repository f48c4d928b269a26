"""Tiny seeded networks of every family, written to directories as the hub would have them.

Each builder takes a directory, fills it, and returns a function that embeds one sample by a plain loop over the
underlying library, with its own preprocessing and without anything of ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import tokenizers
import torch
import torchaudio
import transformers as tf
from PIL import Image
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

Plain = Callable[[Any], np.ndarray]

# -- texts ------------------------------------------------------------------------------------------------

CORPUS = [
    "the cat sat on the mat and looked at the moon",
    "interest rates rose again, and nobody was surprised",
    "a quick brown fox jumps over the lazy dog",
    "def fit(self, X, y=None): return self",
    "the contract ends in december unless it is renewed",
]
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def _wordpiece(directory: Path) -> int:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # Switched on in the file, as all-MiniLM-L6-v2 has it: it must not cut what we read.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return _save(tokenizer, directory, **names)


def _byte_level(directory: Path, *, around: bool) -> int:
    """Byte-level BPE, with <s> and </s> around a text as RoBERTa has it, or nothing as GPT-2."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if not around:
        return _save(tokenizer, directory, eos_token="</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _save(tokenizer, directory, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def _unigram(directory: Path, *, start: bool) -> int:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>", "<s>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if start else "$A </s>", special_tokens=[("<s>", 3), ("</s>", 1)]
    )
    return _save(tokenizer, directory, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _save(tokenizer, directory: Path, **names: str) -> int:
    tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=10**9, **names).save_pretrained(directory)
    return tokenizer.get_vocab_size()


def _build(cls, config, directory: Path):
    torch.manual_seed(0)
    module = cls(config).eval()
    # Untrained norms are all ones and zeros, which would hide a forgotten one.
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    module.save_pretrained(directory)
    return module


def _text(directory: Path, cls, config, pool: Callable, reload=None) -> Plain:
    """Plain loop: one text at a time, the tokenizer's own call, the model's own output."""
    saved = _build(cls, config, directory)
    module = (reload or cls).from_pretrained(directory).eval() if reload else saved
    tokenizer = tf.AutoTokenizer.from_pretrained(directory)

    def plain(text: str) -> np.ndarray:
        batch = tokenizer(text, return_tensors="pt", truncation=False, padding=False)
        with torch.no_grad():
            return pool(module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])).numpy()

    return plain


def _mean(output):
    return output.last_hidden_state[0].mean(0)


def _last(output):
    return output.last_hidden_state[0, -1]


def bert(directory):
    config = tf.BertConfig(vocab_size=_wordpiece(directory), max_position_embeddings=64, **SIZES)
    return _text(directory, tf.BertForMaskedLM, config, _mean, tf.BertModel)


def mbert(directory):
    config = tf.BertConfig(vocab_size=_unigram(directory, start=True), max_position_embeddings=64, **SIZES)
    return _text(directory, tf.BertModel, config, _mean)


def roberta(directory):
    size = _byte_level(directory, around=True)
    config = tf.RobertaConfig(vocab_size=size, max_position_embeddings=66, pad_token_id=1, type_vocab_size=1, **SIZES)
    return _text(directory, tf.RobertaModel, config, _mean)


def xlm_roberta(directory):
    size = _unigram(directory, start=True)
    config = tf.XLMRobertaConfig(
        vocab_size=size, max_position_embeddings=66, pad_token_id=0, type_vocab_size=1, **SIZES
    )
    return _text(directory, tf.XLMRobertaModel, config, _mean)


def deberta(directory):
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}
    config = tf.DebertaConfig(vocab_size=_wordpiece(directory), max_position_embeddings=64, **relative, **SIZES)
    return _text(directory, tf.DebertaModel, config, _mean)


def deberta_v3(directory):
    relative = {
        "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False,
    }  # fmt: skip
    config = tf.DebertaV2Config(
        vocab_size=_unigram(directory, start=True), max_position_embeddings=64, **relative, **SIZES
    )
    return _text(directory, tf.DebertaV2Model, config, _mean)


def sentence_transformers(directory):
    """MiniLM's layout: BERT, a pooling module, a normalising one."""
    config = tf.BertConfig(vocab_size=_wordpiece(directory), max_position_embeddings=64, **SIZES)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40}))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )

    def cls_and_normalise(output):
        return torch.nn.functional.normalize(output.last_hidden_state[0, 0], dim=0)

    return _text(directory, tf.BertModel, config, cls_and_normalise)


def t5_encoder(directory):
    size = _unigram(directory, start=False)
    config = tf.T5Config(
        vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2, decoder_start_token_id=0
    )
    return _text(directory, tf.T5ForConditionalGeneration, config, _mean, tf.T5EncoderModel)


def gpt2(directory):
    size = _byte_level(directory, around=False)
    config = tf.GPT2Config(
        vocab_size=size, n_embd=16, n_layer=3, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=2
    )
    return _text(directory, tf.GPT2LMHeadModel, config, _last, tf.GPT2Model)


def llama(directory):
    size = _byte_level(directory, around=False)
    config = tf.LlamaConfig(vocab_size=size, max_position_embeddings=64, bos_token_id=0, eos_token_id=2, **SIZES)
    return _text(directory, tf.LlamaForCausalLM, config, _last, tf.LlamaModel)


def clip_text(directory):
    size = _byte_level(directory, around=True)
    tower = {
        **SIZES,
        "vocab_size": size,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    config = tf.CLIPConfig(text_config=tower, vision_config={**SIZES, "image_size": 16, "patch_size": 8})
    return _text(directory, tf.CLIPModel, config, lambda output: output.pooler_output[0], tf.CLIPTextModel)


TEXTS = {
    "bert": bert, "mbert": mbert, "roberta": roberta, "xlm_roberta": xlm_roberta, "deberta": deberta,
    "deberta_v3": deberta_v3, "sentence_transformers": sentence_transformers, "t5_encoder": t5_encoder,
    "gpt2": gpt2, "llama": llama, "clip_text": clip_text,
}  # fmt: skip

# -- images -----------------------------------------------------------------------------------------------


def _timm(directory: Path, architecture: str, size: int, **model_args) -> Plain:
    torch.manual_seed(0)
    module = timm.create_model(architecture, pretrained=False, num_classes=5, **model_args).eval()
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    config = {**module.pretrained_cfg, "input_size": (3, size, size), "num_classes": 5, "crop_pct": 0.9}
    config = {key: value for key, value in config.items() if key not in ("url", "hf_hub_id", "architecture", "file")}
    (directory / "config.json").write_text(
        json.dumps(
            {
                "architecture": architecture,
                "num_classes": 5,
                "model_args": model_args,
                "pretrained_cfg": config,
            }
        )
    )
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, directory / "model.safetensors")
    module.reset_classifier(0)
    data = timm.data.resolve_data_config(pretrained_cfg=config)
    transform = timm.data.create_transform(**data, is_training=False)

    def plain(image) -> np.ndarray:
        with torch.no_grad():
            return module(transform(image)[None])[0].numpy()

    return plain


def timm_resnet(directory):
    return _timm(directory, "test_resnet", 64)


def timm_efficientnet(directory):
    return _timm(directory, "test_efficientnet", 64)


def timm_convnext(directory):
    return _timm(directory, "test_convnext", 64)


def timm_vit(directory):
    return _timm(directory, "test_vit", 64, img_size=64)


def timm_dinov2(directory):
    arguments = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 56}
    return _timm(directory, "vit_small_patch14_reg4_dinov2", 56, **arguments)


def timm_swin(directory):
    arguments = {
        "embed_dim": 8,
        "depths": [1, 2, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "img_size": 64,
        "window_size": 4,
    }
    return _timm(directory, "swin_tiny_patch4_window7_224", 64, **arguments)


def timm_clip(directory):
    arguments = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64}
    return _timm(directory, "vit_base_patch16_clip_224", 64, **arguments)


def timm_siglip(directory):
    arguments = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64}
    return _timm(directory, "vit_base_patch16_siglip_224", 64, **arguments)


VISION = {**SIZES, "image_size": 32, "patch_size": 8}


def _image(directory: Path, cls, config, processor, pool: Callable, reload=None, **load) -> Plain:
    saved = _build(cls, config, directory)
    processor.save_pretrained(directory)
    module = reload.from_pretrained(directory, **load).eval() if reload else saved

    def plain(image) -> np.ndarray:
        with torch.no_grad():
            return pool(module(processor(image, return_tensors="pt")["pixel_values"])).numpy()

    return plain


def _pooler(output):
    return output.pooler_output[0].flatten()


def _exact(size: int):
    return tf.ViTImageProcessorPil(size={"height": size, "width": size})


def _clip_processor():
    return tf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def hf_resnet(directory):
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 2, 1], layer_type="basic")
    return _image(directory, tf.ResNetModel, config, tf.ConvNextImageProcessorPil(size={"shortest_edge": 48}), _pooler)


def hf_convnext(directory):
    config = tf.ConvNextConfig(num_stages=3, hidden_sizes=[8, 16, 24], depths=[1, 2, 1])
    return _image(
        directory, tf.ConvNextModel, config, tf.ConvNextImageProcessorPil(size={"shortest_edge": 48}), _pooler
    )


def hf_vit(directory):
    return _image(
        directory,
        tf.ViTModel,
        tf.ViTConfig(**VISION),
        _exact(32),
        lambda output: output.last_hidden_state[0, 0],
    )


def hf_dinov2(directory):
    config = tf.Dinov2Config(**{**VISION, "mlp_ratio": 2})
    return _image(directory, tf.Dinov2Model, config, _clip_processor(), _pooler)


def hf_dinov2_registers(directory):
    config = tf.Dinov2WithRegistersConfig(**{**VISION, "mlp_ratio": 2}, num_register_tokens=2)
    return _image(directory, tf.Dinov2WithRegistersModel, config, _clip_processor(), _pooler)


def hf_swin(directory):
    config = tf.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 2, 1], num_heads=[1, 2, 2], window_size=4
    )
    return _image(directory, tf.SwinModel, config, _exact(64), _pooler)


def hf_clip(directory):
    config = tf.CLIPConfig(text_config={**SIZES, "vocab_size": 50}, vision_config=VISION)
    return _image(directory, tf.CLIPModel, config, _clip_processor(), _pooler, tf.CLIPVisionModel)


def hf_clip_tower(directory):
    return _image(directory, tf.CLIPVisionModel, tf.CLIPVisionConfig(**VISION), _clip_processor(), _pooler)


def hf_siglip(directory):
    config = tf.SiglipConfig(text_config={**SIZES, "vocab_size": 50}, vision_config=VISION)
    processor = tf.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return _image(directory, tf.SiglipModel, config, processor, _pooler, tf.SiglipVisionModel)


IMAGES = {
    "timm_resnet": timm_resnet, "timm_efficientnet": timm_efficientnet, "timm_convnext": timm_convnext,
    "timm_vit": timm_vit, "timm_dinov2": timm_dinov2, "timm_swin": timm_swin, "timm_clip": timm_clip,
    "timm_siglip": timm_siglip, "hf_resnet": hf_resnet, "hf_convnext": hf_convnext, "hf_vit": hf_vit,
    "hf_dinov2": hf_dinov2, "hf_dinov2_registers": hf_dinov2_registers, "hf_swin": hf_swin, "hf_clip": hf_clip,
    "hf_clip_tower": hf_clip_tower, "hf_siglip": hf_siglip,
}  # fmt: skip

# -- recordings -------------------------------------------------------------------------------------------

FRONT_END = {
    "conv_dim": (8, 8, 8), "conv_kernel": (10, 8, 8), "conv_stride": (8, 8, 5), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def _waveform(directory: Path, cls, config_cls, **config) -> Plain:
    module = _build(cls, config_cls(**SIZES, **FRONT_END, **config), directory)
    extractor = tf.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    extractor.save_pretrained(directory)

    def plain(clip) -> np.ndarray:
        values = extractor(clip, sampling_rate=16000, return_tensors="pt")["input_values"]
        with torch.no_grad():
            return module(values).last_hidden_state[0].mean(0).numpy()

    return plain


def wav2vec2(directory):
    return _waveform(directory, tf.Wav2Vec2Model, tf.Wav2Vec2Config)


def wav2vec2_stable(directory):
    return _waveform(directory, tf.Wav2Vec2Model, tf.Wav2Vec2Config, **STABLE)


def hubert(directory):
    return _waveform(directory, tf.HubertModel, tf.HubertConfig)


def hubert_stable(directory):
    return _waveform(directory, tf.HubertModel, tf.HubertConfig, **STABLE)


def wavlm(directory):
    return _waveform(directory, tf.WavLMModel, tf.WavLMConfig)


def wavlm_stable(directory):
    return _waveform(directory, tf.WavLMModel, tf.WavLMConfig, **STABLE)


def whisper(directory):
    config = tf.WhisperConfig(
        vocab_size=60, d_model=16, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_target_positions=20, num_mel_bins=80,
        pad_token_id=1, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2,
    )  # fmt: skip
    module = _build(tf.WhisperForConditionalGeneration, config, directory).model.encoder
    extractor = tf.WhisperFeatureExtractor(feature_size=80)
    extractor.save_pretrained(directory)

    def plain(clip) -> np.ndarray:
        features = extractor(clip, sampling_rate=16000, return_tensors="pt")["input_features"]
        with torch.no_grad():
            return module(features).last_hidden_state[0, : -(-len(clip) // 320)].mean(0).numpy()

    return plain


def ast(directory):
    config = tf.ASTConfig(max_length=128, num_mel_bins=32, **SIZES)
    module = _build(tf.ASTModel, config, directory)
    extractor = tf.ASTFeatureExtractor(max_length=128, num_mel_bins=32)
    extractor.save_pretrained(directory)

    def plain(clip) -> np.ndarray:
        with torch.no_grad():
            return (
                module(extractor(clip, sampling_rate=16000, return_tensors="pt")["input_values"])
                .pooler_output[0]
                .numpy()
            )

    return plain


def torchaudio_arguments(builder: str, mode: str) -> dict[str, Any]:
    """What builds a tiny model with torchaudio's own function."""
    arguments: dict[str, Any] = {
        "extractor_mode": mode, "extractor_conv_layer_config": [[8, 10, 8], [8, 8, 8], [8, 8, 5]],
        "extractor_conv_bias": False, "encoder_embed_dim": 16, "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 16, "encoder_pos_conv_groups": 2, "encoder_num_layers": 3, "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.1, "encoder_ff_interm_features": 32, "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.1, "encoder_layer_norm_first": mode == "layer_norm", "encoder_layer_drop": 0.05,
        "aux_num_out": None,
    }  # fmt: skip
    if builder == "wavlm_model":
        arguments |= {"encoder_num_buckets": 32, "encoder_max_distance": 80}
    return arguments


def _torchaudio(directory: Path, builder: str, mode: str) -> Plain:
    torch.manual_seed(0)
    arguments = torchaudio_arguments(builder, mode)
    module = getattr(torchaudio.models, builder)(**arguments).eval()
    normalise = mode == "layer_norm"
    config = {
        "library_name": "torchaudio",
        "builder": builder,
        "args": arguments,
        "sampling_rate": 16000,
        "normalize": normalise,
    }
    (directory / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, directory / "model.safetensors")

    def plain(clip) -> np.ndarray:
        waveform = torch.from_numpy(clip)[None]
        if normalise:
            waveform = torch.nn.functional.layer_norm(waveform, waveform.shape)
        with torch.no_grad():
            return module(waveform)[0][0].mean(0).numpy()

    return plain


def torchaudio_wav2vec2(directory):
    return _torchaudio(directory, "wav2vec2_model", "group_norm")


def torchaudio_wav2vec2_large(directory):
    return _torchaudio(directory, "wav2vec2_model", "layer_norm")


def torchaudio_wavlm(directory):
    return _torchaudio(directory, "wavlm_model", "group_norm")


AUDIO = {
    "wav2vec2": wav2vec2, "wav2vec2_stable": wav2vec2_stable, "hubert": hubert, "hubert_stable": hubert_stable,
    "wavlm": wavlm, "wavlm_stable": wavlm_stable, "whisper": whisper, "ast": ast,
    "torchaudio_wav2vec2": torchaudio_wav2vec2, "torchaudio_wav2vec2_large": torchaudio_wav2vec2_large,
    "torchaudio_wavlm": torchaudio_wavlm,
}  # fmt: skip

BUILDERS: dict[str, Callable[[Path], Plain]] = {**TEXTS, **IMAGES, **AUDIO}
MODALITY = {
    name: modality for modality, names in (("text", TEXTS), ("image", IMAGES), ("audio", AUDIO)) for name in names
}


def samples(modality: str) -> list[Any]:
    """Five distinct valid samples of different lengths or sizes."""
    rng = np.random.default_rng(0)
    if modality == "text":
        return ["cat", "the moon rose again and again over the lazy dog", "Ünï 🙂", "fit(X, y)", CORPUS[1]]
    if modality == "image":
        sizes = [(70, 90), (64, 64), (90, 71), (40, 33), (101, 67)]
        return [Image.fromarray(rng.integers(0, 256, size=(h, w, 3), dtype=np.uint8)) for h, w in sizes]
    return [(0.1 * rng.normal(size=n)).astype(np.float32) for n in (4000, 8000, 8000, 12345, 6401)]
