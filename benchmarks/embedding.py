"""Embeddings side by side: microseconds a call against how well the families of a workload can be told apart.

    python benchmarks/embedding.py --data DIR [--train 300] [--model2vec FOLDER] [--minilm MODEL.onnx TOKENIZER.json]

Fits on `train` rows, judges on `dev` rows, by the text alone. `accuracy`: the family by a linear discriminant on the
vector, for every kind the same. `auroc`: a family left out of the fit (its words too, where the embedder is fitted)
against the others, by the cosine to the nearest fitted call; the mean over rotations. Optional kinds that are not
installed say so. MiniLM needs onnxruntime and tokenizers, a static model needs model2vec: development only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from pipelines.classifier_models import FitOptions, gather, uncalibrated
from pipelines.classifier_rows import LabelledCall
from pipelines.fit_embedder import fit_embedder
from pipelines.workload import Workload
from specialists.contexts import Fixed
from specialists.embedder import hashing_embedder

Embed = Callable[[str], Any]
Maker = Callable[[Sequence[str]], Embed]
"""Makes an embedding from the texts of a fit; most ignore them."""

FAMILIES = (
    *(f"intent_{domain}" for domain in ("auto_and_commute", "banking", "home", "kitchen_and_dining")),
    *(f"intent_{domain}" for domain in ("meta", "small_talk", "travel", "utility")),
    *("labels_banking", "ticket_triage", "voice_tools"),
)


def model2vec_maker(folder: str) -> Maker:
    """A static model of model2vec."""
    from model2vec import StaticModel  # noqa: PLC0415

    model = StaticModel.from_pretrained(folder)
    return lambda texts: lambda text: model.encode([text])[0]


def minilm_maker(model: str, tokenizer: str) -> Maker:
    """MiniLM as ONNX on one thread, mean of the tokens' states, 256 tokens at most."""
    import onnxruntime  # noqa: PLC0415
    from tokenizers import Tokenizer  # noqa: PLC0415

    cut = Tokenizer.from_file(tokenizer)
    cut.enable_truncation(256)
    cut.no_padding()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, settings)

    def embed(text: str) -> Any:
        ids = np.array([cut.encode(text).ids], dtype=np.int64)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        wanted = {name.name: given[name.name] for name in session.get_inputs()}
        return session.run(None, wanted)[0][0].mean(axis=0)

    return lambda texts: embed


def vectors(embed: Embed, texts: Sequence[str]) -> Any:
    """The texts' vectors, of length 1."""
    found = np.stack([np.asarray(embed(text), dtype=np.float64) for text in texts])
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def accuracy(train: Any, labels: Any, dev: Any, dev_labels: Any) -> float:
    """Of a linear discriminant with a shared, shrunken covariance."""
    names = sorted(set(labels))
    means = np.stack([train[labels == name].mean(axis=0) for name in names])
    centred = train - means[np.searchsorted(names, labels)]
    covariance = centred.T @ centred / len(train)
    covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weights = np.linalg.solve(covariance, means.T).T
    scores = dev @ weights.T - 0.5 * np.einsum("ij,ij->i", weights, means)
    return float(np.mean(np.array(names)[scores.argmax(axis=1)] == dev_labels))


def times_us(embed: Embed, texts: Sequence[str], rounds: int) -> tuple[float, float]:
    """p50 and p99 of one call, thread time."""
    took = []
    for n in range(rounds):
        started = time.thread_time_ns()
        embed(texts[n % len(texts)])
        took.append((time.thread_time_ns() - started) / 1e3)
    return float(np.median(took)), float(np.quantile(took, 0.99))


