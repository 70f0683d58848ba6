"""Text becomes token files with a manifest, and token files become batches.

prepare(["speeches.txt"], tokenizer="small", out="tokens")      ->  a Manifest
Corpus.open("tokens").split("train")                            ->  token ids on disk, checked
Loader([...], length=256, batch=16, seed=0).batch(step)         ->  (16, 257) ids, the same on any world size
"""

from grow.data.corpus import Corpus, Manifest, Tokens
from grow.data.loader import Loader
from grow.data.preparing import prepare

__all__ = ["Corpus", "Loader", "Manifest", "Tokens", "prepare"]
