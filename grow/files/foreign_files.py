"""Files that are not safetensors, told by their first bytes or their names, and what to do with each."""

from __future__ import annotations

PICKLE_FIX = """convert it once (tensors alone are read), and copy the tokenizer's files beside it:
python -c "import transformers as t; c = t.AutoConfig.from_pretrained('SRC')
getattr(t, c.architectures[0]).from_pretrained('SRC').save_pretrained('DST')\""""
AGAIN = "download or copy the file again (hf download ORG/NAME --force-download)"
FOREIGN: dict[bytes, tuple[str, str]] = {
    b"PK\x03\x04": ("a zip archive as torch.save writes it (a pickle), not safetensors", PICKLE_FIX),
    **{bytes((0x80, n)): ("a pickle, not safetensors", PICKLE_FIX) for n in range(2, 6)},
    b"GGUF": ("a GGUF file, not safetensors", "use the unquantised safetensors checkpoint it was made from"),
    b"\x89HDF": ("an HDF5 file as Keras writes it, not safetensors", PICKLE_FIX),
    b"version https://": ("a Git LFS pointer, not the weights", "git lfs pull"),
    b"<": ("an HTML or XML page, not safetensors: a failed download", AGAIN),
}

OTHER_WEIGHTS = {
    "*.gguf": ("GGUF weights only", "use the unquantised safetensors checkpoint that they were made from"),
    "*.bin": ("pickled weights only", PICKLE_FIX),
    "*.bin.index.json": ("pickled weights only", PICKLE_FIX),
    "*.pt": ("pickled weights only", PICKLE_FIX),
    "*.pth": ("pickled weights only", PICKLE_FIX),
    "*.ckpt": ("pickled weights only", PICKLE_FIX),
    "*.h5": ("Keras weights only", "use the safetensors version of the checkpoint"),
    "*.msgpack": ("Flax weights only", "use the safetensors version of the checkpoint"),
    "*.onnx": ("ONNX weights only", "use the safetensors checkpoint that they were exported from"),
}