def judged(name: str, make: Maker, rows: dict[str, Any], is_fitted: bool) -> None:
    """Print one line of the table."""
    train, labels, dev, dev_labels = rows["train"], rows["labels"], rows["dev"], rows["dev_labels"]
    embed = make(train)
    train_vectors, dev_vectors = vectors(embed, train), vectors(embed, dev)
    right = accuracy(train_vectors, labels, dev_vectors, dev_labels)
    found = []
    for family in sorted(set(labels)):
        rest = labels != family
        if is_fitted:
            part = make([text for text, keep in zip(train, rest, strict=True) if keep])
            near, far = (
                vectors(part, [text for text, keep in zip(train, rest, strict=True) if keep]),
                vectors(part, dev),
            )
        else:
            near, far = train_vectors[rest], dev_vectors
        found.append(roc_auc_score(dev_labels == family, -(far @ near.T).max(axis=1)))
    rounds = 300 if name.startswith("MiniLM") else 3_000
    short, long = times_us(embed, dev, rounds), times_us(embed, rows["long"], rounds // 3)
    cells = "".join(f"{value:>9.0f}" for value in (*short, *long))
    print(f"{name:<28}{train_vectors.shape[1]:>5}{cells}{right:>10.3f}{np.mean(found):>8.3f}", flush=True)


def classifier_line(rows: dict[str, Any]) -> None:
    """The learned classifier's own evidence (words, pairs and vector), for comparison."""
    calls = [LabelledCall(str(label), text) for text, label in zip(rows["train"], rows["labels"], strict=True)]
    options = FitOptions()
    whole = uncalibrated(gather(calls, options), options)
    right = np.mean(
        [whole.posterior(text).nearest == name for text, name in zip(rows["dev"], rows["dev_labels"], strict=True)]
    )
    found = []
    for family in sorted(set(rows["labels"])):
        part = uncalibrated(gather([call for call in calls if call.cluster != family], options), options)
        gains = []
        for text in rows["dev"]:
            words = part.parts(text, Fixed()).words
            gains.append(words.sums.max() / max(words.count, 1) ** 0.5)
        found.append(roc_auc_score(rows["dev_labels"] == family, -np.array(gains)))
    short, long = times_us(whole.posterior, rows["dev"], 3_000), times_us(whole.posterior, rows["long"], 1_000)
    cells = "".join(f"{value:>9.0f}" for value in (*short, *long))
    print(f"{'the whole classifier, mixed':<28}{'-':>5}{cells}{right:>10.3f}{np.mean(found):>8.3f}", flush=True)


def main() -> None:
    """Measure every kind and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--train", type=int, default=300, help="train rows of each family")
    parser.add_argument("--model2vec", default="", metavar="FOLDER")
    parser.add_argument("--minilm", nargs=2, default=("", ""), metavar=("MODEL", "TOKENIZER"))
    given = parser.parse_args()
    rows = read(Workload.load(given.data), given.train)
    print(f"{len(rows['train'])} train and {len(rows['dev'])} dev texts of {len(set(rows['labels']))} families")
    print(f"{'':<28}{'dim':>5}{'p50 us':>9}{'p99':>9}{'8kB p50':>9}{'p99':>9}{'accuracy':>10}{'auroc':>8}")
    for size in (64, 256):
        judged(f"hashed, random projection {size}", lambda _, size=size: hashing_embedder(size).embed, rows, False)
    for size in (32, 64, 128, 256):
        judged(f"TF-IDF + SVD {size}", lambda texts, size=size: fit_embedder(texts, size).embed, rows, True)
    for name, folder, make in (
        ("model2vec", given.model2vec, lambda: model2vec_maker(given.model2vec)),
        ("MiniLM, ONNX int8", given.minilm[0], lambda: minilm_maker(*given.minilm)),
    ):
        try:
            if not folder:
                raise ImportError("no model named")
            judged(name, make(), rows, False)
        except ImportError as error:
            print(f"{name:<28} not installed ({error})")
    classifier_line(rows)


def read(workload: Workload, at_most: int) -> dict[str, Any]:
    """The first `at_most` train rows of each family and up to 150 of its dev rows; out-of-scope rows are left out."""
    rows: dict[str, Any] = {"train": [], "labels": [], "dev": [], "dev_labels": []}
    for family in (family for family in FAMILIES if family in workload.families):
        for split, names, most in (("train", "labels", at_most), ("dev", "dev_labels", 150)):
            found = [row.text for row in workload.rows([family], [split]) if row.expected != {"intent": "oos"}]
            rows[split] += found[:most]
            rows[names] += [family] * len(found[:most])
    if not rows["train"]:
        sys.exit("none of the families is in this workload")
    rows["labels"], rows["dev_labels"] = np.array(rows["labels"]), np.array(rows["dev_labels"])
    joined = " ".join(rows["train"])
    rows["long"] = [joined[at : at + 8_192] for at in range(0, min(len(joined), 200_000) - 8_192, 8_192)]
    return rows


if __name__ == "__main__":
    main()
